"""Benchmarks through real worker processes and a backend that does as it is told."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from support.fakebackend import FakeBackend

from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import EdgemtlError, InputRefused, StageFailed, UsageError
from edgemtl.measure.latency import (
    BenchRequest,
    Comparison,
    InterleaveRule,
    LatencyResult,
    StopRule,
    bench,
    block_order,
    compare,
)
from edgemtl.measure.worker import Worker
from edgemtl.measure.workerlink import WorkerLink
from edgemtl.progress import listening
from edgemtl.tasks.anchors import AnchorSpec
from edgemtl.tasks.base import TaskSpec

QUICK = StopRule(
    warmup_runs=2, warmup_seconds=0, min_runs=30, max_runs=30, min_seconds=0, max_seconds=20
)
SPEC = InputSpec((32, 32), mean=(100.0, 110.0, 120.0)).to_dict()
SUPPORT = Path(__file__).parents[2] / "support"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the fake backend for worker processes, the way a third party's is."""
    info = tmp_path / "site" / "fakebackend-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fakebackend\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[edgemtl.backends]\nfake = fakebackend:FakeBackend\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(info.parent), str(SUPPORT)]))


def request(tmp_path: Path, stop: StopRule = QUICK, **facts: Any) -> BenchRequest:
    artefact = Artefact("fake", "cpu", tmp_path, (), facts=facts)
    return BenchRequest(artefact, SessionOptions(threads=1), stop=stop, attempts=1)


def log_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_bench(tmp_path: Path) -> None:
    log = tmp_path / "log"
    said: list[str] = []
    asked = request(tmp_path, sleep_ms=1, log=str(log), shape=[2, 3, 32, 32])
    with listening(lambda progress: said.append(progress.sentence())):
        result = bench(asked)
    assert said == ["loading", "warming up", "measuring"]
    assert len(result.samples_ms) == result.summary.count == 30
    assert min(result.samples_ms) >= 1  # it sleeps that long
    assert result.first_inference_ms >= 1
    assert result.load_ms > 0
    assert result.warmup_runs == 3  # the first inference and two more
    assert (result.batch, result.threads, result.attempts) == (2, 1, 1)
    assert result.throughput_per_s == pytest.approx(2e3 / result.summary.mean_ms)
    assert result.fed == "noise"
    assert result.kind == "measured"
    assert result.preprocess is None and result.postprocess is None
    assert result.machine.cores >= 1 and result.machine.cpu
    runs = log_of(log)
    assert len(runs) == 33
    assert len({run["pid"] for run in runs}) == 1
    assert runs[0]["pid"] != os.getpid()
    assert not psutil.pid_exists(runs[0]["pid"])
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert LatencyResult.from_dict(data) == result


def test_memory_is_the_workers_own(tmp_path: Path) -> None:
    ballast = np.ones(400 << 20, np.uint8)  # a child started by fork inherits getrusage's peak
    memory = bench(request(tmp_path, megabytes=60)).memory
    assert ballast[-1] == 1
    assert memory.loaded_bytes - memory.runtime_bytes > 50 << 20
    assert 0 < memory.start_bytes <= memory.runtime_bytes + (1 << 20)
    # The kernel counts resident pages lazily, so the peak may lag by a little.
    assert memory.loaded_bytes - (2 << 20) <= memory.peak_bytes < 350 << 20


def test_torch_is_no_part_of_what_is_measured(tmp_path: Path) -> None:
    log = tmp_path / "log"
    bench(request(tmp_path, log=str(log)))
    assert not any(run["torch"] for run in log_of(log))


def test_measurement_ends_by_time_before_its_fewest_runs(tmp_path: Path) -> None:
    stop = StopRule(0, 0, min_runs=10_000, max_runs=20_000, min_seconds=0, max_seconds=0.3)
    result = bench(replace(request(tmp_path, stop, sleep_ms=5), attempts=3))
    assert 1 <= len(result.samples_ms) <= 60  # 0.3 s of at least 5 ms each
    assert result.attempts == 1


