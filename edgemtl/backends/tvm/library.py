"""A compiled library, run through TVM's runtime alone: no compiler, no LLVM in the process.

As a program: ``python -m edgemtl.backends.tvm.library MODEL.json``, the process that holds a
library for :mod:`edgemtl.backends.tvm.session`. It writes ``R`` when it is ready; then for every
input, ``4 * elements`` bytes on standard input, it writes ``O`` and all outputs, float32 one after
the other. The Arm runner speaks the same (``runner.cc``).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: TVM's code loads whole vectors and takes the address for a multiple of this
ALIGNMENT = 64
_CPU, _POOLED = 1, 2
_LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_extra.so")
_opened: list[Any] = []


def aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A zeroed float32 array at an address that TVM's code takes."""
    size = int(np.prod(shape)) * 4
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + size].view(np.float32).reshape(shape)


def runtime_folder() -> Path:
    """Where the installed TVM keeps its libraries.

    Raises:
        ImportError: TVM is not installed.
    """
    found = util.find_spec("tvm")
    if found is None or not found.submodule_search_locations:
        raise ImportError("the package 'tvm' is missing")
    return Path(next(iter(found.submodule_search_locations))) / "lib"


class Library:
    """A library in this process.

    Args:
        path: the shared library; its path must hold a slash.
        threads: workers of TVM's pool, which is one for the process; 0 lets TVM choose.

    Raises:
        OSError, RuntimeError: it cannot be loaded.
    """

    def __init__(self, path: Path, threads: int) -> None:
        if threads:
            os.environ["TVM_NUM_THREADS"] = str(threads)
        import tvm_ffi

        if not _opened:
            folder = runtime_folder()
            _opened.extend(ctypes.CDLL(str(folder / n), ctypes.RTLD_GLOBAL) for n in _LIBRARIES)
        self._view = tvm_ffi.from_dlpack
        self._machine = tvm_ffi.load_module(str(path.absolute()))["vm_load_executable"]()
        self._machine["vm_initialization"](_CPU, 0, _POOLED)
        self._main = self._machine["main"]
        self._input: NDArray[np.float32] = aligned((0,))

    def run(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Run once; the arrays returned are the caller's."""
        if self._input.shape != images.shape:
            self._input = aligned(images.shape)
        self._input[...] = images
        result = self._main(self._view(self._input))
        values = list(result) if not hasattr(result, "shape") else [result]
        return [np.asarray(np.from_dlpack(value), np.float32) for value in values]


def main(arguments: list[str]) -> int:
    """Program of the process that holds a library."""
    sys.modules["torch"] = None  # type: ignore[assignment] # tvm_ffi would load it for nothing
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a runtime prints is no answer
    described = Path(arguments[0])
    shape = tuple(json.loads(described.read_text("utf-8"))["input_shape"])
    library = Library(described.with_name("model.so"), 0)
    size = 4 * int(np.prod(shape))
    answers.write(b"R")
    answers.flush()
    while len(data := sys.stdin.buffer.read(size)) == size:
        outputs = library.run(np.frombuffer(data, np.float32).reshape(shape))
        answers.write(b"O" + b"".join(np.ascontiguousarray(value).tobytes() for value in outputs))
        answers.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
