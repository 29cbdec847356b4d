"""A bundle for another package's backend runs itself by its module, or compile says it cannot."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.command import edgemtl
from support.dense_family import build
from support.dense_work import NO_BENCH, write_dense_work
from support.fakebackend import FakeBackend
from support.plugins import install

from edgemtl.backends import registry
from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, Capabilities, SessionOptions
from edgemtl.bundle import BundleContents, record_selftest, write_bundle
from edgemtl.bundle.archive import runner_bytes
from edgemtl.devices.runner import runtimes
from edgemtl.errors import StageFailed
from edgemtl.targets import Target

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"


@pytest.fixture(autouse=True)
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))  # where their package would be installed
    backends = {
        "fake": "support.fakebackend:FakeBackend",
        "mute": "support.fakebackend:MuteBackend",
    }
    install(tmp_path, monkeypatch, {"edgemtl.backends": backends})


class Constant(Session):
    """The answers that the fake backend's artefact holds."""

    def __init__(self, answers: dict[str, NDArray[np.float32]]) -> None:
        super().__init__((1, 3, 64, 96), tuple(answers))
        self._answers = answers

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return dict(self._answers)


def bundle_for(backend: str, folder: Path) -> Path:
    """A bundle whose artefact is a file of answers."""
    network = build()
    answers = {
        "parts.logits": np.ones((1, 4, 16, 24), np.float32),
        "distance.depth": np.ones((1, 1, 32, 48), np.float32),
    }
    (folder / "artefact").mkdir()
    np.savez(folder / "artefact" / "answers.npz", **answers)  # type: ignore[arg-type]
    (folder / "model.onnx").write_bytes(b"whatever")
    inputs = np.zeros((1, 1, 3, 64, 96), np.float32)
    path = folder / "theirs.edgemtl"
    contents: dict[str, Any] = {
        "name": "theirs",
        "source_sha256": "0" * 64,
        "onnx": folder / "model.onnx",
        "artefact": Artefact(backend, "theirs", folder / "artefact", ("answers.npz",)),
        "target": Target(name="theirs", description="a test", backend=backend),
        "input_name": "images",
        "input_spec": network.input_spec,
        "tasks": network.tasks,
        "selftest": record_selftest(Constant(answers), inputs),
        "session": SessionOptions(threads=1),
    }
    write_bundle(path, BundleContents(**contents))
    return path


def run_alone(arguments: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Python on a device: without the product and without their package."""
    command = [sys.executable, "-I", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_a_bundle_runs_itself_by_the_module_of_its_backend(tmp_path: Path) -> None:
    bundle = bundle_for("fake", tmp_path)
    done = run_alone([str(bundle), "verify"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["runtime"]["name"] == "fake"
    done = run_alone([str(bundle), "bench", "--min-runs=5", "--min-seconds=0.01"], tmp_path)
    assert json.loads(done.stdout)["latency"]["samples_ms"], done.stderr


def test_without_a_module_the_runner_says_what_it_lacks(tmp_path: Path) -> None:
    bundle = bundle_for("mute", tmp_path)
    done = run_alone([str(bundle), "verify"], tmp_path)
    assert done.returncode == 8
    assert "no runtime for backend 'mute'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("backend", ["mute", "onnxruntime"])
def test_compile_says_that_a_bundle_cannot_run_itself(backend: str, tmp_path: Path) -> None:
    work = write_dense_work(tmp_path / "work")
    text = (ROOT / "targets" / "cpu.toml").read_text("utf-8")
    target = tmp_path / "own.toml"
    target.write_text(text.replace('"onnxruntime"', f'"{backend}"'), "utf-8")
    told = edgemtl(
        "compile", *work.flags(), f"--target={target}", *NO_BENCH, "-o", tmp_path / "run"
    )
    assert told.code == 0, told.err
    said = "the bundle cannot run itself: backend 'mute' brings no module for the runner"
    assert (said in told.err) == (backend == "mute")
    logs = [path.read_text("utf-8") for path in tmp_path.glob("run/stages/*-bundle/log.txt")]
    assert [said in log for log in logs] == [backend == "mute"]


def test_only_another_packages_module_is_packed() -> None:
    plain = runner_bytes()
    for name in ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "tvm", "fpga", "mute"):
        backend = registry.get(name)
        assert (backend.capabilities.runner or None) == runtimes.MODULES.get(name)
        assert runner_bytes(backend) == plain
    with zipfile.ZipFile(io.BytesIO(runner_bytes(registry.get("fake")))) as packed:
        more = set(packed.namelist()) - set(zipfile.ZipFile(io.BytesIO(plain)).namelist())
        assert more == {"runner/runtimes/more.py", "runner/runtimes/runtime_of_the_backend.py"}


def test_a_module_that_is_not_there_is_told() -> None:
    class Lost(FakeBackend):
        name = "lost"
        capabilities = Capabilities(runner="no_such_module_at_all")

    with pytest.raises(StageFailed, match="'no_such_module_at_all' runs its artefacts"):
        runner_bytes(Lost())
