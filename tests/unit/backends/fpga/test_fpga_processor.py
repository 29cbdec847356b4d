"""The processor's program by TVM, run on this machine with the accelerator's C++ called from it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.fpga_graphs import turns
from support.small_graphs import run

from edgemtl import targets
from edgemtl.backends.fpga import board, simulate
from edgemtl.backends.fpga.board import Parts
from edgemtl.backends.fpga.design import Design
from edgemtl.backends.fpga.device import options_of
from edgemtl.backends.fpga.emit import emit
from edgemtl.backends.fpga.execute import Execution, reference_engine
from edgemtl.backends.fpga.graph import Graph
from edgemtl.backends.fpga.partition import partition
from edgemtl.backends.fpga.processor import shim
from edgemtl.backends.fpga.work import Array
from edgemtl.backends.tvm import child
from edgemtl.backends.tvm.backend import TvmBackend
from edgemtl.backends.tvm.settings import TvmOptions, resolved
from edgemtl.errors import StageFailed

FAKE_XRT = Path(__file__).resolve().parents[3] / "support" / "fake_xrt.h"
IN_FLOAT = """
import json, os, sys
from pathlib import Path
sys.modules["torch"] = None
import numpy as np
import tvm
from tvm import relax
from edgemtl.backends.fpga import processor
place = Path(os.environ["PLACE"])
request = json.loads((place / "request.json").read_text())
whole = processor.partitioned(request)
marks = {v.name_hint: f.attrs.get("Codegen") for v, f in whole.functions.items() if f.attrs}
machine = relax.VirtualMachine(tvm.compile(whole, target="llvm"), tvm.cpu())
answer = machine["main"](tvm.runtime.tensor(np.load(place / "picture.npy")))
np.save(place / "answer.npy", answer.numpy())
print(",".join(sorted(name for name, mark in marks.items() if mark == processor.CODEGEN)))
print(",".join(v.name_hint for v in processor.module(request).functions))
sys.stdout.flush()
os._exit(0)
"""
needs_both = pytest.mark.skipif(
    simulate.compiler_version() is None or not TvmBackend().availability().ok,
    reason="g++ or TVM is not here (Debian: apt-get install g++; pip install edgemtl[tvm])",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources of a network in which the two take turns, three of the accelerator."""
    place = tmp_path_factory.mktemp("sources")
    model, images = turns()
    onnx.save(model, place / "model.onnx")
    np.save(place / "pictures.npy", np.stack(images))
    made = parts(place)
    for name, content in made.emitted.files.items():
        (place / name).write_bytes(content)
    for host in made.found.hosts:
        if host.model is not None:
            onnx.save(host.model, place / f"host_{host.stage}.onnx")
    for name in board.DRIVER_SOURCES:
        shutil.copyfile(Path(board.__file__).parent / "hls" / name, place / name)
    return place


def parts(folder: Path) -> Parts:
    model = onnx.load(folder / "model.onnx")
    found = partition(model)
    design = Design(Array(8, 8), "ping-pong", 1 << 14, 1 << 12)
    return Parts(Graph(model), found, emit(found.program, design))


@pytest.fixture(scope="module")
def built(folder: Path) -> Path:
    """Folder of the program for this machine."""
    made = parts(folder)
    stages = {step.stage for step in made.found.program.steps}
    assert stages == {1, 3, 5}
    place = folder / "here"
    place.mkdir()
    board.build_driver(folder, place, "g++", (f"-D{board.TRACE}",))
    (told,) = board.compile_program(folder, made, [(resolved(TvmOptions()), place)])
    assert told["functions"] and "not_scheduled" not in told
    return place


@needs_both
def test_the_accelerator_called_from_tvm_equals_the_reference(folder: Path, built: Path) -> None:
    made = parts(folder)
    told = board.check_here(built, made)
    tensors = [made.found.program.tensors[name] for name in made.found.program.outputs]
    numbers = sum(int(np.prod(tensor.shape)) for tensor in tensors)
    assert told["called_from_tvm"].startswith(f"{numbers} numbers")
    assert told["processor_difference"] < 1e-5


@needs_both
def test_the_whole_network_answers_like_the_reference(folder: Path, built: Path) -> None:
    made = parts(folder)
    reference = Execution(made.found, made.graph.shapes, reference_engine(made.found))
    for image in np.load(folder / "pictures.npy")[:2]:
        outputs, memory = board.run_here(built, made, image)
        wanted, numbers = reference.trace("images", image)
        for step in made.found.program.steps:
            if step.stage == 1 and step.output in made.found.program.outputs:
                assert np.array_equal(memory[step.output], numbers[step.output])
        # In between is a softmax in floating point: another processor may round it elsewhere.
        for name, value in wanted.items():
            assert np.abs(outputs[name] - value).max() < 0.03 * np.abs(value).max()


