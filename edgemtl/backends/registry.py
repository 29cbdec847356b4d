"""Backends by name; third parties add theirs by the entry point ``edgemtl.backends``."""

from __future__ import annotations

import contextlib
import importlib

from edgemtl.backends.base import Backend
from edgemtl.errors import TargetUnavailable, UsageError
from edgemtl.plugins import points
from edgemtl.targets import Target

#: built-in backends: module and class, imported only when asked for
_BUILT_IN = {
    "onnxruntime": ("edgemtl.backends.onnxruntime", "OnnxRuntimeBackend"),
    "openvino": ("edgemtl.backends.openvino", "OpenVinoBackend"),
    "tensorrt": ("edgemtl.backends.tensorrt.backend", "TensorRtBackend"),
    "tvm": ("edgemtl.backends.tvm.backend", "TvmBackend"),
    "fpga": ("edgemtl.backends.fpga.backend", "FpgaBackend"),
    "tensorrt-rtx": ("edgemtl.backends.tensorrt.backend", "TensorRtRtxBackend"),
}
_GROUP = "edgemtl.backends"
#: what runs an ONNX file that no target was named for
REFERENCE = "onnxruntime"


def names() -> list[str]:
    """Names of all backends, whether or not their runtime is installed."""
    return sorted({*_BUILT_IN, *(point.name for point in points(_GROUP))})


def get(name: str) -> Backend:
    """The backend of this name; its runtime is not imported yet.

    Raises:
        UsageError: there is no such backend.
        TargetUnavailable: a third party's backend cannot be imported.
    """
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name]
        backend: Backend = getattr(importlib.import_module(module), attribute)()
        return backend
    for point in points(_GROUP, name):
        try:
            made = point.load()()
        except Exception as error:  # whatever a third party's module does when imported
            raise TargetUnavailable(
                f"backend '{name}' cannot be imported: {error}", where=point.value
            ) from error
        if not isinstance(made, Backend):
            raise TargetUnavailable(
                f"backend '{name}' is not an edgemtl.backends.base.Backend", where=point.value
            )
        return made
    raise UsageError(f"unknown backend '{name}'", hint=f"backends: {', '.join(names())}")


def importable() -> dict[str, Backend]:
    """All backends by name, but for other packages' that cannot be imported; 'doctor' names those.

    One broken package must not stop what does not need it.
    """
    found = {}
    for name in names():
        with contextlib.suppress(TargetUnavailable):
            found[name] = get(name)
    return found


def with_server(address: str) -> Backend | None:
    """The backend whose runtime has servers at such addresses (``Capabilities.rpc``)."""
    for backend in importable().values():
        server = backend.capabilities.rpc
        if server is not None and address.startswith(f"{server.scheme}:"):
            return backend
    return None


def with_backend(target: Target, backend: str) -> Target:
    """The target built by another backend, for the same devices (``Capabilities.replaces``).

    Raises:
        UsageError: no such backend builds for them.
    """
    if backend == target.backend:
        return target
    others = {
        name: changes
        for name, other in importable().items()
        if (changes := other.capabilities.replaces.get(target.backend)) is not None
    }
    if backend not in others:
        known = ", ".join([target.backend, *others])
        raise UsageError(
            f"target '{target.name}' is not built by '{backend}'",
            where="--backend",
            hint=f"it is built by {known}",
        )
    told = {"backend": backend, "description": f"{target.device} with {backend}"}
    return target.model_copy(update={**others[backend], **told})
