"""What the board's processor runs: code of TVM for its turns, the accelerator's driver, a runner.

The driver in an artefact is the software model: the accelerator's own C++, compiled for the
processor. Beside it lie the sources, so that the board can build one for the accelerator itself.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.fpga.arith import Integers
from edgemtl.backends.fpga.device import FpgaOptions
from edgemtl.backends.fpga.emit import SOURCE_FILE, Emitted
from edgemtl.backends.fpga.execute import Execution
from edgemtl.backends.fpga.graph import Graph
from edgemtl.backends.fpga.partition import Partition
from edgemtl.backends.fpga.program import Program
from edgemtl.backends.fpga.reference import TYPES, run_stage
from edgemtl.backends.fpga.simulate import TIME_LIMIT_SECONDS
from edgemtl.backends.tvm import board as arm
from edgemtl.backends.tvm import child
from edgemtl.backends.tvm.backend import TvmBackend
from edgemtl.backends.tvm.session import PipeSession
from edgemtl.backends.tvm.settings import TvmOptions, resolved
from edgemtl.errors import StageFailed
from edgemtl.files import write_json
from edgemtl.processes import python_module

_HLS = Path(__file__).parent / "hls"
#: sources of the drivers, put beside the accelerator's
DRIVER_SOURCES = ("driver.h", "driver_model.cpp", "driver_xrt.cpp", "weights.h")
MODEL_DRIVER = "driver_model.cpp"
DRIVER_LIBRARY, PROGRAM_FILE, DESCRIPTION_FILE = "libaccelerator.so", "model.so", "program.json"
COMPILER_SECONDS = TIME_LIMIT_SECONDS
#: what the file of this name in the surroundings gets: the external memory after every turn
TRACE = "EDGEMTL_TRACE"
#: share of a tensor's integers that TVM and ONNX Runtime may round to neighbouring ones
NEIGHBOURS = 1e-3
#: between TVM's and ONNX Runtime's floating-point numbers, as a share of an output's range
PROCESSOR_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Parts:
    """What the processor's program is made from.

    Attributes:
        graph: the whole network.
        found: its split.
        emitted: the accelerator's side, as files.
    """

    graph: Graph
    found: Partition
    emitted: Emitted

    def request(self, folder: Path) -> dict[str, Any]:
        """For processor.py; the processor's turns lie in ``folder`` as ONNX files."""
        hosts = [host for host in self.found.hosts if host.model is not None]
        stages = sorted({step.stage for step in self.found.program.steps})
        return {
            "driver": str(_HLS),
            "model": str(folder.absolute() / "model.onnx"),
            "inputs": {name: self.graph.shapes[name] for name in self.graph.inputs},
            "outputs": list(self.graph.outputs),
            "hosts": [
                {
                    "stage": host.stage,
                    "file": str(folder.absolute() / f"host_{host.stage}.onnx"),
                }
                for host in hosts
            ],
            "turns": [self._turn(stage) for stage in stages],
        }

    def _turn(self, stage: int) -> dict[str, Any]:
        program, read = self.found.program, self.found.read
        steps = [step for step in program.steps if step.stage == stage]
        used = {name for step in steps for name in step.inputs}
        behind = _ancestors(program, used)
        made = {step.output for step in steps}
        return {
            "stage": stage,
            # What turns before this one were given and left their results of is named, for TVM to
            # see what this one depends on, but not copied again.
            "writes": [
                {**self._port(name), "copied": name in used}
                for name in program.inputs
                if name in behind
            ],
            "reads": [
                {
                    **self._port(name),
                    "real": [
                        {"name": left, "shape": self.graph.shapes[left]}
                        for left, source in read.items()
                        if source == name
                    ],
                }
                for name in dict.fromkeys(program.outputs)
                if name in made
            ],
        }

    def _port(self, name: str) -> dict[str, Any]:
        tensor = self.found.program.tensors[name]
        return {
            "name": name,
            "shape": list(tensor.shape),
            "graph_shape": list(self.graph.shapes.get(name, ())),
            "bits": tensor.bits,
            "rank": tensor.rank,
            "scale": tensor.scale.tolist(),
            "offset": self.emitted.external[name],
            "bytes": tensor.size_bytes,
        }