@needs_both
def test_an_accelerator_that_computes_something_else_is_noticed(
    folder: Path, built: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        if path.is_file():
            shutil.copyfile(path, tmp_path / path.name)
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[:64] = bytes(64)
    (tmp_path / "weights.bin").write_bytes(bytes(weights))
    shutil.copyfile(built / board.PROGRAM_FILE, tmp_path / board.PROGRAM_FILE)
    board.build_driver(tmp_path, tmp_path, "g++", (f"-D{board.TRACE}",))
    with pytest.raises(StageFailed, match="differs from the NumPy reference"):
        board.check_here(tmp_path, parts(folder))


@needs_both
def test_the_boards_driver_moves_everything_that_the_accelerator_needs(
    folder: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a stand-in for the vendor's runtime, whose buffers have two sides as on a board."""
    made, image = parts(folder), np.load(folder / "pictures.npy")[0]
    wanted, _ = board.run_here(built, made, image)
    (tmp_path / "xrt").mkdir()
    for header in ("xrt_bo.h", "xrt_device.h", "xrt_kernel.h"):
        (tmp_path / "xrt" / header).write_text(f'#include "{FAKE_XRT}"\n', "utf-8")
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas"]
    command += [f"-I{tmp_path}", "driver_xrt.cpp", "accelerator.cpp"]
    command += ["-Wl,-soname,libaccelerator.so", "-o", str(tmp_path / board.DRIVER_LIBRARY)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    shutil.copyfile(built / board.PROGRAM_FILE, tmp_path / board.PROGRAM_FILE)
    monkeypatch.setenv("EDGEMTL_XCLBIN", str(tmp_path / "none.xclbin"))
    with pytest.raises(StageFailed, match=r"no such file: .*none\.xclbin"):
        board.run_program(tmp_path, made, image)
    (tmp_path / "none.xclbin").touch()
    found = board.run_program(tmp_path, made, image)
    for name, value in wanted.items():
        assert np.array_equal(found[name], value)


def test_a_driver_that_does_not_compile_is_a_failed_stage(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="cannot compile the driver"):
        board.build_driver(folder, tmp_path, "g++", ("-DEXTERNAL_BYTES=",))
    with pytest.raises(StageFailed, match="cannot compile the driver"):
        board.build_driver(folder, tmp_path, "no-such-compiler")


def test_what_is_missing_is_told_and_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_of(targets.load("zcu104"))
    assert options.processor == "cortex-a53"
    other = options.model_copy(update={"compiler": "no-such-compiler"})
    if TvmBackend().availability().ok:
        assert board.lacking(other) == "'no-such-compiler' is missing"
    monkeypatch.setattr(
        "edgemtl.backends.tvm.backend.runtime_folder", lambda: (_ for _ in ()).throw(ImportError())
    )
    assert "missing" in str(board.lacking(options))


def test_the_shim_knows_every_tensor_of_a_turn(folder: Path) -> None:
    asked = parts(folder).request(folder)["turns"]
    text = shim(asked)
    for turn in asked:
        assert f"__tvm_ffi_edgemtl_accelerator_{turn['stage']}(" in text
        assert f"edgemtl_run({turn['stage']})" in text
        for port in (*turn["writes"], *turn["reads"]):
            height, width, channels = port["shape"]
            if port.get("copied", True):
                assert f"{port['offset']}, {height * width}, {channels}" in text
    # The second turn adds what the first left in the accelerator's memory. TVM is told of it, but
    # nothing is copied again.
    assert [[p["copied"] for p in turn["writes"]] for turn in asked] == [
        [True],
        [False, True],
        [True],
    ]


@needs_both
def test_the_marked_module_means_what_the_quantised_graph_means(folder: Path) -> None:
    """Before code generation all of it is TVM's, in floating point; in a process of its own."""
    request = parts(folder).request(folder)
    (folder / "request.json").write_text(json.dumps(request), "utf-8")
    image = np.load(folder / "pictures.npy")[0]
    np.save(folder / "picture.npy", image)
    environment = {**child.environment(1), "PLACE": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", IN_FLOAT], env=environment, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    marked, left = done.stdout.decode().split()
    assert marked == "edgemtl_accelerator_1,edgemtl_accelerator_3,edgemtl_accelerator_5"
    assert left == "main"
    (wanted,) = run(onnx.load(folder / "model.onnx"), image).values()
    found = np.load(folder / "answer.npy")
    # A number between two integers may go either way, and then moves what follows a little.
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()
