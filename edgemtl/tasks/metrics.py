"""Figures of merit, and what accumulates them over pictures."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from edgemtl.data.samples import Sample

#: length of an entry of a list that is a number and not an array
NUMBER = -1
#: a class is lost where less than this share of its figure is left
LOST_SHARE = 0.05

Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class MetricSpec:
    """A figure of merit.

    Attributes:
        key: its key in JSON, with the unit in the name where it has one (``nme_percent``).
        label: what a table prints (``NME``).
        direction: whether higher or lower is better.
        unit: unit printed behind the value, empty for a ratio in 0..1.
    """

    key: str
    label: str
    direction: Direction
    unit: str = ""

    def relative_drop(self, before: float, after: float) -> float:
        """How much worse ``after`` is, relative to ``before``; positive is worse.

        0.02 means 2 % worse. A reference of zero makes any loss infinite and no change zero, so
        that a task without a meaningful reference can never pass by division; what is not a number
        is infinitely worse.
        """
        worse = before - after if self.direction == "higher" else after - before
        if math.isnan(worse):
            return math.inf
        if worse == 0:
            return 0.0
        return worse / abs(before) if before != 0 else math.inf * (1 if worse > 0 else -1)


@dataclass(frozen=True)
class MetricResult:
    """What a metric found.

    Attributes:
        values: key -> value, or None where there was nothing to measure.
        count: how many labelled items (faces, pixels, pictures) were measured.
        note: why a value is None, or what the reader must know; empty when there is nothing to say.
        classes: class -> its own figure (:attr:`edgemtl.tasks.base.Task.class_figure`), None for a
            class without labels; in the task's order, empty for kinds without classes.
    """

    values: Mapping[str, float | None]
    count: int
    note: str = ""
    classes: Mapping[str, float | None] = field(default_factory=dict)


class Metric(ABC):
    """Accumulates one task's accuracy over pictures.

    Class attributes set by each kind:
        found: names of the attributes that hold what was found: a list with entries in the order
            of the pictures (numbers, or arrays of one axis), a count, or an array of counts. They
            let a data set be measured in parts (:meth:`state`, :meth:`add`); a metric that names
            none cannot be.
    """

    found: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        """Add one picture: decoded results of all evaluated tasks, by task name, and its labels.

        A sample without the label this metric reads is skipped.
        """

    @abstractmethod
    def result(self) -> MetricResult:
        """The figures so far; None values with a note when nothing could be measured."""

    def state(self) -> dict[str, NDArray[Any]]:
        """What was found so far, as plain arrays for :meth:`add` of another metric."""
        state: dict[str, NDArray[Any]] = {}
        for name in self.found:
            value = getattr(self, name)
            if isinstance(value, list):
                parts = [np.atleast_1d(part) for part in value]
                state[name] = np.concatenate(parts) if parts else np.zeros(0)
                lengths = [len(part) if np.ndim(part) else NUMBER for part in value]
                state[f"{name}.lengths"] = np.array(lengths, np.int64)
            else:
                state[name] = np.asarray(value)
        return state

    def add(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Add what another metric of this kind found on the pictures that follow mine.

        The result is that of one metric that saw all of them, to the last bit.

        Raises:
            KeyError: not the state of such a metric.
        """
        for name in self.found:
            mine, value = getattr(self, name), state[name]
            if isinstance(mine, list):
                start = 0
                for length in state[f"{name}.lengths"].tolist():
                    count = 1 if length == NUMBER else length
                    part = value[start : start + count]
                    mine.append(part[0].item() if length == NUMBER else part)
                    start += count
            else:
                setattr(
                    self, name, mine + (value if isinstance(mine, np.ndarray) else value.item())
                )


def lost_classes(
    before: Mapping[str, float | None], after: Mapping[str, float | None]
) -> dict[str, tuple[float, float]]:
    """Classes that a network knew and knows no more: class -> its figure before and after.

    Of many classes one is a small part of their mean: among 100 the mean falls by 0.01 when one
    dies. Lost is what keeps less than a twentieth of its figure; higher is better for all classes.
    """
    lost = {}
    for name, old in before.items():
        new = after.get(name)
        now = 0.0 if new is None or not math.isfinite(new) else new
        if old is not None and old > 0 and name in after and now < LOST_SHARE * old:
            lost[name] = (old, now)
    return lost
