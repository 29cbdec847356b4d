"""``prune.json`` read: which group cost which task how much, how, and which goals were met."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgemtl.record.rundata import Change, Changes
from edgemtl.record.untrusted import NAMELESS, integer, number, numbers, rows, table, text, texts
from edgemtl.sinks import shown


@dataclass(frozen=True)
class GroupCost:
    """A group over all its steps of one round.

    Attributes:
        name: of the group.
        round: counted from 1.
        before, after: channels.
        macs: saved multiply-accumulates as a share of the dense network's, consumers included; None
            where the method takes no steps.
        latency_ms: saved by the table's prediction; None without a table.
        rises: task -> rise of its loss, as a share of the dense loss, before any recovery.
        stopped_by: the task that allowed no more, or that rose most.
    """

    name: str
    round: int
    before: float
    after: float
    macs: float | None
    latency_ms: float | None
    rises: Mapping[str, float]
    stopped_by: str


@dataclass(frozen=True)
class UncutChannels:
    """Channels of a module that cannot be cut.

    Attributes:
        module: its path.
        channels: how many of them.
        macs: share of the multiply-accumulates that write them; None where it is not known.
        reason: why they stay.
    """

    module: str
    channels: float
    macs: float | None
    reason: str


@dataclass(frozen=True)
class TaskAfterCut:
    """A task on held-out pictures right after a round's cut, before any training.

    Attributes:
        name: of the task.
        round: counted from 1.
        predicted, measured: loss over the dense loss, as the search foretold it and as it was; None
            where it was not.
        drop: of its primary figure, as a share of the dense one; None where it was not measured.
    """

    name: str
    round: int
    predicted: float | None
    measured: float | None
    drop: float | None


@dataclass(frozen=True)
class Compensated:
    """A layer that read removed channels and was re-solved.

    Attributes:
        weight: name of its weight.
        round: counted from 1.
        explained: share of what was removed from its outputs that the kept channels give back.
    """

    weight: str
    round: int
    explained: float


@dataclass(frozen=True)
class PruneStory:
    """A pruning as the report tells it; everything may be missing.

    Attributes:
        method: that chose the channels.
        macs, params: kept shares.
        latency: (predicted, measured, half of its interval) share of the dense latency, as often as
            it was measured on the way to the result.
        noise: of the latency table, as a share; target: it was measured on.
        groups: of the rounds that the result went through, in order, groups in the order of the
            first cut.
        losses: task -> (share of multiply-accumulates left, loss over the dense loss) per step.
        times: task -> (predicted share of the latency left, the same); empty without a table.
        recoveries: per round, also one that was not kept, task -> (step, relative drop on held-out
            pictures).
        refused: steps that were taken back, a sentence each.
        notes: sentences for the reader.
        whole: group that was left whole as asked -> why.
        uncut: channels that cannot be cut, in the order of computation.
        reach: sentences on how far down the channels let the work come.
        after_cut: of the rounds that the result went through, every task.
        compensated: of these rounds, least explained first; empty without compensation.
    """

    method: str = ""
    macs: float | None = None
    params: float | None = None
    latency: tuple[tuple[float, float, float], ...] = ()
    noise: float | None = None
    target: str = ""
    groups: tuple[GroupCost, ...] = ()
    losses: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    times: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    recoveries: tuple[Mapping[str, tuple[tuple[float, float], ...]], ...] = ()
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    whole: Mapping[str, str] = field(default_factory=dict)
    uncut: tuple[UncutChannels, ...] = ()
    reach: tuple[str, ...] = ()
    after_cut: tuple[TaskAfterCut, ...] = ()
    compensated: tuple[Compensated, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that any group cost anything."""
        return tuple(dict.fromkeys(task for group in self.groups for task in group.rises))


def read_story(data: Mapping[str, Any]) -> PruneStory:
    """Parse ``prune.json``, which may have been written by anybody."""
    dense, pruned = table(data, "dense"), table(data, "pruned")
    latency_table = table(data, "latency_table")
    rounds = rows(data, "rounds")
    # A later round that cost a task too much is no part of the network, but its recovery says why.
    last = integer(data, "kept_round") or 0
    kept = rounds[:last] if last > 0 else rounds
    macs, whole = number(dense, "macs"), table(data, "left_whole")
    channels = table(data, "channels")
    found = [
        (number(one, "predicted"), number(one, "ratio"), number(one, "half"))
        for part in kept
        for one in rows(part, "latency")
    ]
    return PruneStory(
        text(data, "method"),
        _share(pruned, dense, "macs"),
        _share(pruned, dense, "params"),
        tuple((p, r, h) for p, r, h in found if p is not None and r is not None and h is not None),
        number(latency_table, "noise"),
        text(latency_table, "target"),
        tuple(
            group
            for index, part in enumerate(kept)
            for group in _groups(rows(part, "steps"), index + 1, macs or 0.0)
            or _widths(table(part, "widths"), index + 1)
        ),
        _curves(rounds, "macs_share", None),
        _curves(rounds, "latency_saved_ms", number(dense, "latency_ms")),
        tuple(_recovery(table(part, "recovery")) for part in rounds),
        tuple(_refusal(one) for part in kept for one in rows(part, "refused")),
        texts(data, "notes"),
        {shown(name): text(whole, name) for name in whole},
        tuple(_uncut(one) for one in rows(channels, "whole")),
        texts(channels, "summary"),
        tuple(one for index, part in enumerate(kept) for one in _after_cut(part, index + 1)),
        tuple(
            sorted(
                (
                    Compensated(weight, index + 1, share)
                    for index, part in enumerate(kept)
                    for weight, share in numbers(part, "explained").items()
                ),
                key=lambda one: (one.round, one.explained, one.weight),
            )
        ),
    )


