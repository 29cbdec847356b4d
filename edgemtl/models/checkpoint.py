"""The safe checkpoint: ``model.pt`` as a dict of tensors and plain data, never executed.

Layout (``format`` 1)::

    {"edgemtl_checkpoint": 1, "family": str, "arguments": {...}, "state_dict": {name: Tensor},
     "tasks": [TaskSpec...], "input": InputSpec, "pruning": [...], "meta": {...}}

Read with ``torch.load(weights_only=True)``: a file that needs anything else is refused with the
reason. ``pruning`` lists, in order, the records that ``edgemtl.models.surgery`` applies to the
freshly built architecture before the weights are loaded.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import EdgemtlError, InputRefused
from edgemtl.files import write_atomically
from edgemtl.models import registry
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.memory import require_memory
from edgemtl.sinks import MOST_IN_PATH, check_name
from edgemtl.tasks.registry import spec_from_dict

FORMAT_KEY = "edgemtl_checkpoint"
FORMAT = 1
#: bytes of a weight whose numbers are not all stored, as of a constant that was expanded
MOST_EXPANDED = 64 << 20
#: what torch computes with on a CPU; float8 and int4 are ways to store, not to compute
_TYPES = frozenset(
    {
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    }
)


@dataclass(frozen=True)
class Checkpoint:
    """A parsed checkpoint; :meth:`network` builds what it describes."""

    family: str
    arguments: Mapping[str, Any]
    state_dict: Mapping[str, Tensor]
    tasks: tuple[Mapping[str, Any], ...]
    input: Mapping[str, Any]
    pruning: tuple[Mapping[str, Any], ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    def network(self) -> MultiTaskNetwork:
        """Build the network, in eval mode, with its weights.

        Raises:
            InputRefused: unknown family, unfitting arguments or weights, NaN or infinite weights.
        """
        network = registry.build(self.family, self.arguments)
        stored = [spec_from_dict(task).to_dict() for task in self.tasks]
        if [task.spec().to_dict() for task in network.tasks] != stored:
            raise InputRefused(
                "the tasks stored in the checkpoint are not those its family builds",
                hint="was it written by another version?",
            )
        if network.input_spec != InputSpec.from_dict(self.input):
            raise InputRefused("the stored input specification is not what the family builds")
        return self.fill(network)

    def fill(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Give a freshly built network the widths and weights of this checkpoint, in eval mode.

        Raises:
            InputRefused: widths or weights do not fit it.
        """
        if self.pruning:
            from edgemtl.models.surgery import apply_records

            apply_records(network, self.pruning)
        network.pruning = [dict(record) for record in self.pruning]
        load_weights(network, self.state_dict)
        return network.eval()


def is_plain_tensor(value: Any) -> bool:
    """Whether this is a dense tensor of real numbers in memory, as a weight has to be."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_complex()
        and not value.is_quantized
    )


def check_tensors(state: Mapping[str, Tensor]) -> None:
    """Refuse weights that nothing here computes with, before anything looks into them.

    Args:
        state: what a file held.

    Raises:
        InputRefused: a name that is none; a type of fewer than 16 bits per number (float8, int4),
            a complex, quantised or sparse tensor; or a large one whose numbers are not all stored:
            a stride of 0 makes terabytes out of four bytes.
    """
    odd = [name for name, value in state.items() if not is_plain_tensor(value)]
    if odd:
        raise InputRefused(f"'{odd[0]}' is not a dense tensor of real numbers")
    for name, value in state.items():
        check_name(name, "the name of a weight", MOST_IN_PATH)
        if value.dtype not in _TYPES:
            raise InputRefused(
                f"weight '{name}' is of type {str(value.dtype).removeprefix('torch.')}, which "
                "nothing here computes with",
                hint="store it as float32, float16 or bfloat16",
            )
        size = value.numel() * value.element_size()
        if size > max(MOST_EXPANDED, value.untyped_storage().nbytes()):
            raise InputRefused(
                f"weight '{name}' of shape {tuple(value.shape)} holds more numbers than the file",
                hint="store a copy of its own: tensor.clone()",
            )


def load_weights(network: MultiTaskNetwork, state: Mapping[str, Tensor]) -> None:
    """Load a state dict strictly.

    Raises:
        InputRefused: keys or shapes do not fit, or a weight is NaN or infinite.
    """
    check_tensors(state)
    broken = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]
    if broken:
        raise InputRefused(
            f"{len(broken)} weight tensor(s) hold NaN or infinite values, first '{broken[0]}'",
            hint="the training run that wrote this checkpoint diverged",
        )
    expected = network.state_dict()
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    if missing or unknown:
        first = f"first missing '{missing[0]}'" if missing else f"first unknown '{unknown[0]}'"
        raise InputRefused(
            f"the weights do not fit the network: {len(missing)} missing, {len(unknown)} unknown, "
            f"{first}"
        )
    for name, value in expected.items():
        if state[name].shape != value.shape:
            raise InputRefused(
                f"weight '{name}' has shape {tuple(state[name].shape)}, "
                f"the network wants {tuple(value.shape)}"
            )
    network.load_state_dict(dict(state))


def from_network(network: MultiTaskNetwork, meta: Mapping[str, Any] | None = None) -> Checkpoint:
    """Describe a network of a registered family (weights are copied to CPU float tensors)."""
    state = {
        name: value.detach().to("cpu").contiguous().clone()
        for name, value in network.state_dict().items()
    }
    return Checkpoint(
        network.family,
        network.arguments,
        state,
        tuple(task.spec().to_dict() for task in network.tasks),
        network.input_spec.to_dict(),
        tuple(network.pruning),
        dict(meta or {}),
    )


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write atomically.

    Raises:
        StageFailed: the place cannot be written.
    """
    payload = {
        FORMAT_KEY: FORMAT,
        "family": checkpoint.family,
        "arguments": dict(checkpoint.arguments),
        "state_dict": dict(checkpoint.state_dict),
        "tasks": [dict(task) for task in checkpoint.tasks],
        "input": dict(checkpoint.input),
        "pruning": [dict(record) for record in checkpoint.pruning],
        "meta": dict(checkpoint.meta),
    }
    # Into memory first: torch turns a full disk into an internal error that names no cause.
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    write_atomically(path, lambda stream: stream.write(buffer.getbuffer()))


