"""Held-out pictures that several other processes look at, a batch each at a time.

Each of them holds the network and all pictures. A question carries all that it is about, so that
whoever is asked can answer it, and one that is lost takes nothing along. Batches are looked at in
the same sizes as in one process, and summed up in the same order; the verdicts are the same.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.held_out import Verdict
from edgemtl.compress.work import Work
from edgemtl.errors import StageFailed
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import weights_hash


class Reply(Protocol):
    """An answer that is on its way."""

    def result(self) -> bytes:
        """Wait for it.

        Raises:
            EdgemtlError: there will be none.
        """

    def cancel(self) -> None:
        """It is not wanted any more."""


class RemoteWorkers(Protocol):
    """Processes that answer as :class:`edgemtl.compress.loss_worker.Answers` does."""

    @property
    def width(self) -> int:
        """How many questions are worked on at once."""

    def send(self, place: int, message: bytes) -> Reply:
        """Ask; what has the same place goes to the same process while that is there."""

    def close(self) -> None:
        """Nothing more will be asked."""


def cut_losses(
    workers: RemoteWorkers, keep: Mapping[str, Tensor], count: int
) -> list[NDArray[np.float64]]:
    """Losses of all ``count`` batches by a network that is really cut to these masks."""
    replies = [
        workers.send(index, packed({"keep": dict(keep), "index": index})) for index in range(count)
    ]
    return [_losses(reply.result()) for reply in replies]


def _losses(answer: bytes) -> NDArray[np.float64]:
    with _from_worker():
        return np.asarray(unpacked(answer)["losses"][0].numpy(), np.float64)


def remote_verdicts(
    workers: RemoteWorkers,
    keep: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    apart: Sequence[str],
    count: int,
) -> list[Verdict]:
    """Verdicts on all ``count`` batches of a network with these weights, cut to these masks.

    Args:
        workers: who judges.
        keep: group -> mask.
        weights: name of a parameter or buffer -> value in place of the dense network's.
        apart: tasks whose answers are held against the dense network's.
        count: of batches.
    """
    content = {"keep": dict(keep), "weights": dict(weights), "apart": list(apart)}
    replies = [workers.send(index, packed({**content, "index": index})) for index in range(count)]
    return [_verdict(reply.result()) for reply in replies]


def _verdict(answer: bytes) -> Verdict:
    with _from_worker():
        plain = unpacked(answer)
        found = {
            task: {name: value.numpy() for name, value in state.items()}
            for task, state in plain["found"].items()
        }
        return Verdict(plain["losses"].numpy(), plain["distances"].numpy(), found)


@contextmanager
def _from_worker() -> Iterator[None]:
    """Around whatever reads an answer, which may be anything.

    Raises:
        StageFailed: it is none.
    """
    try:
        yield
    except Exception as error:  # torch raises many kinds for what it cannot read
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StageFailed(f"what a worker answered is not readable: {told}") from error


def signature(network: MultiTaskNetwork, groups: Sequence[str], work: Sequence[Work]) -> str:
    """What two processes must agree on before masks and losses mean the same to both."""
    facts = [weights_hash(network), list(groups), [list(astuple(one)) for one in work]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def packed(message: Mapping[str, Any]) -> bytes:
    """Tensors and plain data as bytes."""
    stream = io.BytesIO()
    torch.save(dict(message), stream)
    return stream.getvalue()


def unpacked(data: bytes) -> dict[str, Any]:
    """Read :func:`packed`; nothing in it is executed."""
    found: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True)
    return found
