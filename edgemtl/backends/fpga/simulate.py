"""Compile the emitted C++ with g++ and play the accelerator with it, bit by bit, not in time."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgemtl.backends.fpga.arith import Integers
from edgemtl.backends.fpga.emit import HEADER_FILE, PARAMETERS_FILE, SOURCE_FILE, WEIGHTS_FILE
from edgemtl.backends.fpga.program import Program
from edgemtl.backends.fpga.reference import TYPES
from edgemtl.errors import StageFailed

COMPILER = "g++"
FLAGS = ["-std=c++17", "-O3", "-march=native", "-Wno-unknown-pragmas", "-shared", "-fPIC"]
TIME_LIMIT_SECONDS = 300.0
#: compiled sources of this process: hash -> library
_LIBRARIES: dict[str, ctypes.CDLL] = {}
# The library's memories are its own: one run at a time.
_RUNNING = threading.Lock()


@lru_cache(maxsize=1)
def compiler_version() -> str | None:
    """Version of g++; None where there is none."""
    if shutil.which(COMPILER) is None:
        return None
    try:
        done = subprocess.run(
            [COMPILER, "-dumpfullversion"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def library(folder: Path, time_limit_seconds: float = TIME_LIMIT_SECONDS) -> ctypes.CDLL:
    """The compiled simulation of an artefact's sources; compiled once per process.

    Raises:
        StageFailed: the compiler refused, was not there, or took too long.
    """
    sources = {name: (folder / name).read_bytes() for name in (SOURCE_FILE, HEADER_FILE)}
    key = hashlib.sha256(b"\0".join(sources.values())).hexdigest()
    if key not in _LIBRARIES:
        _LIBRARIES[key] = _compile(sources, time_limit_seconds)
    return _LIBRARIES[key]


def _compile(sources: dict[str, bytes], time_limit_seconds: float) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as place:
        for name, content in sources.items():
            (Path(place) / name).write_bytes(content)
        output = Path(place) / "accelerator.so"
        command = [COMPILER, *FLAGS, SOURCE_FILE, "-o", output.name]
        try:
            done = subprocess.run(
                command,
                cwd=place,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=time_limit_seconds,
                check=False,
            )
        except FileNotFoundError as error:
            raise StageFailed(f"the simulation needs {COMPILER}, which is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise StageFailed(
                f"{COMPILER} took more than {time_limit_seconds:.0f} s and was ended"
            ) from error
        if done.returncode:
            told = [line for line in done.stderr.splitlines() if "error" in line]
            raise StageFailed(f"{COMPILER} refused the emitted C++: {(told or ['silently'])[0]}")
        # Once loaded the file is no longer needed.
        found = ctypes.CDLL(str(output))
    found.accelerator.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int]
    found.accelerator.restype = None
    return found


class Simulation:
    """The emitted C++ as an engine (see execute.py).

    Args:
        folder: of the artefact's sources and binaries.
        program: that they were written from.
        external: tensor -> offset in the external memory.
        external_bytes: of it.
    """

    def __init__(
        self, folder: Path, program: Program, external: dict[str, int], external_bytes: int
    ) -> None:
        self._library = library(folder)
        self._weights = np.fromfile(folder / WEIGHTS_FILE, np.int8)
        self._parameters = np.fromfile(folder / PARAMETERS_FILE, "<i4")
        self._program, self._external = program, external
        self._memory = np.zeros(external_bytes, np.int8)

    def __call__(self, stage: int, memory: dict[str, Integers]) -> None:
        """Run a stage: the processor's tensors in, the tensors it reads out."""
        for name in self._program.inputs:
            if name in memory:
                self._view(name)[...] = memory[name]
        with _RUNNING:
            self._library.accelerator(
                self._weights.ctypes.data,
                self._parameters.ctypes.data,
                self._memory.ctypes.data,
                stage,
            )
        written = {step.output for step in self._program.steps if step.stage == stage}
        for name in self._program.outputs:
            if name in written:
                memory[name] = self._view(name).copy()

    def _view(self, name: str) -> Integers:
        tensor = self._program.tensors[name]
        start = self._external[name]
        part = self._memory[start : start + tensor.size_bytes]
        return part.view(TYPES[tensor.bits]).reshape(tensor.shape)
