"""The benchmark of routed networks: the If per stage computes the same, and tables say what is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

from dynamic import accuracy, dependence, speed, stream
from dynamic.networks import ResNet18
from dynamic.stages import stage_file

from edgemtl import targets
from edgemtl.compress.dynamic.router import Router
from edgemtl.exporting.routed import export_routed


class Small(ResNet18):
    """The same layout, narrow."""

    STAGES = (16, 16, 32, 32)


@pytest.fixture(scope="module")
def subject() -> speed.Subject:
    torch.manual_seed(0)
    network = Small(32, classes=5).eval()
    return speed.narrowed("small", network, speed.inside_blocks, speed.stage_of)


def test_widths_are_forced_and_cost_what_they_should(subject: speed.Subject) -> None:
    assert len(subject.prototypes) == len(speed.SHARES)
    assert list(subject.macs[1:]) == sorted(subject.macs[1:])
    assert subject.macs[-1] <= subject.macs[0]


def test_an_if_per_stage_answers_as_the_network_that_is_named(
    subject: speed.Subject, tmp_path: Path
) -> None:
    router, prototypes = speed.pinned(Router(2, (32, 32)), 0), subject.prototypes[:2]
    export_routed(router, subject.full, prototypes, 0.5, tmp_path, targets.load("cpu"))
    images = subject.full.example_input(1, seed=3)
    with torch.no_grad():
        wanted = [next(iter(network(images).values())).numpy() for network in prototypes]
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-3, "the networks differ"
    for index in range(2):
        if index:
            speed.pin_file(tmp_path / "router.onnx", index, 2)
        stage_file(tmp_path, tmp_path / "stages.onnx", speed.stage_of)
        session = onnxruntime.InferenceSession(
            str(tmp_path / "stages.onnx"), providers=["CPUExecutionProvider"]
        )
        (found,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(found, wanted[index], atol=1e-5)


def test_times_are_taken_in_turns_and_summed_up() -> None:
    calls: list[str] = []
    runs = {name: (lambda x, name=name: calls.append(name) or {}) for name in "ab"}
    found = speed.timed(runs, [np.zeros(1, np.float32)], seconds=0)  # type: ignore[arg-type]
    assert len(found["a"]) == len(found["b"]) == speed.TIMED * speed.FEWEST_ROUNDS
    assert calls[:2] == ["a", "b"], "each is warm before it is timed"
    summed = speed.summary([(1.0, 1.0), (2.0, 2.0), (30.0, 3.0)])
    assert summed["p50_ms"] == 2.0
    assert summed["mean_ms"] == 11.0
    assert 2.0 < summed["p99_ms"] <= 30.0


def test_tables_are_made_of_what_was_measured(tmp_path: Path) -> None:
    def took(middle: float, late: float) -> dict[str, float]:
        names = ("p50_ms", "mean_ms", "cpu_p50_ms", "cpu_mean_ms")
        return dict.fromkeys(names, middle) | dict.fromkeys(("p99_ms", "cpu_p99_ms"), late)

    times = {
        "dense": took(30.0, 45.0),
        "static 0": took(10.0, 12.0),
        "dispatched 0": took(12.0, 15.0),
        "if 0": took(15.0, 16.0),
    }
    row = {"subject": "net", "runtime": "ORT", "shares": [0.5], "macs": [3.0, 1.0], "times": times}
    (tmp_path / "sweep-net-cpu.json").write_text(json.dumps(row), "utf-8")
    shown = speed.table(tmp_path).splitlines()[-1]
    assert "| 30.0 | 3.00 | 3.00 | 2.50 | 2.00 | - | 83 % | 83 % | 1.50 | 1.25 |" in shown
    row = {
        "runtime": "ORT",
        "macs": {"dense": 3.0, "routed": 1.5},
        "times": {"dense": times["dense"], "routed": times["static 0"]},
    }
    (tmp_path / "stream-cpu.json").write_text(json.dumps(row), "utf-8")
    assert "| 50 % | 2.00 | 10.0 | 10.0 | 12.0 | 1.20 | 3.00 | 150 % |" in stream.table(tmp_path)
    for empty in (accuracy.table, dependence.table, speed.table, stream.table):
        assert empty(tmp_path / "nothing") == ""
