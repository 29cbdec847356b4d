"""The few calls of the CUDA runtime that the runner needs, by ctypes.

JetPack installs ``libcudart`` with TensorRT but no Python package for it.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

from ..errors import STAGE_FAILED, UNAVAILABLE, RunnerError

_NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_FOLDERS = ("", "/usr/local/cuda/lib64/")
_TO_DEVICE, _TO_HOST = 1, 2
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


class Cuda:
    """The CUDA runtime.

    Args:
        library: the loaded ``libcudart``.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p

    def _call(self, name: str, *arguments: Any) -> None:
        code = int(getattr(self._library, name)(*arguments))
        if code:
            text = self._library.cudaGetErrorString(code) or b"unknown error"
            message = f"{name} failed: {text.decode('utf-8', 'replace')} ({code})"
            raise RunnerError(STAGE_FAILED, message)

    def _pointer(self, name: str, *arguments: Any) -> int:
        made = ctypes.c_void_p()
        self._call(name, ctypes.byref(made), *arguments)
        return int(made.value or 0)

    def version(self) -> int:
        """Version of the runtime, 12060 for 12.6."""
        number = ctypes.c_int()
        self._call("cudaRuntimeGetVersion", ctypes.byref(number))
        return number.value

    def capability(self) -> str:
        """Compute capability of the first GPU, "8.7" say."""
        numbers = []
        for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
            number = ctypes.c_int()
            self._call("cudaDeviceGetAttribute", ctypes.byref(number), attribute, 0)
            numbers.append(str(number.value))
        return ".".join(numbers)

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes on the device."""
        return self._pointer("cudaMalloc", ctypes.c_size_t(max(size, 1)))

    def release(self, address: int) -> None:
        """Free what :meth:`allocate` gave."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def stream(self) -> int:
        """A new stream."""
        return self._pointer("cudaStreamCreate")

    def event(self) -> int:
        """A new event that takes time."""
        return self._pointer("cudaEventCreate")

    def record(self, event: int, stream: int) -> None:
        """Put the event into the stream."""
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def elapsed_ms(self, first: int, second: int) -> float:
        """Milliseconds between two events that have happened."""
        value = ctypes.c_float()
        self._call(
            "cudaEventElapsedTime",
            ctypes.byref(value),
            ctypes.c_void_p(first),
            ctypes.c_void_p(second),
        )
        return float(value.value)

    def to_device(self, address: int, host: int, size: int, stream: int) -> None:
        """Copy from the host, in the order of the stream."""
        self._copy(address, host, size, _TO_DEVICE, stream)

    def to_host(self, host: int, address: int, size: int, stream: int) -> None:
        """Copy to the host, in the order of the stream."""
        self._copy(host, address, size, _TO_HOST, stream)

    def _copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(to),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            kind,
            ctypes.c_void_p(stream),
        )

    def wait(self, stream: int) -> None:
        """Return when the stream has done all its work."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))


def load() -> Cuda:
    """The CUDA runtime of this machine.

    Raises:
        RunnerError: there is none.
    """
    found = ctypes.util.find_library("cudart")
    for name in ([found] if found else []) + [f + n for f in _FOLDERS for n in _NAMES]:
        try:
            return Cuda(ctypes.CDLL(name))
        except OSError:
            continue
    raise RunnerError(
        UNAVAILABLE, "the CUDA runtime (libcudart) is not here; on a Jetson it comes with JetPack"
    )
