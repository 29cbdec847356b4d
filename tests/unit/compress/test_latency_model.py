"""Latency as a goal: which stopwatch is used, rounds, and what is measured at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.data import write_dense_folder
from support.dense_family import TinyDense, build
from support.layer_turns import ModelledTurns, latency

from edgemtl import targets
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.context import PruneOptions
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.latency.layer_table import LayerTable
from edgemtl.compress.latency.layers import layers_of
from edgemtl.compress.latency.stand import Precision, Stand
from edgemtl.compress.latency.turns import RuntimeTurns
from edgemtl.compress.latency.whole import Timer
from edgemtl.compress.latency.widths import GraphWidths
from edgemtl.compress.latency_model import Latency, backend_timer
from edgemtl.compress.prune import prune
from edgemtl.data.dense import DenseFolder
from edgemtl.errors import TargetUnavailable
from edgemtl.logs import Lines
from edgemtl.models.base import MultiTaskNetwork

CPU = targets.load("cpu")


def stopwatch(a: MultiTaskNetwork, b: MultiTaskNetwork) -> tuple[float, float, float]:
    """Modelled milliseconds."""
    return latency(a), latency(a) / latency(b), 0.0


def test_a_later_round_is_relative_to_the_first_network(tmp_path: Path) -> None:
    """A machine that slows down between the rounds changes nothing."""
    network, smaller = build(), TinyDense(width=8).eval()
    turns = ModelledTurns(lambda call: (1.0, 1.0) if call < 16 else (3.0, 3.0))
    model = Latency(CPU, 2, tmp_path, timer=stopwatch, turns=turns)
    first = model.model(network, channel_groups(network))
    second = model.model(smaller, channel_groups(smaller))
    assert turns.calls > 16
    assert second.dense_ms == first.dense_ms == pytest.approx(first.predict({}))
    assert second.predict({}) / second.dense_ms == pytest.approx(
        latency(smaller) / latency(network)
    )


def crowded(a: MultiTaskNetwork, b: MultiTaskNetwork) -> tuple[float, float, float]:
    """Far below the dense network less is saved than the cuts near it let hope."""
    ratio = latency(a) / latency(b)
    return latency(a), max(ratio, 0.75 - 0.5 * (0.75 - ratio)), 0.0


def dear(a: MultiTaskNetwork, b: MultiTaskNetwork) -> tuple[float, float, float]:
    """A cut network takes less than its layers let hope."""
    return latency(a), 0.85 * latency(a) / latency(b), 0.0


@dataclass(frozen=True)
class Pruned:
    """A network that was pruned for latency, twice with one state folder."""

    found: dict[str, Any]
    again: dict[str, Any]
    lines: list[str]
    timed_again: int


def pruned(timer: Timer, folder: Path, goal: float = 0.7) -> Pruned:
    """By a goal for the latency."""
    root = write_dense_folder(folder / "data", "train", count=16, seed=3)
    data = DataSplits.split([DenseFolder.open(root, "train")], oracle=6, calibration=4)
    options = PruneOptions(latency_ratio=goal, channel_multiple=2)
    network, lines, turns = build(), list[str](), ModelledTurns()

    def once() -> dict[str, Any]:
        model = Latency(CPU, 2, folder / "known", 1, timer, turns)
        return prune(network, data, options, folder / "state", model).to_dict()

    with Lines(lines.append).shown():
        found, calls = once(), turns.calls
        return Pruned(found, once(), lines, turns.calls - calls)


def test_a_latency_goal_is_met_by_what_is_measured(tmp_path: Path) -> None:
    """Layers that are timed one by one save more than the whole does."""
    result = pruned(crowded, tmp_path, goal=0.65)
    found = result.found
    (one,) = found["rounds"]
    assert len(one["latency"]) > 1, "the first try should have missed"
    first, last = one["latency"][0], one["latency"][-1]
    assert first["predicted"] <= 0.65 < first["ratio"] and last["ratio"] <= 0.65
    assert found["goals_reached"]
    share = found["pruned"]["latency_ms"] / found["dense"]["latency_ms"]
    assert share == pytest.approx(last["ratio"])
    assert all(step["latency_saved_ms"] is not None for step in one["steps"])
    assert found["latency_table"]["target"] == "cpu"
    assert LayerTable.from_dict(found["latency_table"]).cuts == 16
    assert any("predicted" in line and "measured" in line for line in result.lines)
    assert result.again["rounds"] == found["rounds"] and result.timed_again == 0


def test_what_exceeds_a_latency_goal_by_far_is_given_back_once(tmp_path: Path) -> None:
    """A pessimistic table costs tasks more than was asked for."""
    (one,) = pruned(dear, tmp_path).found["rounds"]
    first, last = one["latency"][0], one["latency"][-1]
    assert len(one["latency"]) > 1 and first["ratio"] < 0.95 * 0.7
    assert first["ratio"] < last["ratio"] <= 0.7


def test_a_target_that_is_elsewhere_is_refused() -> None:
    for make in (backend_timer, RuntimeTurns):
        with pytest.raises(TargetUnavailable, match="cannot be measured on this machine"):
            make(Stand(targets.load("jetson")))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["cpu", "intel-cpu"])
def test_a_real_runtime_tells_its_layers(name: str, precision: Precision) -> None:
    try:
        turns = RuntimeTurns(Stand(targets.load(name), 1, precision))
    except TargetUnavailable as error:
        pytest.skip(str(error))
    network = build()
    graph = turns.dense_graph(network)
    assert graph is not None
    found = turns(TinyDense(width=8).eval(), network)
    convolutions = {node.name for node in graph.graph.node if node.op_type == "Conv"}
    layers = layers_of(found.layers[1], graph, GraphWidths(graph, channel_groups(network)))
    told = {layer.name for layer in layers}
    assert len(told & convolutions) >= len(convolutions) - 2  # OpenVINO loses those of the outputs
    assert all(ms > 0 for ms in found.whole)
