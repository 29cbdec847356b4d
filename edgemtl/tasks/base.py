"""What an output of a network means: its tensors, loss, decoding, metric and drawing.

Everything per task in the product (budgets, gates, parity, report rows) is keyed by the task's
name and asks the :class:`Task` object, so a new kind of task never adds an ``if`` elsewhere.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.preprocess import View
from edgemtl.data.samples import Sample

#: length of an entry of a list that is a number and not an array
NUMBER = -1

Direction = Literal["higher", "lower"]
Arrays = Mapping[str, NDArray[np.float32]]


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
class TaskSpec:
    """A task as plain data: what a checkpoint and a manifest store.

    Attributes:
        name: unique within the network; what the user writes in recipes and gates.
        kind: which :class:`Task` class reads it (``detection``, ``depth``, ...).
        options: arguments of that class, plain data only.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"name": self.name, "kind": self.kind, "options": dict(self.options)}


@dataclass(frozen=True)
class MetricResult:
    """What a metric found.

    Attributes:
        values: key -> value, or None where there was nothing to measure.
        count: how many labelled items (faces, pixels, pictures) were measured.
        note: why a value is None, or what the reader must know; empty when there is nothing to say.
    """

    values: Mapping[str, float | None]
    count: int
    note: str = ""


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


class Task(ABC):
    """One task of a network.

    Class attributes set by each kind:
        kind: the registered name.
        label_kind: which entry of ``Sample.labels`` it learns from.
        primary: the figure that gates and budgets judge.
    """

    kind: ClassVar[str]
    label_kind: ClassVar[str]
    primary: ClassVar[MetricSpec]
    #: secondary figures that tables may show; keys of ``MetricResult.values``
    secondary: ClassVar[tuple[MetricSpec, ...]] = ()

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the network outputs this task owns, in export order."""

    @property
    def requires(self) -> tuple[str, ...]:
        """Names of tasks whose decoded result this task's decoding reads (may be empty)."""
        return ()

    @abstractmethod
    def spec(self) -> TaskSpec:
        """This task as plain data; ``tasks.build(task.spec())`` gives an equal task."""

    @abstractmethod
    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Any:
        """Batch labels that are already in canvas pixels into what :meth:`loss_terms` takes.

        ``labels[i]`` is ``Sample.labels[label_kind]`` of image i, or None when it has none.
        """

    @abstractmethod
    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Any) -> dict[str, Tensor]:
        """Named scalar loss terms of a batch (means over what is labelled; 0 where nothing is)."""

    def loss(self, outputs: Mapping[str, Tensor], targets: Any) -> Tensor:
        """Sum of the loss terms: the task's one loss for search and sensitivity."""
        terms = list(self.loss_terms(outputs, targets).values())
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    @abstractmethod
    def decode(self, outputs: Arrays, view: View, decoded: Mapping[str, Any]) -> Any:
        """Turn one picture's raw outputs (no batch axis) into results in picture pixels.

        Args:
            outputs: output name -> array for one picture.
            view: where the picture lies on the canvas.
            decoded: results of the tasks named in :attr:`requires`.
        """

    @abstractmethod
    def new_metric(self) -> Metric:
        """A fresh accumulator."""

    @abstractmethod
    def draw(self, picture: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Draw this task's result onto a BGR picture (or return a new picture of the same size).

        ``decoded`` holds the results of all evaluated tasks, by name.
        """

    def describe(self, decoded: Mapping[str, Any]) -> Any:
        """This task's result as plain JSON data (a summary where the result is a dense map).

        ``decoded`` holds the results of all evaluated tasks, by name.
        """
        return None
