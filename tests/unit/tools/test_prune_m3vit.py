"""Cutting an M3ViT's decoders: work is counted as it is, and what is least useful goes first."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from support.m3vit import tiny

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

from prune_m3vit import MULTIPLE, choose_widths, decoder_macs, decoder_of  # noqa: E402

from edgemtl.exporting.module_cost import module_costs  # noqa: E402

WIDTH = 4 * MULTIPLE


def test_the_work_of_a_decoder_is_what_the_counter_says() -> None:
    network = tiny(decoder_width=24)
    counted = {part.module: part.macs for part in module_costs(network).modules}
    for task in network.tasks:
        decoder = decoder_of(network, task.name)
        widths = [stage.conv.out_channels for stage in decoder.stages]
        macs = decoder_macs(24, widths, decoder.classifier.out_channels, decoder.grid)
        assert macs == counted[f"decoders.{task.name}"]


def test_enough_is_saved_where_it_costs_least() -> None:
    network = tiny(decoder_width=WIDTH)
    stages = len(decoder_of(network, "rooms").stages)
    useful = {task.name: [torch.full((WIDTH,), 1.0)] * stages for task in network.tasks}
    useful["rooms"] = [torch.full((WIDTH,), 1e-3)] * stages
    before = module_costs(network).tasks["rooms"].macs
    widths = choose_widths(network, useful, before // 4)
    assert widths["distance"] == widths["facing"] == [WIDTH] * stages
    assert min(widths["rooms"]) >= MULTIPLE and sum(widths["rooms"]) < stages * WIDTH
    with pytest.raises(SystemExit, match="cannot save that much"):
        choose_widths(network, useful, module_costs(network).macs)
