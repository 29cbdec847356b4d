"""What a network is held against: the dense one that it was pruned from, where that is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgemtl.errors import EdgemtlError, UsageError
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network, weights_hash
from edgemtl.models.origin import origin_of
from edgemtl.tasks.base import Task

#: said of a pruned network whose dense one is not there
ITSELF = "itself: the dense network is not here; give --reference"


@dataclass(frozen=True)
class Reference:
    """A dense network to be held against.

    Attributes:
        path: its checkpoint, or bare state dict with a factory.
        network: in eval mode.
        found: how it was found, a clause.
    """

    path: Path
    network: MultiTaskNetwork
    found: str

    @property
    def name(self) -> str:
        """What a reader knows it by."""
        return self.path.name

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of its weights."""
        return weights_hash(self.network)


@dataclass(frozen=True)
class Against:
    """What a network is compared with.

    Attributes:
        reference: another network; None where it is compared with itself.
        note: completes "compared with": a name, or that it is itself and why; empty where a
            network was never pruned and stands for itself as a matter of course.
    """

    reference: Reference | None = None
    note: str = ""


def find_reference(
    model: Path,
    network: MultiTaskNetwork | None,
    factory: str | None,
    asked: Path | None,
    tasks: Sequence[Task],
) -> Against:
    """The reference that was asked for, else the dense network that a pruning record names.

    The record's file is taken only if its weights are those that were pruned.

    Args:
        model: checkpoint, ONNX file or bundle.
        network: that it holds; None where it is no checkpoint, and so has no record.
        factory: builds the user's own network, the reference's too.
        asked: the user's reference, if any.
        tasks: that will be compared.

    Raises:
        InputRefused: the user's reference is refused.
        UsageError: it lacks a task.
    """
    if asked is not None:
        dense = load_network(asked, factory)
        _check_tasks(dense, tasks, str(asked))
        if network is not None and weights_hash(dense) == weights_hash(network):
            return Against(note=ITSELF if network.pruning else "")
        return Against(Reference(asked, dense, "given as --reference"), asked.name)
    if network is None or not network.pruning:
        return Against()
    origin = origin_of(model)
    for path in [] if origin is None else origin.candidates(model):
        try:
            dense = load_network(path, factory)
            _check_tasks(dense, tasks, str(path))
        except EdgemtlError:
            continue
        if origin is not None and weights_hash(dense) == origin.weights_sha256:
            found = Reference(path, dense, "named by the pruning record")
            return Against(found, found.name)
    return Against(note=ITSELF)


def _check_tasks(dense: MultiTaskNetwork, tasks: Sequence[Task], where: str) -> None:
    own = {task.name: task for task in dense.tasks}
    for task in tasks:
        if task.name not in own or own[task.name].primary != task.primary:
            raise UsageError(
                f"the reference has no task '{task.name}' that could be compared",
                where=where,
                hint=f"its tasks: {', '.join(own)}",
            )
