"""M3ViT through the expert schedules, modelled."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support.m3vit import TASKS, tiny

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.fpga.m3vit import encoder_of, task_works
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.errors import StageFailed
from edgemtl.exporting.module_cost import module_costs
from edgemtl.models.m3vit.network import M3ViT
from edgemtl.report.designs import print_plan


def test_the_work_of_a_task_is_that_of_the_network() -> None:
    network = tiny()
    for task in network.tasks:
        counted = module_costs(network).tasks[task.name].macs
        assert sum(w.macs for w in task_works(network, task.name)) == pytest.approx(
            counted, rel=0.01
        )


def test_each_layer_reads_what_the_one_before_wrote() -> None:
    works = task_works(tiny(), "distance")
    for before, after in pairwise(works):
        assert after.inputs == (before.output,)
        assert after.input_bytes == (before.output_bytes,)


def test_the_published_small_network_has_the_published_work() -> None:
    tasks = [
        {
            "name": "seg",
            "kind": "segmentation",
            "options": {"classes": [str(i) for i in range(40)]},
        },
        {"name": "depth", "kind": "depth"},
    ]
    network = M3ViT(tasks=tasks, variant="small", size=(480, 640), dim=384)
    giga = {task: sum(w.macs for w in task_works(network, task)) / 1e9 for task in ("seg", "depth")}
    assert giga["seg"] == pytest.approx(100.50, abs=0.01)
    assert giga["depth"] == pytest.approx(99.73, abs=0.01)
    assert encoder_of(network).expert_bytes == 295_680


def test_reordering_takes_least_memory_and_costs_no_time() -> None:
    found = registry.get("fpga").modelled(Path("unread"), targets.load("zcu104"), tiny(dim=96))
    assert found is not None
    assert found["task"] == TASKS[0]["name"]
    rows = found["schedules"]
    assert set(rows) == {"reordered", "cached", "resident"}
    memory = {name: row["expert_memory_bytes"] for name, row in rows.items()}
    assert memory["reordered"] < memory["cached"] < memory["resident"]
    assert rows["cached"]["latency_ms"] > rows["reordered"]["latency_ms"]
    assert rows["reordered"]["latency_ms"] >= rows["resident"]["latency_ms"]
    told = io.StringIO()
    print_plan(Console(file=told, width=100), "zcu104", found, every_layer=False)
    assert "modelled (task rooms)" in told.getvalue()
    assert "expert schedules, modelled, even routing" in told.getvalue()


def cut_at(network: M3ViT, name: str, width: int) -> M3ViT:
    groups = channel_groups(network)
    total = next(group.width for group in groups if group.name == name)
    smaller = cut(network, {name: torch.arange(total) < width}, groups)
    assert isinstance(smaller, M3ViT)
    return smaller


def test_pruned_decoders_are_modelled_as_they_are() -> None:
    network = tiny()
    smaller = cut_at(network, "decoders.distance.stages.1.conv", 1)
    before, after = (sum(w.macs for w in task_works(n, "distance")) for n in (network, smaller))
    counted = module_costs(smaller).tasks["distance"].macs
    assert after < before and after == pytest.approx(counted, rel=0.01)


def test_a_pruned_backbone_is_refused() -> None:
    network = cut_at(tiny(), "backbone.blocks.0.mlp.fc1", 8)
    with pytest.raises(StageFailed, match="backbone was pruned"):
        encoder_of(network)
