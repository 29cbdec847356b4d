"""Held-out pictures that several other processes look at, a batch each at a time.

Each of them holds the network and all pictures, and keeps outputs of the batches that it was asked
for. A question carries the whole state that it is about, so that whoever is asked can answer it:
what one of them keeps only saves time, and one that is lost takes nothing along. Batches are looked
at in the same sizes as in one process, and judged in the same order; the losses are the same.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.batches import Batch
from edgemtl.compress.replay.graph import State, TracedNetwork
from edgemtl.compress.replay.losses import LossEvaluator, LossRequest
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import weights_hash
from edgemtl.tasks.base import Task


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


class RemoteLossEvaluator(LossEvaluator):
    """The same answers from elsewhere.

    While a batch is judged the next ones are looked at, as many as there are others; what turns out
    not to be needed of that is not counted as multiply-accumulates spent, so that these are those
    of one process, too.
    """

    def __init__(
        self,
        traced: TracedNetwork,
        tasks: Sequence[Task],
        batches: Sequence[Batch],
        elsewhere: RemoteWorkers,
    ) -> None:
        super().__init__(traced, tasks, batches)
        self._elsewhere = elsewhere
        self._committed = State()
        self._waiting: dict[int, list[LossRequest]] = {}
        self._sent: dict[int, tuple[list[LossRequest], Reply]] = {}
        self._known: dict[tuple[int, int], NDArray[np.float64]] = {}

    def expect(self, committed: State, questions: Sequence[LossRequest]) -> None:
        """Ask for the first of these, and forget what was expected before."""
        for _, reply in self._sent.values():
            reply.cancel()
        self._committed, self._waiting, self._sent, self._known = committed, {}, {}, {}
        for question in questions:
            self._waiting.setdefault(question.index, []).append(question)
        self._send()

    def losses(self, question: LossRequest) -> tuple[NDArray[np.float64], int]:
        """The losses, which must be expected."""
        index, key = question.index, (question.index, question.dirty)
        if key not in self._known:
            self._send(index)
            questions, reply = self._sent.pop(index)
            self._send()
            answers = unpacked(reply.result())["losses"]
            for asked, found in zip(questions, answers, strict=True):
                self._known[index, asked.dirty] = found.numpy()
        return self._known.pop(key), self._price(question)

    def fit(self, copies: int, memory_bytes: int) -> None:
        """The same from outputs of the first batch that are computed here for their sizes."""
        sample: dict[int, Tensor] = {}
        wanted = [name for task in self.tasks for name in task.outputs]
        self.traced.evaluate(self.batches[0].images, State(), sample, 0, wanted, keep=True)
        self.traced.fit_into(sample, copies, memory_bytes)
        for step in [step for step in self.stores[0] if step not in sample]:
            del self.stores[0][step]

    def _send(self, index: int | None = None) -> None:
        """Send what is next, until that batch is on its way or all others have something to do."""
        while self._waiting and (
            len(self._sent) < self._elsewhere.width if index is None else index not in self._sent
        ):
            place = next(iter(self._waiting))
            questions = self._waiting.pop(place)
            message = {
                "committed": _plain(self._committed),
                "unstored": [i for i, step in enumerate(self.traced.steps) if not step.stored],
                "questions": [
                    {
                        "index": one.index,
                        # Bits of more groups than a tensor's or a pickle's number may have.
                        "dirty": hex(one.dirty),
                        "columns": list(one.columns),
                        "state": _plain(one.state) if one.dirty else None,
                    }
                    for one in questions
                ],
            }
            self._sent[place] = questions, self._elsewhere.send(place, packed(message))

    def _price(self, question: LossRequest) -> int:
        """What :meth:`LossEvaluator.losses` would spend and keep in one process."""
        traced, store, dirty = self.traced, self.stores[question.index], question.dirty
        targets = {traced.outputs[name] for name in self.outputs_of(question)}
        fresh, spent = self.fresh_of(question.index), 0
        for index in traced.needed(targets, store, dirty):
            step = traced.steps[index]
            clean = not step.bits & dirty
            if clean and index in store:
                continue
            spent += step.macs
            kept = store if clean else fresh
            if kept is not None and step.kept and step.stored:
                kept[index] = None
        return spent


def cut_losses(
    elsewhere: RemoteWorkers, keep: Mapping[str, Tensor], count: int
) -> list[NDArray[np.float64]]:
    """Losses of all ``count`` batches by a network that is really cut to these masks."""
    replies = [
        elsewhere.send(index, packed({"keep": dict(keep), "index": index}))
        for index in range(count)
    ]
    return [unpacked(reply.result())["losses"][0].numpy() for reply in replies]


def signature(network: MultiTaskNetwork, traced: TracedNetwork) -> str:
    """What two processes must agree on before a step and its losses mean the same to both."""
    steps = [
        [str(step.node.target), hex(step.bits), step.macs, step.inputs] for step in traced.steps
    ]
    facts = [weights_hash(network), steps, list(traced.groups), dict(traced.outputs)]
    text = json.dumps(facts)
    return hashlib.sha256(text.encode()).hexdigest()


def packed(message: Mapping[str, Any]) -> bytes:
    """Tensors and plain data as bytes."""
    stream = io.BytesIO()
    torch.save(dict(message), stream)
    return stream.getvalue()


def unpacked(data: bytes) -> dict[str, Any]:
    """Read :func:`packed`; nothing in it is executed."""
    found: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True)
    return found


def _plain(state: State) -> dict[str, Any]:
    return {"gates": dict(state.gates), "statistics": dict(state.statistics)}


def state_of(plain: Mapping[str, Any]) -> State:
    """The state of a message."""
    statistics = {int(i): (mean, var) for i, (mean, var) in plain["statistics"].items()}
    return State(dict(plain["gates"]), statistics)