def test_measurement_goes_on_until_its_shortest_time(tmp_path: Path) -> None:
    stop = StopRule(0, 0, min_runs=1, max_runs=10_000, min_seconds=0.3, max_seconds=9)
    result = bench(request(tmp_path, stop, sleep_ms=5))
    assert sum(result.samples_ms) >= 0.25e3


def test_warm_up_goes_on_until_its_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stop = replace(QUICK, warmup_runs=1, warmup_seconds=0.2)
    result = bench(request(tmp_path, stop, sleep_ms=5, log=str(log)))
    runs = log_of(log)
    assert len(runs) == 30 + result.warmup_runs
    assert runs[result.warmup_runs]["began_ns"] - runs[1]["began_ns"] >= 0.2e9


def test_drift_is_reported_after_all_attempts(tmp_path: Path) -> None:
    # 2 ms at first, 62 ms more at the end: no background load hides that
    stop = replace(QUICK, min_runs=24, max_runs=24)
    result = bench(replace(request(tmp_path, stop, sleep_ms=2, grow_ms=1), attempts=2))
    assert not result.stable
    assert "slower" in result.reason
    assert result.trend > 0
    assert result.attempts == 2


def test_too_few_samples_are_not_stable(tmp_path: Path) -> None:
    result = bench(request(tmp_path, replace(QUICK, min_runs=3, max_runs=3)))
    assert not result.stable
    assert "too few" in result.reason


def _image(tmp_path: Path) -> Path:
    path = tmp_path / "face.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    return path


def test_image_is_fed_and_the_stages_around_are_timed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    anchors = AnchorSpec()
    count = anchors.count((32, 32))
    outputs = {"detection.scores": [1, count, 2], "detection.boxes": [1, count, 4]}
    task = TaskSpec("detection", "detection", {"anchors": anchors.to_dict()}).to_dict()
    asked = request(tmp_path, outputs=outputs, log=str(log))
    result = bench(replace(asked, image=_image(tmp_path), input_spec=SPEC, tasks=(task,)))
    assert result.fed == "picture"
    assert result.preprocess is not None and result.preprocess.count >= 10
    assert result.postprocess is not None and result.postprocess.p50_ms > 0
    # decoding imports torch, but only after the last timed run
    assert not any(run["torch"] for run in log_of(log)[: result.warmup_runs + 30])
    assert LatencyResult.from_dict(result.to_dict()) == result


@pytest.fixture
def load_here(monkeypatch: pytest.MonkeyPatch) -> Callable[[BenchRequest], dict[str, Any]]:
    """Load in this process: what is fed does not depend on where."""
    monkeypatch.setattr("edgemtl.measure.worker.registry.get", lambda name: FakeBackend())
    return lambda asked: Worker().answer({"do": "load", "request": asked.to_dict()})


Load = Callable[[BenchRequest], dict[str, Any]]


def test_array_is_fed(tmp_path: Path, load_here: Load) -> None:
    log, path = tmp_path / "log", tmp_path / "input.npy"
    np.save(path, np.full((1, 3, 32, 32), 2.0, np.float32))
    found = load_here(replace(request(tmp_path, log=str(log)), input_array=path))
    assert found["fed"] == "array"
    assert log_of(log)[0]["sum"] == 2 * 3 * 32 * 32


def test_noise_is_seeded(tmp_path: Path, load_here: Load) -> None:
    log = tmp_path / "log"
    for seed in (1, 1, 2):
        load_here(replace(request(tmp_path, log=str(log)), seed=seed))
    sums = [run["sum"] for run in log_of(log)]
    assert sums[0] == sums[1] != sums[2]


