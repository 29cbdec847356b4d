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
from edgemtl.compress.compensation.check import cut_to_judge
from edgemtl.compress.context import PruneContext, PruneOptions
from edgemtl.compress.cost import Goals
from edgemtl.compress.remote import packed, unpacked
from edgemtl.data.samples import Faces
from edgemtl.errors import InputRefused, StageFailed, UsageError
from edgemtl.files import write_atomically
from edgemtl.models.base import MultiTaskNetwork

#: marks labels that are faces among those that are arrays
_FACES = "faces"


class Answers:
    """Answers questions of :mod:`edgemtl.compress.remote`.

    Args:
        network: that is searched, in eval mode.
        images: held-out pictures and those of the calibration batch, as the search has them.
        expected: signature of the search's own.
        options: the search's, for which groups it leaves whole.

    Raises:
        StageFailed: the network is another one here.
    """

    def __init__(
        self,
        network: MultiTaskNetwork,
        images: tuple[list[Prepared], list[Prepared]],
        expected: str,
        options: PruneOptions | None = None,
    ) -> None:
        asked = options or PruneOptions()
        self._context = PruneContext(network, images, asked, Goals(), None, None, None)
        if self._context.signature != expected:
            raise StageFailed(
                "the network is another one on the worker",
                hint="workers need the same version of your own network's code (--factory)",
            )
        self._kept: tuple[bytes, MultiTaskNetwork] | None = None

    def answer(self, message: bytes) -> bytes:
        """The verdict, or the losses, that a message asks for; nothing for an empty one."""
        if not message:
            return b""
        asked = unpacked(message)
        context, index = self._context, asked["index"]
        if "weights" not in asked:
            smaller = self._network(asked["keep"], {})
            return packed(
                {"losses": [torch.from_numpy(losses_of(smaller, context.batches[index]))]}
            )
        smaller = self._network(asked["keep"], asked["weights"])
        verdict = context.held_out.judge(smaller, index, asked["apart"], context.network)
        found = {
            task: {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
            for task, state in verdict.found.items()
        }
        return packed(
            {
                "losses": torch.from_numpy(verdict.losses),
                "distances": torch.from_numpy(verdict.distances),
                "found": found,
            }
        )

    def _network(self, keep: dict[str, Tensor], weights: dict[str, Tensor]) -> MultiTaskNetwork:
        """The network with these weights and masks; the last one is kept."""
        key = packed({"keep": keep, "weights": weights})
        if self._kept is None or self._kept[0] != key:
            context = self._context
            self._kept = key, cut_to_judge(context, keep, weights)
        return self._kept[1]


def save_images(path: Path, *parts: Sequence[Prepared]) -> None:
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


def load_images(path: Path) -> list[list[Prepared]]:
    """Read :func:`save_images`; nothing in it is executed.

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
                f"labels '{kind}' are {type(value).__name__}, which cannot be sent to a farm",
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
