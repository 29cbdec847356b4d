"""From a torch network to an ONNX file: exact folds, then one static graph.

Which exporter. Measured with torch 2.13.0 on mos-m, mos-s and mos-t (folded and cross-stitched,
plain and deformable) and a two-task dense network, opset 17 asked:

- ``torch.onnx.export(dynamo=True)`` writes opset 18 and converts down. For mos-s the result is
  labelled 17 but holds an opset-18 Split, which onnx.checker refuses; for a network with
  ``mean(dim=...)`` it stays at 18. It also stops with a SyntaxError when a submodule's name is a
  Python keyword (the stream ``class`` of MOS), and takes about ten times as long.
- ``dynamo=False`` writes opset 7 to 20 directly; all of the above were valid at 17 and within 1e-6
  of torch. It records Python control flow as it went, so a network that decides by values is
  refused before (exporting/frozen.py), and what it writes wrongly or not at all is computed by an
  equal form (exporting/portable.py).

So the second is used. It is deprecated but present; parity (exporting/parity.py) checks every
export.
"""

from __future__ import annotations

import copy
import ctypes
import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgemtl.exporting.deformable import LOWEST_OPSET, has_deformable, lowered
from edgemtl.exporting.experts import (
    choose_experts,
    unstack_weights,
    written_experts,
)
from edgemtl.exporting.failures import export_failure
from edgemtl.exporting.folds import fold_batch_norms, inline_identities
from edgemtl.exporting.frozen import check_static, refuse_sized_branches
from edgemtl.exporting.naming import modules_of, name_after_modules, tell_full_paths
from edgemtl.exporting.parametrised import settle_parametrisations
from edgemtl.exporting.portable import PortableForms
from edgemtl.exporting.portable_sizes import sizes
from edgemtl.files import write_atomically
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.experts import Lowering as ExpertLowering
from edgemtl.models.fast_path import without_fast_path

INPUT_NAME = "images"
#: highest opset the exporter writes; a runtime that knows a later one reads an earlier one too
HIGHEST_OPSET = 20