def _ancestors(program: Program, names: set[str]) -> set[str]:
    """These tensors, and all that they are made from inside the accelerator."""
    found, pending = set[str](), list(names)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += [read for s in program.steps if s.output == name for read in s.inputs]
    return found


def build_driver(folder: Path, place: Path, compiler: str, flags: tuple[str, ...] = ()) -> None:
    """Compile the software model of the accelerator into ``place``.

    Args:
        folder: of the accelerator's and the driver's sources.
        place: gets :data:`DRIVER_LIBRARY`.
        compiler: that makes code for the processor.
        flags: more for it.

    Raises:
        StageFailed: the compiler refused or took too long.
    """
    command = [compiler, "-std=c++17", "-O3", *flags, "-Wno-unknown-pragmas", "-shared", "-fPIC"]
    command += ["-s", "-Wl,--build-id=none", "-Wl,-soname," + DRIVER_LIBRARY, MODEL_DRIVER]
    command += [SOURCE_FILE, "-o", str(place.absolute() / DRIVER_LIBRARY)]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMPILER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StageFailed(f"'{compiler}' cannot compile the driver: {error}") from error
    if done.returncode:
        raise StageFailed(f"'{compiler}' cannot compile the driver" + child.tail(done.stderr))


def processor_of(options: FpgaOptions) -> TvmOptions:
    """The board's processor as TVM's rooms take it."""
    return TvmOptions(
        mcpu=options.processor,
        mtriple=options.processor_triple,
        cores=options.processor_cores,
        vector_bytes=16,
        registers=32,
        compiler=options.compiler,
        emulator=options.emulator,
    )


def lacking(options: FpgaOptions) -> str | None:
    """What is missing here to make the processor's program; None when nothing is."""
    state = TvmBackend().availability()
    if not state.ok:
        return state.reason
    if shutil.which(options.compiler) is None:
        return f"'{options.compiler}' is missing"
    return None


def add_program(folder: Path, parts: Parts, options: FpgaOptions) -> dict[str, Any]:
    """Put the processor's program beside the accelerator, and try the same program here.

    Args:
        folder: the artefact's; holds the accelerator's sources and the processor's ONNX files.
        parts: that they were made from.
        options: of the board.

    Returns:
        plain data: what was checked.

    Raises:
        TargetUnavailable: the board's libraries cannot be had; then nothing was added.
        StageFailed: a compiler refused, or the program here does not compute what it should.
    """
    arm.runtime()
    for name in DRIVER_SOURCES:
        shutil.copyfile(_HLS / name, folder / name)
    build_driver(folder, folder, options.compiler)
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as place:
        here = Path(place)
        build_driver(folder, here, "g++", ("-march=native", f"-D{TRACE}"))
        builds = [(processor_of(options), folder), (resolved(TvmOptions()), here)]
        told = compile_program(folder, parts, builds)[0]
        checked = check_here(here, parts)
    arm.add_files(folder, options.compiler)
    kept = {"not_scheduled": told["not_scheduled"]} if "not_scheduled" in told else {}
    return {**checked, **kept, "runtime_files": list(arm.FILES)}


def compile_program(
    folder: Path, parts: Parts, builds: Sequence[tuple[TvmOptions, Path]]
) -> list[dict[str, Any]]:
    """Compile the processor's program by TVM, in a process of its own.

    Args:
        folder: of the processor's ONNX files.
        parts: that they were made from.
        builds: processors, each with the folder of its driver, which gets :data:`PROGRAM_FILE`.

    Returns:
        per build what became of TVM's functions, see tvm/build.py.

    Raises:
        StageFailed: TVM refused, died or took too long.
    """
    wanted = [
        {
            "options": options.model_dump(),
            "library": str(place.absolute() / PROGRAM_FILE),
            "driver_folder": str(place.absolute()),
        }
        for options, place in builds
    ]
    asked = {**parts.request(folder), "builds": wanted}
    told: list[dict[str, Any]] = child.ask("edgemtl.backends.fpga.processor", asked)["told"]
    return told