def read_changes(data: Mapping[str, Any]) -> Changes:
    """The rows of a run's page: every group over all rounds that are in the result."""
    rows_ = tuple(
        Change(group.name, group.before, group.after, drops=group.rises)
        for group in _summed(rows(data, "steps"))
    )
    return Changes(text(data, "method"), rows_)


def read_goals(data: Mapping[str, Any]) -> dict[str, tuple[float, float, str]]:
    """Goal -> what is left, what was asked, and what stopped a search that missed it (else empty).

    Strict, for gates judge by it. Empty for a story from before goals were told.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: a goal is not as it should be.
    """
    goals, stopped_by = data.get("goals") or {}, str(data.get("stopped_by", ""))
    return {
        str(key): (float(goal["left"]), float(goal["asked"]), stopped_by if goal["missed"] else "")
        for key, goal in goals.items()
    }


def _after_cut(part: Mapping[str, Any], round_: int) -> list[TaskAfterCut]:
    measured, predicted = numbers(part, "loss_ratio"), numbers(part, "predicted")
    drops = numbers(part, "drops")
    return [
        TaskAfterCut(name, round_, predicted.get(name), measured.get(name), drops.get(name))
        for name in dict.fromkeys((*measured, *predicted, *drops))
    ]


def _uncut(data: Mapping[str, Any]) -> UncutChannels:
    return UncutChannels(
        text(data, "module") or NAMELESS,
        number(data, "channels") or 0.0,
        number(data, "macs_share"),
        text(data, "reason"),
    )


def _share(after: Mapping[str, Any], before: Mapping[str, Any], key: str) -> float | None:
    small, large = number(after, key), number(before, key)
    return None if small is None or not large else small / large


@dataclass(frozen=True)
class _Summed:
    """A group over its steps in their order: widths, what each task lost, and the rows."""

    name: str
    before: float | None
    after: float | None
    rises: Mapping[str, float]
    steps: tuple[Mapping[str, Any], ...]


def _summed(steps: Iterable[Mapping[str, Any]]) -> list[_Summed]:
    """Steps of one group add up; groups in the order of their first step."""
    found: dict[str, _Summed] = {}
    for step in steps:
        name, rises = text(step, "group") or NAMELESS, numbers(step, "loss_rise")
        before, after = number(step, "width_before"), number(step, "width_after")
        old = found.get(name)
        if old is not None:
            tasks = dict.fromkeys((*old.rises, *rises))
            rises = {task: old.rises.get(task, 0.0) + rises.get(task, 0.0) for task in tasks}
            before = old.before
        earlier = () if old is None else old.steps
        found[name] = _Summed(name, before, after, rises, (*earlier, step))
    return list(found.values())


def _groups(steps: list[Mapping[str, Any]], round_: int, dense_macs: float) -> list[GroupCost]:
    found = []
    for group in _summed(steps):
        macs = [number(step, "macs_saved") or 0.0 for step in group.steps]
        saved = [number(step, "latency_saved_ms") for step in group.steps]
        timed = [one for one in saved if one is not None]
        found.append(
            GroupCost(
                group.name,
                round_,
                group.before or 0.0,
                group.after or 0.0,
                sum(one / dense_macs for one in macs) if dense_macs else 0.0,
                sum(timed) if timed else None,
                group.rises,
                text(group.steps[-1], "sensitive_task"),
            )
        )
    return found


def _widths(widths: Mapping[str, Any], round_: int) -> list[GroupCost]:
    """Groups of a method that cuts all of them at once, and knows no cost of each."""
    found = []
    for name, pair in widths.items():
        if isinstance(pair, list) and len(pair) == 2:
            both = {"before": pair[0], "after": pair[1]}
            before, after = number(both, "before"), number(both, "after")
            if before is not None and after is not None and after < before:
                found.append(GroupCost(shown(name), round_, before, after, None, None, {}, ""))
    return found


def _curves(
    rounds: list[Mapping[str, Any]], key: str, dense_ms: float | None
) -> dict[str, tuple[tuple[float, float], ...]]:
    """Loss of every task over what is left, step by step.

    Only the first round's: the second one's losses are relative to another network.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    saved = 0.0
    for step in rows(rounds[0], "steps") if rounds else []:
        x = number(step, key)
        if dense_ms is not None and x is not None:
            saved += x
            x = 1 - saved / dense_ms
        elif key == "latency_saved_ms":
            return {}
        if x is None:
            continue
        for task, ratio in numbers(step, "loss_ratio").items():
            found.setdefault(task, [(1.0, 1.0)]).append((x, ratio))
    return {task: tuple(points) for task, points in found.items()}


def _recovery(data: Mapping[str, Any]) -> dict[str, tuple[tuple[float, float], ...]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for one in rows(data, "drops"):
        step = number(one, "step")
        if step is not None:
            for task, drop in numbers(one, "drops").items():
                found.setdefault(task, []).append((step, drop))
    return {task: tuple(points) for task, points in found.items()}


def _refusal(data: Mapping[str, Any]) -> str:
    group, width = text(data, "group") or NAMELESS, text(data, "width")
    return f"{group} stays at {width}: at {text(data, 'width_tried')}, {text(data, 'problem')}"
