"""Arm code: cross-compiled, run under qemu, and compared with ONNX Runtime."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.tvm import board
from edgemtl.backends.tvm.settings import options_of
from edgemtl.errors import StageFailed, TargetUnavailable


def test_arm_code_answers_like_onnx_runtime(relu_graph: object, tmp_path: Path) -> None:
    state = registry.get("tvm").availability()
    if not state.ok:
        pytest.skip(state.reason)
    target = targets.load("rpi4")
    options = options_of(target)
    for program in (options.compiler, options.emulator):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here")
    try:
        board.runtime()
    except TargetUnavailable as error:
        pytest.skip(f"no aarch64 runtime: {error}")
    graph = relu_graph()  # type: ignore[operator]
    backend = registry.get("tvm")
    artefact = backend.compile(graph, target, tmp_path / "out")
    session = backend.load(artefact)
    assert session.kind == "proxy"
    images = np.random.default_rng(0).standard_normal(session.input_shape).astype(np.float32)
    assert np.array_equal(session.run(images)["out"], np.maximum(images, 0))
    session.close()

    np.save(tmp_path / "in.npy", images[None])
    np.save(tmp_path / "good.npy", np.maximum(images, 0)[None])
    np.save(tmp_path / "bad.npy", images[None])
    command = board.emulated(options.emulator, options.mcpu, tmp_path / "out", images.shape)[:-1]
    for expected, code in (("good.npy", 0), ("bad.npy", 10)):
        words = ["selftest", str(tmp_path / "in.npy"), str(tmp_path / expected), "1e-6"]
        done = subprocess.run([*command, *words], capture_output=True, timeout=60)
        assert done.returncode == code, done


def test_the_runner_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = options_of(targets.load("rpi4")).compiler
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    try:
        board.runtime()
    except TargetUnavailable as error:
        pytest.skip(f"no aarch64 runtime: {error}")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    board.add_files(tmp_path / "a", compiler)
    run = subprocess.run

    def only_asked_for_its_version(command: list[str], **more: object) -> object:
        assert command[1:] == ["--version"], command
        return run(command, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", only_asked_for_its_version)
    board.add_files(tmp_path / "b", compiler)
    first, second = ((tmp_path / name / board.RUNNER) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert second.stat().st_mode & 0o111


@pytest.mark.parametrize("name", ["rpi4", "rpi5", "rk3588", "generic-aarch64"])
def test_a_boards_target_is_never_measured_here(name: str) -> None:
    target = targets.load(name)
    assert target.backend == "tvm" and not target.measured_here
    assert options_of(target).emulator


def test_another_wheel_than_the_pinned_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "apache_tvm-0.27.0.post1-py3-none-x_aarch64.whl", "w") as made:
        made.writestr("tvm/lib/libtvm_runtime.so", b"other")
    monkeypatch.setenv(board.WHEELS, str(tmp_path))
    monkeypatch.setenv("EDGEMTL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(StageFailed, match="not the apache-tvm"):
        board.runtime()
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_wheels_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(board.WHEELS, str(tmp_path))
    monkeypatch.setenv("EDGEMTL_CACHE", str(tmp_path / "cache"))
    with pytest.raises(TargetUnavailable, match="no wheel of apache-tvm"):
        board.runtime()


def test_a_missing_emulator_is_told(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match="'no-such-emulator' is missing"):
        board.emulated("no-such-emulator", "cortex-a72", tmp_path, (1, 3, 4, 4))