def load_tensors(path: Path) -> Any:
    """``torch.load(weights_only=True)`` with every failure turned into a refusal.

    Raises:
        InputRefused: missing, empty, truncated, larger than the memory, or holding anything but
            tensors and plain data.
    """
    if path.is_dir():
        raise InputRefused("this is a folder, not a checkpoint", where=str(path))
    try:
        if path.stat().st_size == 0:
            raise InputRefused("the checkpoint is empty", where=str(path))
        require_memory(path, 1, "reading")
        with warnings.catch_warnings():
            # What torch has to say about a foreign pickle, the refusal below says better.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputRefused("there is no such file", where=str(path)) from error
    except pickle.UnpicklingError as error:
        detail = str(error).splitlines()[0] if str(error) else ""
        if _is_zip(path) or "Unsupported" in str(error) or "global" in str(error):
            raise InputRefused(
                "the file holds code or classes, not only tensors and plain data; it was not run",
                where=str(path),
                hint="export a state dict with torch.save(model.state_dict(), ...) and use "
                "'edgemtl import'",
            ) from error
        raise InputRefused(f"not a readable checkpoint: {detail}", where=str(path)) from error
    except EdgemtlError:
        raise
    except Exception as error:  # torch raises many kinds for corrupt archives
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputRefused(
            f"the checkpoint is truncated or corrupt: {detail}", where=str(path)
        ) from error


def load(path: Path) -> Checkpoint:
    """Read and check a checkpoint.

    Raises:
        InputRefused: unreadable, unsafe, or not an EdgeMTL checkpoint.
    """
    payload = load_tensors(path)
    if not isinstance(payload, dict) or FORMAT_KEY not in payload:
        raise InputRefused(
            "this is not an EdgeMTL checkpoint",
            where=str(path),
            hint="published weights join by 'edgemtl import SOURCE --family F'; your own network "
            "by --factory package.module:build",
        )
    _check_sums(path)
    version = payload[FORMAT_KEY]
    if type(version) is not int or version != FORMAT:
        raise InputRefused(
            f"checkpoint format {str(version)[:40]!r} is not supported (this version reads "
            f"{FORMAT})",
            where=str(path),
        )
    wanted: dict[str, type | tuple[type, ...]] = {
        "family": str,
        "arguments": dict,
        "state_dict": dict,
        "tasks": list,
        "input": dict,
        "pruning": list,
        "meta": dict,
    }
    for key, kind in wanted.items():
        if not isinstance(payload.get(key), kind):
            raise InputRefused(f"the field '{key}' is missing or malformed", where=str(path))
    for key in ("tasks", "pruning"):
        if not all(isinstance(item, dict) for item in payload[key]):
            raise InputRefused(f"the field '{key}' is missing or malformed", where=str(path))
    if not _is_state_dict(payload["state_dict"]):
        raise InputRefused("the state dict holds something that is no tensor", where=str(path))
    return Checkpoint(
        payload["family"],
        payload["arguments"],
        payload["state_dict"],
        tuple(payload["tasks"]),
        payload["input"],
        tuple(payload["pruning"]),
        payload["meta"],
    )


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # a damaged directory: it claims to go on in another file
        return True


def _check_sums(path: Path) -> None:
    """Refuse a file whose bytes are not those that were saved; torch itself does not look.

    Raises:
        InputRefused: a member does not have the CRC-32 that was stored with it.
    """
    if not _is_zip(path):
        return  # torch's format before 1.6 has no sums
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged directory makes zipfile raise many kinds
        raise InputRefused(f"the checkpoint is corrupt: {error}", where=str(path)) from error
    if damaged is not None:
        raise InputRefused(
            f"the checkpoint is corrupt: '{damaged}' is not what was saved", where=str(path)
        )


def _is_state_dict(value: Any) -> TypeGuard[dict[str, Tensor]]:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def load_network(path: Path, factory: str | None = None) -> MultiTaskNetwork:
    """The network of a checkpoint, or of the user's factory with the weights of a state dict.

    Args:
        path: an EdgeMTL checkpoint; with ``factory`` also a bare state dict. What was cut from the
            factory's network is cut again.
        factory: ``package.module:function`` that builds the architecture.

    Raises:
        InputRefused: the file is refused (see :func:`load`).
        UsageError: the factory does not work.
    """
    if factory is None:
        try:
            return load(path).network()
        except InputRefused as error:
            if error.where is None:
                error.where = str(path)
            raise
    network = registry.from_factory(factory)
    payload = load_tensors(path)
    if isinstance(payload, dict) and payload.get("pruning") and FORMAT_KEY in payload:
        return load(path).fill(network)
    state = payload.get("state_dict", payload) if isinstance(payload, dict) else None
    if not _is_state_dict(state):
        raise InputRefused("the file holds no state dict", where=str(path))
    load_weights(network, state)
    return network.eval()


def weights_hash(network: MultiTaskNetwork) -> str:
    """SHA-256 over names, shapes, types and bytes of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


__all__ = [
    "Checkpoint",
    "check_tensors",
    "from_network",
    "load",
    "load_network",
    "load_tensors",
    "load_weights",
    "save",
    "weights_hash",
]
