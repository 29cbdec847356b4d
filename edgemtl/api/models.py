"""Checkpoints: read, looked at, written as ONNX."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from edgemtl.api.asking import (
    AnyPath,
    AnyTarget,
    Factory,
    Names,
    factory_of,
    names,
    path_of,
    target_of,
)
from edgemtl.errors import UsageError
from edgemtl.exporting.module_cost import NetworkCost, module_costs
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import from_network, load_network, save, weights_hash
from edgemtl.pipeline.exporting import export_file
from edgemtl.pipeline.inspection import inspect_file
from edgemtl.report.inspection import print_inspection
from edgemtl.report.terminal import plain_console
from edgemtl.targets import Target


@dataclass(frozen=True, repr=False)
class Model:
    """A network read from a checkpoint; it can stand wherever the checkpoint's path can.

    Attributes:
        path: of the checkpoint.
        factory: ``package.module:function`` that built it; None for a registered family.
        network: a ``torch.nn.Module`` in eval mode: pictures of shape (B, 3, H, W), float32,
            normalised as its ``input_spec`` says, give a mapping of output name to tensor.
    """

    path: Path
    factory: str | None
    network: MultiTaskNetwork
    _weights: str = field(default="", compare=False)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of its tasks, in output order."""
        return tuple(task.name for task in self.network.tasks)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of a picture, in pixels."""
        height, width = self.network.input_spec.size
        return height, width

    @cached_property
    def _cost(self) -> NetworkCost:
        return module_costs(self.network, alone=False)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one picture."""
        return self._cost.macs

    @property
    def parameters(self) -> int:
        """Trainable values that its tasks use."""
        return self._cost.parameters

    def save(self, path: AnyPath) -> Model:
        """Write the network as it is now, and return the model that this file holds.

        Raises:
            UsageError: a network of no registered family, which a checkpoint cannot describe.
            StageFailed: the place cannot be written.
        """
        if self.factory is not None:
            raise UsageError(
                "a checkpoint holds networks of registered families only",
                where=str(path),
                hint="torch.save(model.network.state_dict(), path), and give the factory with it",
            )
        save(from_network(self.network, {"saved_from": self.path.name}), path_of(path))
        return load_model(path)

    def __fspath__(self) -> str:
        if weights_hash(self.network) != self._weights:
            raise UsageError(
                "the network's weights are no longer those of its file",
                where=str(self.path),
                hint="model.save(path) writes them, and returns a model that can be given on",
            )
        return os.fspath(self.path)

    def __str__(self) -> str:
        height, width = self.input_size
        return (
            f"{self.path}: {self.parameters:,} parameters, {self.macs / 1e6:,.1f} M MACs at "
            f"{height}x{width}, tasks {', '.join(self.tasks)}"
        )

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r}, tasks={self.tasks})"


def load_model(path: AnyPath, *, factory: Factory = None) -> Model:
    """Read a checkpoint; no code in it is run.

    Args:
        path: of the checkpoint.
        factory: builds your own network: a function of a module, or ``"package.module:function"``.

    Raises:
        InputRefused: it is not there, damaged, or not a network that is known here.
        UsageError: the factory cannot be imported.
    """
    place, made_by = path_of(path), factory_of(factory, path)
    network = load_network(place, made_by)
    return Model(place, made_by, network, weights_hash(network))


@dataclass(frozen=True)
class Exported:
    """An ONNX file; it can stand wherever its path can.

    Attributes:
        path: of the file.
        opset: that it was written in.
        tasks: task -> names of its outputs.
        notes: what a reader must know.
    """

    path: Path
    opset: int
    tasks: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        outputs = ", ".join(name for owned in self.tasks.values() for name in owned)
        told = [f"{self.path}: opset {self.opset}, outputs {outputs}"]
        return "\n".join([*told, *(f"note: {note}" for note in self.notes)])


def export(
    model: AnyPath,
    output: AnyPath,
    *,
    target: AnyTarget = "cpu",
    opset: int | None = None,
    tasks: Names = None,
    factory: Factory = None,
) -> Exported:
    """Write a network as one simplified ONNX file and check that it computes the same.

    Args:
        model: checkpoint.
        output: ONNX file to write.
        target: whose opset and operators are used.
        opset: instead of the target's.
        tasks: to keep; all by default.
        factory: as for :func:`load_model`.

    Raises:
        InputRefused: the model is refused.
        UsageError: a task or an opset that there is not.
        ParityFailed: the file computes something else; it is not left behind.
        StageFailed: the network cannot be exported, or the place cannot be written.
    """
    place, kept = path_of(output), names(tasks)
    found = export_file(
        path_of(model),
        place,
        target_of(target),
        opset,
        list(kept) if kept else None,
        factory_of(factory, model),
    )
    owned = {str(name): tuple(outputs) for name, outputs in found["tasks"].items()}
    return Exported(place, int(found["opset"]), owned, tuple(found["notes"]))


@dataclass(frozen=True)
class Inspected:
    """What a checkpoint or a bundle is.

    Attributes:
        path: of the file.
        kind: ``checkpoint`` or ``bundle``.
        parameters: trainable values; None where a bundle does not say.
        macs: multiply-accumulates for one picture, likewise.
        input_size: height and width of a picture, in pixels.
        tasks: task -> names of its outputs.
        facts: everything, as ``edgemtl inspect --json`` prints it.
    """

    path: Path
    kind: str
    parameters: int | None
    macs: int | None
    input_size: tuple[int, int]
    tasks: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        stream = io.StringIO()
        print_inspection(self.facts, console=plain_console(stream))
        return stream.getvalue().removesuffix("\n")


def inspect(
    model: AnyPath,
    *,
    targets: AnyTarget | Sequence[AnyTarget] = (),
    groups: bool = False,
    factory: Factory = None,
) -> Inspected:
    """Look at a checkpoint or a bundle without measuring anything.

    Args:
        model: checkpoint or bundle.
        targets: also say what these cannot run (``facts["targets"]``).
        groups: also list the channels that pruning can cut, and why it cannot cut the others
            (``facts["channels"]``).
        factory: as for :func:`load_model`.

    Raises:
        InputRefused: the file is refused.
        UsageError: an ONNX file, or a target that there is not.
    """
    place = path_of(model)
    if isinstance(targets, str | os.PathLike | Target):
        targets = (targets,)
    wanted = [target_of(each) for each in targets]
    found = inspect_file(place, factory_of(factory, model), wanted, groups)
    height, width = found["input"]["size"]
    return Inspected(
        place,
        str(found["kind"]),
        found["params"],
        found["macs"],
        (int(height), int(width)),
        {str(name): tuple(task["outputs"]) for name, task in found["tasks"].items()},
        found,
    )