def _inputs_that_do_not_fit(tmp_path: Path) -> dict[str, dict[str, Any]]:
    wrong, pickled, text = tmp_path / "wrong.npy", tmp_path / "pickled.npy", tmp_path / "a.npy"
    np.save(wrong, np.zeros((1, 3, 4, 4), np.float32))
    np.save(pickled, np.array([{"a": 1}], object), allow_pickle=True)
    text.write_text("nothing")
    return {
        "is not float32 of shape": {"input_array": wrong},
        "cannot be read": {"input_array": pickled},
        "cannot be read ": {"input_array": text},
        "cannot be read  ": {"input_array": tmp_path / "nowhere.npy"},
        "does not decode": {"image": text, "input_spec": SPEC},
        "input specification$": {"image": text},
        "the artefact": {
            "image": _image(tmp_path),
            "input_spec": InputSpec((64, 32)).to_dict(),
        },
    }


@pytest.mark.parametrize("index", range(7))
def test_inputs_that_do_not_fit_are_refused(tmp_path: Path, load_here: Load, index: int) -> None:
    said, changes = list(_inputs_that_do_not_fit(tmp_path).items())[index]
    with pytest.raises(InputRefused, match=said.strip()):
        load_here(replace(request(tmp_path), **changes))


def test_refusal_of_an_input_crosses_the_process(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="cannot be read"):
        bench(replace(request(tmp_path), input_array=tmp_path / "nowhere.npy"))


def test_death_of_the_worker_names_the_signal_and_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(StageFailed) as caught:
        bench(request(tmp_path, die_at=10))
    assert "SIGKILL during 'measure'" in caught.value.message
    assert "the driver is on fire" in caught.value.message
    assert caught.value.where == str(tmp_path)


def test_worker_that_hangs_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stop = replace(QUICK, max_seconds=0.5)
    asked = replace(request(tmp_path, stop, hang_at=2, log=str(log)), time_limit_seconds=3)
    with pytest.raises(StageFailed, match=r"did not finish 'warm' within 3\.5 s"):
        bench(asked)
    assert not psutil.pid_exists(log_of(log)[0]["pid"])


def test_errors_of_the_worker_keep_their_class_and_parts(tmp_path: Path) -> None:
    with pytest.raises(StageFailed) as caught:
        bench(request(tmp_path, fail_load=True))
    error = caught.value
    assert (error.message, error.where, error.hint) == (
        "the artefact is spoilt",
        "here",
        "compile again",
    )
    unknown = replace(request(tmp_path), artefact=Artefact("nobody", "cpu", tmp_path, ()))
    with pytest.raises(EdgemtlError, match="nobody"):
        bench(unknown)


def test_file_of_the_working_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cv2.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    assert bench(request(tmp_path)).summary.count == 30


