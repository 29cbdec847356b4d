"""One round's search: run the method, measure what it found, keep the answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgemtl.compress.channels.cut import cut
from edgemtl.compress.context import METHODS, ChannelSelection, PruneContext
from edgemtl.compress.cost import Keep
from edgemtl.compress.latency_model import LatencyModel, Measured
from edgemtl.compress.results import GroupStep, Refusal
from edgemtl.compress.search_cost import SearchCost
from edgemtl.files import read_json, write_atomically, write_json

_log = logging.getLogger(__name__)

#: how often the search goes on because what was measured missed the latency goal
MOST_CORRECTIONS = 6
#: so far below the latency goal, as a share of it, a second search looks for what was given away
SLACK = 0.05


def run_or_resume(
    context: PruneContext,
    where: Path | None,
    started: float,
    compensate: Callable[[PruneContext, ChannelSelection], ChannelSelection],
) -> tuple[ChannelSelection, float]:
    """Run the method, or read what it found before the run was killed.

    Args:
        context: the round.
        where: its folder; None keeps nothing.
        started: of the round, by the monotonic clock.
        compensate: re-solves what reads removed channels, where the method did not.

    Returns:
        What was found, and the seconds it took.
    """
    path = None if where is None else where / "found.pt"
    if path is not None and path.is_file():
        stored: dict[str, Any] = torch.load(path, weights_only=True)
        _log.info("the search of this round was finished before")
        return _found_from(stored), float(stored["seconds"])
    if context.latency is None:
        found = METHODS[context.options.method](context)
    else:
        found = _measured(
            context, context.latency, None if where is None else where / "measured.json"
        )
    if context.options.compensate and not found.weights:
        found = compensate(context, found)
    seconds = time.monotonic() - started
    if path is not None:
        content = _found_to(found, seconds)
        write_atomically(path, lambda stream: torch.save(content, stream))
    return found, seconds


def _measured(context: PruneContext, model: LatencyModel, path: Path | None) -> ChannelSelection:
    """Run the method and measure what it found.

    Where the goal is missed, or by far exceeded the first time (which costs tasks more than was
    asked for), predictions are corrected by what was measured, and the search goes on.
    """
    measured: list[Measured] = []
    if path is not None and path.is_file():
        measured = [Measured.from_dict(one) for one in read_json(path)["measured"]]
    for number, one in enumerate(measured):
        if not _near_enough(context, one, number):
            model.correct(one)
    before: Keep = {}
    while True:
        found = METHODS[context.options.method](context)
        now = model.measure(cut(context.network, found.keep, context.groups), found.keep)
        measured.append(now)
        if path is not None:
            write_json(path, {"measured": [one.to_dict() for one in measured]})
        _log.info(
            f"latency: {now.predicted:.1%} of the dense network's predicted, {now.ratio:.1%} "
            f"measured (+- {now.half:.1%})"
        )
        same = bool(before) and all(torch.equal(before[name], found.keep[name]) for name in before)
        near = _near_enough(context, now, len(measured) - 1)
        if near or same or len(measured) > MOST_CORRECTIONS:
            return replace(found, latency=tuple(measured))
        model.correct(now)
        before = found.keep


def _near_enough(context: PruneContext, measured: Measured, number: int) -> bool:
    """Whether to stop at what was measured the time ``number``, from 0."""
    goal = context.goals.latency
    if goal is None:
        return True
    exceeded = measured.ratio + measured.half < (1 - SLACK) * goal
    return measured.ratio <= goal and not (exceeded and number == 0)


def _found_to(found: ChannelSelection, seconds: float) -> dict[str, Any]:
    return {
        "keep": dict(found.keep),
        "weights": dict(found.weights),
        "explained": dict(found.explained),
        "stopped": found.stopped,
        "drops": dict(found.drops),
        "predicted": dict(found.predicted),
        "steps": [step.to_dict() for step in found.steps],
        "loss_ratio": dict(found.loss_ratio),
        "spent": found.spent.to_dict(),
        "notes": list(found.notes),
        "refused": [refusal.to_dict() for refusal in found.refused],
        "latency": [measured.to_dict() for measured in found.latency],
        "seconds": seconds,
    }


def _found_from(stored: Mapping[str, Any]) -> ChannelSelection:
    return ChannelSelection(
        keep=dict(stored["keep"]),
        weights=dict(stored["weights"]),
        explained=dict(stored["explained"]),
        stopped=str(stored["stopped"]),
        drops=dict(stored["drops"]),
        predicted=dict(stored.get("predicted", {})),
        steps=tuple(GroupStep.from_dict(step) for step in stored["steps"]),
        loss_ratio=dict(stored["loss_ratio"]),
        spent=SearchCost.from_dict(stored["spent"]),
        notes=tuple(stored["notes"]),
        refused=tuple(Refusal.from_dict(refusal) for refusal in stored["refused"]),
        latency=tuple(Measured.from_dict(one) for one in stored["latency"]),
    )