def check_here(place: Path, parts: Parts) -> dict[str, Any]:
    """Run the program that was built for this machine once, and look at all it did.

    Every integer that the accelerator's C++ wrote must be what the NumPy reference makes of the
    integers it was given; the processor's turns must answer like ONNX Runtime given the same.

    Raises:
        StageFailed: it is not so, or the program died.
    """
    program = parts.found.program
    (name,) = parts.graph.inputs
    shape = parts.graph.shapes[name]
    images = np.random.default_rng(0).normal(0, 60, shape).astype(np.float32)
    outputs, memory = run_here(place, parts, images)
    wanted: dict[str, Integers] = {name: memory[name] for name in program.inputs}
    for stage in sorted({step.stage for step in program.steps}):
        run_stage(program, stage, wanted)
    count = 0
    for tensor in dict.fromkeys(program.outputs):
        different = int((wanted[tensor] != memory[tensor]).sum())
        count += memory[tensor].size
        if different:
            raise StageFailed(
                f"called from TVM's program, the emitted C++ differs from the NumPy reference in "
                f"{different} of {memory[tensor].size} numbers of '{tensor}'",
                hint="this is a defect in EdgeMTL or in a compiler; please report it",
            )
    largest = _held_against_onnxruntime(parts, images, outputs, memory)
    return {
        "called_from_tvm": f"{count} numbers of the accelerator equal to the NumPy reference",
        "processor_difference": float(f"{largest:.3g}"),
    }


def run_here(
    place: Path, parts: Parts, images: NDArray[np.float32]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Integers]]:
    """One run of the program built for this machine: outputs, and the accelerator's tensors.

    Args:
        place: its folder.
        parts: that it was made from.
        images: input.

    Raises:
        StageFailed: the program died.
    """
    trace = place / "trace.bin"
    outputs = run_program(place, parts, images, {TRACE: str(trace)})
    content = np.fromfile(trace, np.int8)
    program = parts.found.program
    memory: dict[str, Integers] = {}
    for wanted in (*program.inputs, *program.outputs):
        tensor = program.tensors[wanted]
        start = parts.emitted.external[wanted]
        part = content[start : start + tensor.size_bytes]
        memory[wanted] = part.view(TYPES[tensor.bits]).reshape(tensor.shape)
    return outputs, memory


def run_program(
    place: Path, parts: Parts, images: NDArray[np.float32], more: Mapping[str, str] | None = None
) -> dict[str, NDArray[np.float32]]:
    """One run of a program built for this machine, in a process of its own.

    Args:
        place: its folder.
        parts: that it was made from.
        images: input.
        more: surroundings of the process, beside this one's.

    Raises:
        StageFailed: the program died.
    """
    (name,) = parts.graph.inputs
    shape = parts.graph.shapes[name]
    described = place / DESCRIPTION_FILE
    write_json(described, {"input_shape": shape})
    shapes = {output: parts.graph.shapes[output] for output in parts.graph.outputs}
    command = python_module("edgemtl.backends.tvm.library", str(described))
    surroundings = {**child.environment(1), **(more or {})}
    session = PipeSession(command, surroundings, shape, shapes, "proxy")
    try:
        return session.run(images)
    finally:
        session.close()


def _held_against_onnxruntime(
    parts: Parts,
    images: NDArray[np.float32],
    outputs: Mapping[str, NDArray[np.float32]],
    memory: Mapping[str, Integers],
) -> float:
    """Largest difference of an output, as a share of its range.

    Raises:
        StageFailed: the processor's turns differ by more than rounding.
    """
    program = parts.found.program

    def replay(stage: int, seen: dict[str, Integers]) -> None:
        for name in program.inputs:
            if name in seen:
                steps = np.abs(seen[name].astype(np.int32) - memory[name])
                if steps.max() > 1 or (steps > 0).mean() > NEIGHBOURS:
                    raise StageFailed(
                        f"TVM's code for the processor rounds '{name}' to other integers than "
                        f"ONNX Runtime: {int((steps > 0).sum())} of {steps.size}, by up to "
                        f"{int(steps.max())}"
                    )
        made = {step.output for step in program.steps if step.stage == stage}
        seen.update({name: memory[name] for name in program.outputs if name in made})

    (name,) = parts.graph.inputs
    found = Execution(parts.found, parts.graph.shapes, replay).run(name, images)
    largest = 0.0
    for output, value in found.items():
        reach = max(float(np.abs(value).max()), 1e-9)
        largest = max(largest, float(np.abs(value - outputs[output]).max()) / reach)
    if not largest <= PROCESSOR_DIFFERENCE:
        raise StageFailed(
            f"TVM's code for the processor differs from ONNX Runtime by {largest:.2g} of an "
            "output's range"
        )
    return largest
