"""One of the processes that look at held-out pictures for a search that runs elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgemtl.compress.batches import Prepared, losses_of
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.cost import Goals
from edgemtl.compress.job import Job, PruneOptions
from edgemtl.compress.replay.graph import State, TracedNetwork
from edgemtl.compress.replay.losses import LossEvaluator, LossRequest
from edgemtl.compress.replay.remote import packed, signature, state_of, unpacked
from edgemtl.data.samples import Faces
from edgemtl.errors import InputRefused, StageFailed, UsageError
from edgemtl.files import write_atomically
from edgemtl.models.base import MultiTaskNetwork

#: marks labels that are faces among those that are arrays
_FACES = "faces"


class Answers:
    """Answers questions of :class:`edgemtl.compress.replay.remote.RemoteLossEvaluator`.

    What is kept is of the state that the last question called committed; what differs from it in
    the next one's is dropped.

    Args:
        network: that is searched, in eval mode.
        pictures: held-out pictures and those of the calibration batch, as the search has them.
        expected: signature of the search's network and graph.
        options: the search's, for which groups it leaves whole.

    Raises:
        StageFailed: the network is another one here.
    """

    def __init__(
        self,
        network: MultiTaskNetwork,
        pictures: tuple[list[Prepared], list[Prepared]],
        expected: str,
        options: PruneOptions | None = None,
    ) -> None:
        asked = options or PruneOptions()
        self._job = Job(network, pictures, asked, Goals(), None, None, lambda line: None, None)
        if signature(self._job.network, self._job.traced) != expected:
            raise StageFailed(
                "the network is another one on the worker",
                hint="workers need the same version of your own network's code (--factory)",
            )
        self._pictures = LossEvaluator(self._job.traced, network.tasks, self._job.batches)
        self._committed = State()
        self._cut: tuple[dict[str, Tensor], MultiTaskNetwork] | None = None

    def answer(self, message: bytes) -> bytes:
        """The losses that a message asks for; nothing for an empty one."""
        if not message:
            return b""
        asked = unpacked(message)
        if "keep" in asked:
            smaller = self._smaller(asked["keep"])
            batch = self._job.batches[asked["index"]]
            return packed({"losses": [torch.from_numpy(losses_of(smaller, batch))]})
        self._bring_to(state_of(asked["committed"]), set(asked["unstored"]))
        found = []
        for one in asked["questions"]:
            state = self._committed if one["state"] is None else state_of(one["state"])
            question = LossRequest(
                one["index"], state, int(one["dirty"], 16), tuple(one["columns"])
            )
            losses, _ = self._pictures.losses(question)
            found.append(torch.from_numpy(losses))
        return packed({"losses": found})

    def _bring_to(self, committed: State, unstored: set[int]) -> None:
        """Keep only what the committed state has in common with the one before."""
        traced = self._job.traced
        for index, step in enumerate(traced.steps):
            step.stored = index not in unstored
        gone = stale(traced, self._committed, committed) | unstored
        for store in self._pictures.stores:
            for index in [index for index in store if index in gone]:
                del store[index]
        self._committed = committed

    def _smaller(self, keep: dict[str, Tensor]) -> MultiTaskNetwork:
        if self._cut is None or not _same(self._cut[0], keep):
            self._cut = keep, cut(self._job.network, keep, self._job.groups)
        return self._cut[1]


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stale(traced: TracedNetwork, old: State, new: State) -> set[int]:
    """Steps whose output may differ between two states."""
    changed = 0
    for name, ones in traced.ones.items():
        if not torch.equal(old.gates.get(name, ones), new.gates.get(name, ones)):
            changed |= traced.bit[name]
    found: set[int] = set()
    for index, step in enumerate(traced.steps):
        before, after = old.statistics.get(index), new.statistics.get(index)
        if before is None or after is None:
            moved = before is not after
        else:
            moved = not all(torch.equal(*pair) for pair in zip(before, after, strict=True))
        if step.bits & changed or moved or any(source in found for source in step.inputs):
            found.add(index)
    return found


def save_pictures(path: Path, *parts: Sequence[Prepared]) -> None:
    """Write lists of pictures with their labels.

    Raises:
        UsageError: labels of a kind that cannot be written.
        StageFailed: the place cannot be written.
    """
    content = {
        str(number): [
            {"canvas": torch.from_numpy(one.canvas), "labels": _labels_to(one.labels)}
            for one in part
        ]
        for number, part in enumerate(parts)
    }
    write_atomically(path, lambda stream: torch.save(content, stream))


def load_pictures(path: Path) -> list[list[Prepared]]:
    """Read :func:`save_pictures`; nothing in it is executed.

    Raises:
        InputRefused: it is not such a file.
    """
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True)
        return [
            [Prepared(one["canvas"].numpy(), _labels_from(one["labels"])) for one in content[key]]
            for key in sorted(content, key=int)
        ]
    except Exception as error:  # whatever torch raises for what is not its file
        raise InputRefused(f"not a file of pictures: {error}", where=str(path)) from error


def _labels_to(labels: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, value in labels.items():
        if isinstance(value, Faces):
            parts = {one.name: getattr(value, one.name) for one in fields(value)}
            found[kind] = {_FACES: {name: torch.from_numpy(part) for name, part in parts.items()}}
        elif isinstance(value, np.ndarray):
            found[kind] = torch.from_numpy(np.ascontiguousarray(value))
        elif value is None or isinstance(value, bool | int | float | str):
            found[kind] = value
        else:
            raise UsageError(
                f"labels '{kind}' are {type(value).__name__}, which a farm is not sent",
                where="--farm",
            )
    return found


def _labels_from(plain: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, value in plain.items():
        if isinstance(value, dict):
            found[kind] = Faces(**{name: part.numpy() for name, part in value[_FACES].items()})
        else:
            found[kind] = value.numpy() if isinstance(value, Tensor) else value
    return found
