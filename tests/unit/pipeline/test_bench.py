"""Latency is measured in one place: what is timed alone, what in turns, and when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import SIZE, write_network

from edgemtl import targets
from edgemtl.backends.artefacts import compile_for, session_options
from edgemtl.measure.results import BenchRequest, StopRule
from edgemtl.measure.statistics import Ratio
from edgemtl.measure.timed import bench_request
from edgemtl.pipeline import bench
from edgemtl.pipeline.bench import (
    COMPARE,
    LatencyRequest,
    compare_rule,
    measure_latency,
    not_timed,
    stop_rule,
)
from edgemtl.recipes import BenchSection


class Found:
    """A comparison of these two, by the names of their folders."""

    def __init__(self, a: BenchRequest, b: BenchRequest) -> None:
        self.names = (a.artefact.folder.name, b.artefact.folder.name)
        self.speedup = Ratio(2.0 if "float" in self.names[1] else 3.0, 1.5, 3.5)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What is timed, without timing it."""
    seen: list[tuple[str, ...]] = []

    def alone(request: BenchRequest) -> Any:
        seen.append((request.artefact.folder.name,))
        return seen[-1]

    def turns(a: BenchRequest, b: BenchRequest, rule: Any, seed: int) -> Any:
        seen.append((*Found(a, b).names, str(seed)))
        return Found(a, b)

    monkeypatch.setattr(bench, "bench", alone)
    monkeypatch.setattr(bench, "compare", turns)
    return seen


@pytest.fixture
def built(tmp_path: Path) -> dict[str, BenchRequest]:
    """Requests by name; ``copy`` has the bytes of ``small``."""
    cpu = targets.load("cpu")
    found = {}
    for name, seed in (("small", 0), ("copy", 0), ("dense", 1), ("float", 2)):
        graph = write_network(tmp_path / f"{name}.onnx", seed)
        artefact = compile_for(cpu, graph, tmp_path / name)
        found[name] = bench_request(artefact, session_options(cpu, 1), StopRule(), 7)
    return found


def test_alone(built: dict[str, BenchRequest], timed: list[tuple[str, ...]]) -> None:
    outcome = measure_latency(LatencyRequest(built["small"]))
    assert timed == [("small",)]
    assert not outcome.identical and outcome.comparison is None


def test_nothing_is_compared_with_its_own_bytes_unless_asked(
    built: dict[str, BenchRequest], timed: list[tuple[str, ...]]
) -> None:
    outcome = measure_latency(LatencyRequest(built["small"], built["copy"]))
    assert timed == [("small",)]
    assert outcome.identical
    measure_latency(LatencyRequest(built["small"], built["copy"], alone=False, same_bytes=True))
    assert timed == [("small",), ("small", "copy", "7")]


def test_a_precision_is_held_against_float_too(
    built: dict[str, BenchRequest], timed: list[tuple[str, ...]]
) -> None:
    small, dense, same = built["small"], built["dense"], built["float"]
    outcome = measure_latency(LatencyRequest(small, dense, same))
    assert timed == [("small",), ("small", "dense", "7"), ("small", "float", "7")]
    assert outcome.against_float is not None and outcome.against_float.value == 2.0
    # the uncompressed network is the same one in float: measured once
    timed.clear()
    outcome = measure_latency(LatencyRequest(small, same, same))
    assert timed == [("small",), ("small", "float", "7")]
    assert outcome.against_float is not None and outcome.against_float.value == 2.0
    # a precision that changed nothing
    timed.clear()
    outcome = measure_latency(LatencyRequest(small, dense, built["copy"]))
    assert timed == [("small",), ("small", "dense", "7")]
    assert outcome.against_float is None


def test_layers_are_asked_where_there_are_images(
    built: dict[str, BenchRequest], timed: list[tuple[str, ...]]
) -> None:
    def images() -> np.ndarray[Any, Any]:
        return np.zeros((1, 3, *SIZE), np.float32)

    outcome = measure_latency(LatencyRequest(built["small"], images=images))
    assert outcome.layers is not None and outcome.layers["backend"] == "onnxruntime"
    assert measure_latency(LatencyRequest(built["small"])).layers is None


def test_why_a_run_times_nothing() -> None:
    cpu, jetson = targets.load("cpu"), targets.load("jetson")
    assert not_timed(BenchSection(), cpu) == ""
    assert not_timed(BenchSection(enabled=False), cpu) == "switched off"
    assert not_timed(BenchSection(), jetson) == "this machine is not the device"


def test_the_least_time_is_never_above_the_most() -> None:
    asked = BenchSection(seconds=9.0, max_seconds=4.0, min_runs=6, warmup_seconds=0.5)
    stop = stop_rule(asked)
    assert (stop.min_seconds, stop.max_seconds) == (4.0, 4.0)
    assert (stop.min_runs, stop.warmup_seconds) == (6, 0.5)
    assert stop_rule(BenchSection(seconds=2.0, max_seconds=4.0)).min_seconds == 2.0


def test_turns_take_no_longer_than_the_recipe_lets_a_measurement_take() -> None:
    short = compare_rule(BenchSection(seconds=0.05, max_seconds=2))
    assert (short.block_seconds, short.max_seconds, short.pairs) == (0.05, 2, COMPARE.pairs)
    long = compare_rule(BenchSection(seconds=60, max_seconds=600))
    assert long == COMPARE
