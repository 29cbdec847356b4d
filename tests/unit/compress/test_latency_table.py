"""The width -> ms table, with a stopwatch that counts parameters instead of time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.dense_family import TinyDense

from edgemtl import targets
from edgemtl.compress import latency_table
from edgemtl.compress.groups import channel_groups
from edgemtl.compress.latency_table import LatencyTable, cached_table, measure_table
from edgemtl.errors import InputRefused
from edgemtl.models.base import MultiTaskNetwork


def _size(network: MultiTaskNetwork) -> float:
    return float(sum(p.numel() for p in network.parameters()))


def _stopwatch(a: MultiTaskNetwork, b: MultiTaskNetwork) -> tuple[float, float, float]:
    return _size(a) / 1000, _size(a) / _size(b), 0.01


def test_prediction_follows_what_was_measured() -> None:
    network = TinyDense()
    groups = channel_groups(network)
    table = measure_table(network, groups, targets.load("cpu"), 2, _stopwatch)
    assert table.predict({}) == table.dense_ms == _size(network) / 1000
    for group in groups:
        whole = torch.ones(group.width, dtype=torch.bool)
        assert table.predict({group.name: whole}) == pytest.approx(table.dense_ms)
        half = torch.arange(group.width) < group.width // 2
        quarter = torch.arange(group.width) < group.width // 4
        saved = 1 - table.predict({group.name: half}) / table.dense_ms
        assert saved > 0
        expected = 1 - 1.5 * saved
        assert table.predict({group.name: quarter}) / table.dense_ms == pytest.approx(expected)
    assert LatencyTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table


def test_a_table_is_kept_for_its_own_network_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def timer(target: object) -> latency_table.Timer:
        made.append(1)
        return _stopwatch

    monkeypatch.setattr(latency_table, "backend_timer", timer)
    target, path = targets.load("cpu"), tmp_path / "table.json"
    network = TinyDense()
    groups = channel_groups(network)
    first = cached_table(network, groups, target, 2, path)
    assert cached_table(network, groups, target, 2, path) == first and len(made) == 1
    torch.nn.init.ones_(network.stem.conv.weight)
    cached_table(network, groups, target, 2, path)
    assert len(made) == 2
    path.write_text("{", "utf-8")
    with pytest.raises(InputRefused):
        cached_table(network, groups, target, 2, path)
