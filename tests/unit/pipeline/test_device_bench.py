"""A bundle on its way to a TVM server: what is sent, and which bundles are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.command import edgemtl
from support.tiny_bundle import SIZE, make_contents

from edgemtl.backends.base import Backend
from edgemtl.backends.types import Artefact
from edgemtl.bundle import BundleContents
from edgemtl.bundle.read import open_bundle
from edgemtl.bundle.write import write_bundle
from edgemtl.devices.rpc import RpcAddress, RpcJob
from edgemtl.devices.runner.latency import summary
from edgemtl.devices.ssh import DeviceRun
from edgemtl.errors import UsageError
from edgemtl.pipeline import device_bench
from edgemtl.pipeline.benchmarking import BenchFiles
from edgemtl.recipes import BenchSection

#: what a device says of one run of a millisecond
MEASURED = {**summary(np.ones(1)), "samples_ms": [1.0], "stable": True}


def bundle_for_tvm(folder: Path) -> Path:
    """A bundle whose artefact is a library of TVM; its bytes are of no matter here."""
    compiled = folder / "tvm"
    compiled.mkdir()
    (compiled / "model.so").write_bytes(b"library")
    (compiled / "model.json").write_text("{}", "utf-8")
    artefact = Artefact("tvm", "rpi4", compiled, ("model.so", "model.json"))
    return write_to(folder / "tiny.edgemtl", make_contents(folder / "work", artefact=artefact))


def write_to(path: Path, contents: BundleContents) -> Path:
    """Write a bundle."""
    write_bundle(path, contents)
    return path


def test_library_recorded_answers_and_limits_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[RpcAddress, RpcJob, bytes]] = []

    def bench(_: Backend, address: RpcAddress, job: RpcJob) -> DeviceRun:
        seen.append((address, job, job.library.read_bytes()))
        return DeviceRun(0, {"latency": MEASURED}, "", 7)

    monkeypatch.setattr(device_bench, "bench", bench)
    path = bundle_for_tvm(tmp_path)
    how = BenchSection(seconds=2.0, min_runs=40, warmup_seconds=0.5)
    asked = BenchFiles(path, how=how, threads=3)
    run = device_bench.bench_on_device(asked, "tvm-rpc://farm:9?key=rpi4", "python3")
    [(address, job, library)] = seen
    assert address == RpcAddress("tvm-rpc", "farm", 9, "rpi4") and library == b"library"
    assert job.inputs.shape == (2, 1, 3, *SIZE) and job.inputs.dtype == np.float32
    assert set(job.expected) == set(job.allowed) == {"étiquettes.logits", "depth.depth"}
    assert (job.threads, job.min_seconds, job.min_runs, job.warm_up) == (3, 2.0, 40, 0.5)
    assert run.results is not None and run.results["latency"] == MEASURED
    assert run.results["bundle"] == path.name and len(run.results["manifest_sha256"]) == 64


def test_a_server_gets_the_bundles_threads_where_none_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def bench(_: Backend, address: RpcAddress, job: RpcJob) -> DeviceRun:
        seen.append(job.threads)
        return DeviceRun(0, {"latency": MEASURED}, "", 7)

    monkeypatch.setattr(device_bench, "bench", bench)
    path = bundle_for_tvm(tmp_path)
    device_bench.bench_on_device(BenchFiles(path), "tvm-rpc://board:9", "python3")
    assert seen == [open_bundle(path).session_options().threads]


def test_a_bundle_for_another_runtime_is_refused(tmp_path: Path) -> None:
    path = write_to(tmp_path / "tiny.edgemtl", make_contents(tmp_path / "work"))
    with pytest.raises(UsageError, match="this one is for 'onnxruntime'"):
        device_bench.bench_on_device(BenchFiles(path), "tvm-rpc://board:9", "python3")


def test_no_server_is_exit_8_and_one_sentence(tmp_path: Path) -> None:
    # Port 1 of this machine: nobody listens there.
    told = edgemtl("bench", bundle_for_tvm(tmp_path), "--device", "tvm-rpc://127.0.0.1:1", "--json")
    assert told.code == 8 and not told.out
    assert "no TVM server" in told.err and len(told.err.strip().splitlines()) <= 2
    assert json.dumps(told.err).count("Traceback") == 0