@dataclass(frozen=True)
class ExportResult:
    """An exported graph.

    Attributes:
        path: the ONNX file.
        opset: opset it was written in (may differ from the one asked; ``notes`` then says why).
        input_shape: (B, 3, H, W) of the input ``images``, float32.
        outputs: output names in order.
        tasks: task name -> its output names.
        modules: ONNX node name -> torch module path (empty path: the network's own forward).
        notes: what the reader must know; empty when there is nothing to say.
    """

    path: Path
    opset: int
    input_shape: tuple[int, ...]
    outputs: tuple[str, ...]
    tasks: Mapping[str, tuple[str, ...]]
    modules: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the path is reduced to its name, so that no machine shows."""
        return {
            "file": self.path.name,
            "opset": self.opset,
            "input_shape": list(self.input_shape),
            "outputs": list(self.outputs),
            "tasks": {name: list(outputs) for name, outputs in self.tasks.items()},
            "modules": dict(self.modules),
            "notes": list(self.notes),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any], folder: Path) -> ExportResult:
        """Parse :meth:`to_dict`; the file lies in ``folder``."""
        return ExportResult(
            folder / Path(str(data["file"])).name,
            int(data["opset"]),
            tuple(int(v) for v in data["input_shape"]),
            tuple(str(v) for v in data["outputs"]),
            {str(k): tuple(str(v) for v in names) for k, names in data["tasks"].items()},
            {str(k): str(v) for k, v in data["modules"].items()},
            tuple(str(v) for v in data["notes"]),
        )


class _InOrder(nn.Module):
    """The network as the exporter wants it: one tensor in, a tuple out."""

    def __init__(self, network: MultiTaskNetwork, tasks: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self._tasks = list(tasks)
        self._outputs = network.output_names(tasks)
        #: of each output, once it ran
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        tell_full_paths(self)
        answers = self.network(images, self._tasks)
        outputs = tuple(answers[name] for name in self._outputs)
        self.shapes = [sizes(output) for output in outputs]
        return outputs


def prepare(network: MultiTaskNetwork) -> MultiTaskNetwork:
    """A copy with the family's own exact folds applied, in eval mode on the CPU, float32.

    A family takes part by offering ``folded()``, which returns an equal network. Weights that
    torch's parametrisations compute on each call (weight norm, spectral norm) become what they are.
    """
    fold = getattr(network, "folded", None)
    made: MultiTaskNetwork = copy.deepcopy(network) if fold is None else fold()
    made = made.to("cpu", torch.float32).eval()
    settle_parametrisations(made)
    return made


def export_onnx(
    network: MultiTaskNetwork,
    path: Path,
    *,
    opset: int,
    tasks: Sequence[str] | None = None,
    deformable: Literal["native", "portable"] = "portable",
    batch: int = 1,
    experts: ExpertLowering | None = None,
) -> ExportResult:
    """Write ``network`` as one ONNX file with static shapes.

    The same network gives the same bytes; the file holds no path, time or stack trace.

    Args:
        network: left as it is.
        path: where to write.
        opset: ONNX opset wanted.
        tasks: tasks to keep (plus those they require); all by default.
        deformable: how deformable convolutions are written (see exporting/deformable.py).
        batch: images per run.
        experts: how mixtures of experts are written (see models/m3vit/experts.py), where the
            network has them; as the network is set by default.

    Raises:
        UsageError: a task the network does not have.
        InputRefused: the network's own forward raises.
        StageFailed: it decides by values of the picture, the exporter cannot write it, or the place
            cannot be written.
    """
    import onnx

    notes: list[str] = []
    opset = _usable_opset(network, opset, deformable, notes)
    selected = network.selected(tasks)
    own = prepare(network)
    if experts is not None:
        choose_experts(own, experts)
    outputs = own.output_names(tasks)
    wrapper = _InOrder(own, [task.name for task in selected]).eval()
    example = own.example_input(batch)
    buffer = io.BytesIO()
    try:
        with lowered(own, deformable, opset), without_fast_path():
            watched = check_static(own, [task.name for task in selected], batch)
        with (
            lowered(own, deformable, opset),
            written_experts(opset),
            without_fast_path(),
            warnings.catch_warnings(),
            _silenced(),
            torch.no_grad(),
            PortableForms(own) as forms,
        ):
            warnings.simplefilter("ignore")  # of sizes that are fixed here, and of its own age
            torch.onnx.export(
                wrapper,
                (example,),
                buffer,  # type: ignore[arg-type] # this exporter takes a stream too
                input_names=[INPUT_NAME],
                output_names=list(outputs),
                opset_version=opset,
                dynamo=False,
            )
        model = onnx.load_from_string(buffer.getvalue())
        inline_identities(model)
        name_after_modules(model, wrapper, "network.")
        unstack_weights(model)
        fold_batch_norms(model)
        for node in model.graph.node:
            node.ClearField("doc_string")
            del node.metadata_props[:]
        _settle_outputs(model, wrapper.shapes)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the exporter raises many kinds for what it cannot write
        raise export_failure(error, own, opset) from error
    refuse_sized_branches(watched, forms.decided)
    notes += watched.notes
    data = model.SerializeToString(deterministic=True)
    write_atomically(path, lambda stream: stream.write(data))
    return ExportResult(
        path,
        opset,
        tuple(example.shape),
        outputs,
        {task.name: task.outputs for task in selected},
        modules_of(model),
        tuple(notes),
    )


def _settle_outputs(model: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """Write the outputs' sizes, in place: the exporter leaves them open behind any padding."""
    for value, shape in zip(model.graph.output, shapes, strict=True):
        dimensions = value.type.tensor_type.shape.dim
        for dimension, size in zip(dimensions, shape, strict=True):
            dimension.dim_value = size


@contextmanager
def _silenced() -> Iterator[None]:
    """Drop what is written to the process's standard output.

    On failure the exporter's C++ part prints the whole graph there, where ``--json`` promises
    nothing but one document; it has to be dropped below Python.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        sys.stdout.flush()
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)


def _usable_opset(
    network: nn.Module, asked: int, deformable: Literal["native", "portable"], notes: list[str]
) -> int:
    """The opset to write, and a note wherever it is not the one asked."""
    lowest = LOWEST_OPSET[deformable] if has_deformable(network) else 0
    if asked < lowest:
        notes.append(
            f"opset raised from {asked} to {lowest}: {deformable} deformable convolution needs it"
        )
        return lowest
    if asked > HIGHEST_OPSET:
        notes.append(f"opset lowered from {asked} to {HIGHEST_OPSET}, the highest that is written")
        return HIGHEST_OPSET
    return asked
