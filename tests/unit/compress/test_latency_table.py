"""The width -> ms table and latency as a goal, with a stopwatch that counts parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.data import write_dense_folder
from support.dense_family import TinyDense, build

from edgemtl import targets
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.channels.mask import MaskedNetwork
from edgemtl.compress.cost import CostModel
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.job import PruneOptions
from edgemtl.compress.latency.durations import duration
from edgemtl.compress.latency_model import Latency, LatencyModel, Measured, backend_timer, describe
from edgemtl.compress.latency_table import LatencyTable, Timer, measure_table
from edgemtl.compress.prune import prune
from edgemtl.compress.replay.graph import TracedNetwork
from edgemtl.data.dense import DenseFolder
from edgemtl.errors import InputRefused, TargetUnavailable
from edgemtl.models.base import MultiTaskNetwork

CPU = targets.load("cpu")


class Stopwatch:
    """Milliseconds are parameters over 1000; ``half`` is what it says of its own accuracy."""

    def __init__(self, half: float = 0.01) -> None:
        self.half, self.calls = half, 0

    def __call__(self, a: MultiTaskNetwork, b: MultiTaskNetwork) -> tuple[float, float, float]:
        self.calls += 1
        times = [sum(p.numel() for p in n.parameters()) / 1000 for n in (a, b)]
        return times[0], times[0] / times[1], self.half


def _cost(network: MultiTaskNetwork, groups: tuple[ChannelGroup, ...]) -> CostModel:
    masked = MaskedNetwork(network, groups)

    def run(images: torch.Tensor, gates: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        masked.use_gates(gates)
        return masked(images)

    widths = {group.name: group.width for group in groups}
    return CostModel(network, groups, TracedNetwork(run, network.example_input(1), widths), 1)


@pytest.fixture(scope="module")
def network() -> TinyDense:
    return TinyDense()


@pytest.fixture(scope="module")
def groups(network: TinyDense) -> tuple[ChannelGroup, ...]:
    return channel_groups(network)


@pytest.fixture(scope="module")
def cost(network: TinyDense, groups: tuple[ChannelGroup, ...]) -> CostModel:
    return _cost(network, groups)


def test_prediction_follows_what_was_measured(
    network: TinyDense, groups: tuple[ChannelGroup, ...], cost: CostModel
) -> None:
    table = measure_table(network, groups, cost, CPU, 2, Stopwatch(half=0.0))
    size = sum(p.numel() for p in network.parameters()) / 1000
    assert table.predict({}) == table.dense_ms == size
    for group in groups:
        whole = torch.ones(group.width, dtype=torch.bool)
        assert table.predict({group.name: whole}) == pytest.approx(table.dense_ms)
        half = torch.arange(group.width) < group.width // 2
        quarter = torch.arange(group.width) < group.width // 4
        saved = 1 - table.predict({group.name: half}) / table.dense_ms
        assert saved > 0 and saved == pytest.approx(1 - table.measured[group.name][0][1])
        expected = 1 - 1.5 * saved
        assert table.predict({group.name: quarter}) / table.dense_ms == pytest.approx(expected)
    assert LatencyTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    assert table.drowned == ()


def test_in_noise_a_group_is_worth_what_it_computes(
    network: TinyDense, groups: tuple[ChannelGroup, ...], cost: CostModel
) -> None:
    table = measure_table(network, groups, cost, CPU, 2, Stopwatch(half=1.0))
    for group in groups:
        width, ratio = table.ratios[group.name][0]
        counted = cost.of({group.name: torch.arange(group.width) < width}).macs / cost.of({}).macs
        assert ratio == pytest.approx(counted) and ratio < 1
        assert ratio != pytest.approx(table.measured[group.name][0][1])
    assert set(table.drowned) == {group.name for group in groups}
    told = describe(table)
    assert "noise 100.0%" in told and f"{len(groups)} of {len(groups)} groups" in told
    assert "disturbs" in told


def test_a_killed_measurement_goes_on_and_other_networks_begin_anew(
    tmp_path: Path, network: TinyDense, groups: tuple[ChannelGroup, ...], cost: CostModel
) -> None:
    path, watch = tmp_path / "table.json", Stopwatch()

    def killed(a: MultiTaskNetwork, b: MultiTaskNetwork) -> tuple[float, float, float]:
        if watch.calls == 4:
            raise KeyboardInterrupt
        return watch(a, b)

    def table(timer: Timer, of: MultiTaskNetwork = network, threads: int = 1) -> LatencyTable:
        return measure_table(of, groups, cost, CPU, 2, timer, threads, path)

    with pytest.raises(KeyboardInterrupt):
        table(killed)
    whole = table(watch)
    assert watch.calls == 1 + len(groups)  # nothing was timed twice
    assert table(watch) == whole and watch.calls == 1 + len(groups)
    table(watch, threads=2)
    assert watch.calls == 2 * (1 + len(groups))
    other = build()
    assert table(watch, other).network != whole.network
    assert watch.calls == 3 * (1 + len(groups))
    path.write_text("{", "utf-8")
    with pytest.raises(InputRefused):
        table(watch)
    path.write_text("{}", "utf-8")
    with pytest.raises(InputRefused):
        table(watch)


def test_the_estimate_is_of_a_group_that_was_measured_and_never_nothing(
    network: TinyDense, groups: tuple[ChannelGroup, ...], cost: CostModel
) -> None:
    lines: list[str] = []
    measure_table(network, groups, cost, CPU, 16, Stopwatch(), tell=lines.append)
    assert groups[0].width == 16  # has no narrower width
    (line,) = lines
    assert line.endswith("about 1 s")
    assert duration(0.0) == "1 s" and duration(61) == "61 s" and duration(180) == "3.0 min"


def test_a_later_round_is_relative_to_the_first_network(
    tmp_path: Path, network: TinyDense, groups: tuple[ChannelGroup, ...], cost: CostModel
) -> None:
    """A machine that slows down between the rounds changes nothing."""
    fast, slow = Stopwatch(), Stopwatch()
    latency = Latency(CPU, 2, tmp_path, timer=fast)
    first = latency.model(network, groups, cost)
    latency._timer = lambda a, b: (slow(a, b)[0] * 3, *slow(a, b)[1:])
    smaller = TinyDense(width=8)
    few = channel_groups(smaller)
    second = latency.model(smaller, few, _cost(smaller, few))
    assert second.dense_ms == first.dense_ms == first.predict({})
    ratio = second.predict({}) / second.dense_ms
    assert ratio == pytest.approx(fast(smaller, network)[1])


def test_what_was_measured_corrects_what_is_predicted(
    network: TinyDense, groups: tuple[ChannelGroup, ...], cost: CostModel
) -> None:
    table = measure_table(network, groups, cost, CPU, 2, Stopwatch())
    model = LatencyModel(table, table.dense_ms, Stopwatch(), network)
    keep = {g.name: torch.arange(g.width) < g.width // 2 for g in groups}
    share = model.predict(keep) / table.dense_ms
    model.correct(Measured(share, 2 * share, 0.0))
    assert model.predict(keep) / table.dense_ms == pytest.approx(2 * share)
    assert model.predict({}) == table.dense_ms


def test_a_latency_goal_is_met_by_what_is_measured(tmp_path: Path) -> None:
    """Groups cut together save less than the table says of each."""
    root = write_dense_folder(tmp_path / "data", "train", count=16, seed=3)
    data = DataSplits.split([DenseFolder.open(root, "train")], oracle=6, calibration=4)
    options = PruneOptions(latency_ratio=0.62, channel_multiple=2)
    network, lines = build(), list[str]()

    def once() -> dict[str, object]:
        latency = Latency(CPU, 2, tmp_path, timer=_crowded, tell=lines.append)
        return prune(network, data, options, lines.append, tmp_path / "state", latency).to_dict()

    found = once()
    (one,) = found["rounds"]
    assert len(one["latency"]) > 1, "the first try should have missed"
    first, last = one["latency"][0], one["latency"][-1]
    assert first["predicted"] <= 0.62 < first["ratio"] and last["ratio"] <= 0.62
    assert found["goals_reached"]
    share = found["pruned"]["latency_ms"] / found["dense"]["latency_ms"]
    assert share == pytest.approx(last["ratio"])
    assert all(step["latency_saved_ms"] is not None for step in one["steps"])
    assert found["latency_table"]["target"] == "cpu"
    assert any("predicted" in line and "measured" in line for line in lines)
    assert once()["rounds"] == found["rounds"]


def _crowded(a: MultiTaskNetwork, b: MultiTaskNetwork) -> tuple[float, float, float]:
    """Each cut saves less the more was cut already."""
    times = [sum(p.numel() for p in n.parameters()) / 1000 for n in (a, b)]
    ratio = times[0] / times[1]
    return times[0], max(ratio, 0.7 - 0.3 * (0.7 - ratio)), 0.0


def test_a_target_that_is_elsewhere_is_refused() -> None:
    with pytest.raises(TargetUnavailable, match="cannot be measured on this machine"):
        backend_timer(targets.load("jetson"))
