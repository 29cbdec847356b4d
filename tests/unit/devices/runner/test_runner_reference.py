"""A bundle that carries the uncompressed network: timed in turns on the device, judged at home."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import make_contents, members_of, write_network

from edgemtl.backends.types import Artefact
from edgemtl.bundle.read import open_bundle
from edgemtl.bundle.write import write_bundle
from edgemtl.devices.runner.cli import main
from edgemtl.devices.runner.turns import in_turns, order
from edgemtl.errors import InputRefused
from edgemtl.measure.statistics import ratio_of_medians
from edgemtl.pipeline.judging import judge_stored

FLAGS = ["--warm-up", "0", "--min-seconds", "0", "--min-runs", "30"]
RATIO = ["gates.latency.ratio=0.6"]


def bundle(folder: Path, scale: float = 2.0) -> Path:
    (folder / "dense").mkdir(parents=True)
    write_network(folder / "dense" / "model.onnx", seed=3, scale=scale)
    reference = Artefact("onnxruntime", "cpu", folder / "dense", ("model.onnx",))
    path = folder / "net.edgemtl"
    write_bundle(path, make_contents(folder / "contents", reference=reference))
    return path


def bench(path: Path, capfd: Any, *flags: str) -> tuple[int, dict[str, Any]]:
    code = main(["bench", "--bundle", str(path), *FLAGS, *flags], "no-default")
    return code, json.loads(capfd.readouterr().out)


def blocks(milliseconds: Callable[[], float]) -> Callable[[int], list[float]]:
    return lambda runs: [milliseconds() for _ in range(runs)]


def test_it_is_stored_beside_the_artefact_and_hashed(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    assert "reference/model.onnx" in members_of(path)
    entry = open_bundle(path).manifest.reference
    assert entry is not None and entry.files[0].member == "reference/model.onnx"
    plain = tmp_path / "plain.edgemtl"
    write_bundle(plain, make_contents(tmp_path / "plain"))
    assert open_bundle(plain).manifest.reference is None


def test_the_device_times_both_in_turns(tmp_path: Path, capfd: Any) -> None:
    path = bundle(tmp_path)
    _, document = bench(path, capfd)
    found = document["comparison"]
    assert found["pairs"] >= 8 and sorted(set(found["order"])) == ["A", "B"]
    assert found["speedup"]["low"] <= found["speedup"]["value"] <= found["speedup"]["high"]
    assert found["a"]["kind"] == found["b"]["kind"] == "measured"
    assert "comparison" not in bench(path, capfd, "--no-reference")[1]


def test_one_that_does_not_work_is_told_and_not_timed(tmp_path: Path, capfd: Any) -> None:
    _, document = bench(bundle(tmp_path, scale=float("inf")), capfd)
    assert document["comparison"] is None
    assert "uncompressed network: its outputs are not finite" in document["comparison_note"]
    assert document["latency"]["count"] == 30


@pytest.mark.parametrize(
    ("value", "stable", "status"),
    [(2.0, True, "pass"), (1.2, True, "fail"), (1.7, False, "unstable")],
)
def test_gate_judges_the_ratio(
    tmp_path: Path, capfd: Any, value: float, stable: bool, status: str
) -> None:
    path = bundle(tmp_path)
    _, document = bench(path, capfd)
    spread = 0.01 if stable else 0.3
    document["comparison"]["speedup"] = {
        "value": value,
        "low": value - spread,
        "high": value + spread,
        "stable": stable,
        "reason": "" if stable else "too wide",
    }
    results = tmp_path / "results.json"
    results.write_text(json.dumps(document), "utf-8")
    assert ratio(path, results) == [status]
    assert ratio(path, None) == ["not-measured"]
    document["comparison"]["speedup"]["value"] = -1.0
    results.write_text(json.dumps(document), "utf-8")
    with pytest.raises(InputRefused, match="not readable"):
        ratio(path, results)


def ratio(path: Path, results: Path | None) -> list[str]:
    report = judge_stored(path, None, RATIO, results)
    return [o.status for o in report.outcomes if o.name == "latency.ratio"]


def test_the_ratio_is_that_of_the_product() -> None:
    chance = np.random.default_rng(0)
    kept: dict[str, list[list[float]]] = {"A": [], "B": []}

    def timed(name: str, centre: float) -> Callable[[int], list[float]]:
        def run(runs: int) -> list[float]:
            kept[name].append((centre + chance.normal(0, 0.1, runs)).tolist())
            return kept[name][-1]

        return run

    found = in_turns({"A": timed("A", 2.0), "B": timed("B", 5.0)})["speedup"]
    ours = ratio_of_medians(kept["B"][1:], kept["A"][1:], seed=0)
    assert found["stable"] is True
    assert found["value"] == pytest.approx(ours.value)
    assert found["low"] == pytest.approx(ours.low, abs=0.01)
    assert found["high"] == pytest.approx(ours.high, abs=0.01)


def test_a_steady_drift_cancels() -> None:
    now = [0.0]

    def drifting(factor: float) -> Callable[[], float]:
        def run() -> float:
            now[0] += 1e-3
            return factor * (1 + now[0])

        return run

    found = in_turns({"A": blocks(drifting(20.0)), "B": blocks(drifting(40.0))})
    assert found["speedup"]["value"] == pytest.approx(2.0, rel=0.02)


def test_noise_is_not_concluded_from() -> None:
    chance = np.random.default_rng(1)
    noisy = blocks(lambda: float(chance.choice([1.0, 40.0])))
    found = in_turns({"A": noisy, "B": noisy})["speedup"]
    assert found["stable"] is False and "too wide" in found["reason"]


def test_it_stops_when_time_is_up() -> None:
    clock = iter(range(0, 100000, 100))
    found = in_turns({"A": blocks(lambda: 1.0), "B": blocks(lambda: 1.0)}, 0, lambda: next(clock))
    assert found["pairs"] == 8
    assert order(4, 5).count("A") == order(4, 5).count("B") == 4
