"""Arm code: cross-compiled, run under qemu, and compared with ONNX Runtime."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from support.arm import skip_without_arm_tools
from support.small_graphs import write_graph

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.tvm import board
from edgemtl.backends.tvm.settings import options_of
from edgemtl.errors import StageFailed, TargetUnavailable


def write_three(path: Path) -> Path:
    """Convolution over all channels, within each, and over single pixels; sizes no tile divides."""
    nodes = [
        helper.make_node("Conv", ["x", "full"], ["a"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "within"], ["c"], pads=[1] * 4, group=20),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Conv", ["d", "single"], ["y"]),
    ]
    weights = {"full": (20, 3, 3, 3), "within": (20, 1, 3, 3), "single": (11, 20, 1, 1)}
    return write_graph(path, nodes, weights, ([1, 3, 18, 26], [1, 11, 9, 13]))


def test_arm_code_answers_like_onnx_runtime(tmp_path: Path) -> None:
    target = targets.load("rpi4")
    options = options_of(target)
    disassembler = options.compiler.replace("g++", "objdump")
    skip_without_arm_tools(disassembler)
    graph, out = write_three(tmp_path / "three.onnx"), tmp_path / "out"
    out.mkdir()
    backend = registry.get("tvm")
    artefact = backend.compile(graph, target, out)
    counted = artefact.facts["templates"]
    assert {name: counted[name] for name in ("conv", "depthwise", "dense")} == dict.fromkeys(
        ("conv", "depthwise", "dense"), 1
    )
    code = subprocess.run([disassembler, "-d", out / "model.so"], capture_output=True, text=True)
    # Sums stay in vector registers: multiply-add of four lanes, by far more than loads per sum.
    assert len(re.findall(r"\bfmla\s+v\d+\.4s", code.stdout)) > 50

    session = backend.load(artefact)
    assert session.kind == "proxy"
    images = np.random.default_rng(0).standard_normal(session.input_shape).astype(np.float32)
    wanted = onnxruntime.InferenceSession(str(graph)).run(None, {"x": images})[0]
    assert np.abs(session.run(images)["y"] - wanted).max() < 1e-5 * np.abs(wanted).max()
    session.close()

    np.save(tmp_path / "in.npy", images[None])
    np.save(tmp_path / "good.npy", wanted[None])
    np.save(tmp_path / "bad.npy", np.zeros_like(wanted[None]))
    command = board.emulated(options.emulator, options.mcpu, out, images.shape)[:-1]
    for expected, code_wanted in (("good.npy", 0), ("bad.npy", 10)):
        words = ["selftest", str(tmp_path / "in.npy"), str(tmp_path / expected), "1e-3"]
        done = subprocess.run([*command, *words], capture_output=True, timeout=60)
        assert done.returncode == code_wanted, done


def test_the_runner_is_the_same_wherever_the_cache_lies(tmp_path: Path) -> None:
    skip_without_arm_tools()
    here, there = board.runtime(), tmp_path / "elsewhere"
    there.mkdir()
    for name in ("tvm", "tvm_ffi"):
        (there / name).symlink_to(here / name)
    compiler = options_of(targets.load("rpi4")).compiler
    runner = board._runner(there, compiler).read_bytes()
    assert runner == board._runner(here, compiler).read_bytes()
    assert str(tmp_path).encode() not in runner and b"optional.h" in runner


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