def test_idle_worker_sleeps(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with WorkerLink("here", 60) as worker:
        worker.ask("load", request=request(tmp_path, log=str(log)).to_dict())
        process = psutil.Process(log_of(log)[0]["pid"])
        for _ in range(100):
            if process.status() == psutil.STATUS_SLEEPING:
                break
            time.sleep(0.05)
        before = process.cpu_times()
        time.sleep(1.0)
        after = process.cpu_times()
    # A thread that spins would have used most of the second; a few ticks are Python's own.
    assert (after.user + after.system) - (before.user + before.system) < 0.3
    assert not process.is_running()


def test_worker_knows_only_its_commands() -> None:
    with WorkerLink("here", 60) as worker:
        with pytest.raises(StageFailed, match="no command 'dance'"):
            worker.ask("dance")
        with pytest.raises(StageFailed, match="before it loaded"):
            worker.ask("measure", **vars(QUICK))


RULE = InterleaveRule(pairs=6, min_pairs=3, block_seconds=0.02, settle_runs=1, max_seconds=60)


def test_compare_takes_turns_and_finds_the_faster_one(tmp_path: Path) -> None:
    logs = tmp_path / "a.log", tmp_path / "b.log"
    a = request(tmp_path, sleep_ms=1, log=str(logs[0]))
    b = request(tmp_path, sleep_ms=12, log=str(logs[1]))
    found = compare(a, b, RULE, seed=3)
    assert found.speedup.low > 1
    assert found.speedup.low <= found.speedup.value <= found.speedup.high
    medians = found.b.summary.p50_ms / found.a.summary.p50_ms
    assert found.speedup.value == pytest.approx(medians)
    assert found.pairs == 6
    assert found.order == block_order(6, 3)
    assert found.a.summary.count == found.b.summary.count == 6 * found.runs_per_block
    assert (found.a.threads, found.b.threads) == (1, 1)
    runs_a, runs_b = log_of(logs[0]), log_of(logs[1])
    assert {r["pid"] for r in runs_a}.isdisjoint({r["pid"] for r in runs_b})
    everything = sorted([*runs_a, *runs_b], key=lambda run: run["began_ns"])
    for earlier, later in itertools.pairwise(everything):
        assert earlier["ended_ns"] <= later["began_ns"]  # never two at once
    # untimed: first inference, warm-up, calibration, and one run at the start of every block
    assert len(runs_a) == 1 + 2 + 5 + 6 * (found.runs_per_block + 1)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert Comparison.from_dict(data) == found


def test_compare_runs_one_thread_unless_told(tmp_path: Path) -> None:
    logs = tmp_path / "a.log", tmp_path / "b.log"
    a = replace(request(tmp_path, log=str(logs[0])), options=SessionOptions(threads=0))
    b = replace(request(tmp_path, log=str(logs[1])), options=SessionOptions(threads=2))
    found = compare(a, b, replace(RULE, pairs=3))
    assert (found.a.threads, found.b.threads) == (1, 2)
    assert log_of(logs[0])[0]["threads"] == 1
    assert log_of(logs[1])[0]["threads"] == 2


def test_compare_ends_by_time_after_its_fewest_pairs(tmp_path: Path) -> None:
    both = request(tmp_path, sleep_ms=5)
    found = compare(both, both, replace(RULE, pairs=500, max_seconds=0.01))
    assert found.pairs == 3
    assert found.order.count("A") == found.order.count("B") == 3


def test_death_in_a_comparison_ends_both(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(StageFailed, match="SIGKILL"):
        compare(request(tmp_path, log=str(log)), request(tmp_path, die_at=12), RULE)
    assert not psutil.pid_exists(log_of(log)[0]["pid"])


def test_block_order_is_balanced_and_seeded() -> None:
    order = block_order(40, seed=1)
    assert len(order) == 80
    assert {order[i : i + 4] for i in range(0, 80, 4)} == {"ABBA", "BAAB"}
    assert order == block_order(40, seed=1) != block_order(40, seed=2)
    odd = block_order(3, seed=0)
    assert (odd.count("A"), odd.count("B")) == (3, 3)


@pytest.mark.parametrize(
    "bad",
    [
        {"min_runs": 0},
        {"min_runs": 10, "max_runs": 9},
        {"min_seconds": 5, "max_seconds": 1},
        {"warmup_runs": -1},
    ],
)
def test_stop_rules_that_make_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        StopRule(**bad)


@pytest.mark.parametrize(
    "bad", [{"pairs": 1}, {"min_pairs": 50}, {"block_seconds": 0}, {"settle_runs": -1}]
)
def test_interleave_rules_that_make_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        InterleaveRule(**bad)


def test_request_survives_json(tmp_path: Path) -> None:
    asked = replace(
        request(tmp_path, sleep_ms=1), image=tmp_path / "p.png", input_spec=SPEC, tasks=({},)
    )
    data = json.loads(json.dumps(asked.to_dict()))
    assert BenchRequest.from_dict(data) == asked
    data["stop"]["colour"] = "red"
    with pytest.raises(InputRefused):
        BenchRequest.from_dict(data)


@pytest.mark.parametrize("cls", [LatencyResult, Comparison])
def test_broken_results_are_refused(cls: Any) -> None:
    for data in ({}, {"samples_ms": 3}, {"speedup": None}, []):
        with pytest.raises(InputRefused):
            cls.from_dict(data)
