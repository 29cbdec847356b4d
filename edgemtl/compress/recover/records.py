"""What training did, and where it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """A network on the held-out pictures.

    Attributes:
        figures: task -> primary metric; NaN where nothing could be measured.
        drops: task -> relative drop, for tasks with labels.
        distances: task -> distance from the dense network's answers, for the others.
        score: the worst of both, relative to what the task is allowed beside the others.
    """

    figures: dict[str, float]
    drops: dict[str, float]
    distances: dict[str, float]
    score: float

    @property
    def lost(self) -> dict[str, float]:
        """Drops and distances."""
        return {**self.drops, **self.distances}


@dataclass
class Trial:
    """A few steps at one rate, from where the stage starts.

    Attributes:
        rate: learning rate.
        frozen: whether batch norms kept their statistics.
        score: by how much held-out losses rose and the worst task's figure dropped, relative;
            below 0 is better than no step.
    """

    rate: float
    frozen: bool
    score: float


@dataclass
class Stage:
    """One stage of training.

    Attributes:
        trains: ``norms``, ``task NAME`` or ``all``.
        first, stop: steps of the whole training between which it lies.
        warm: whether the optimiser's moments are those of the start.
        step_seconds: measured while they were warmed.
        rate: that was chosen; None before that, 0 where no rate was better than no step.
        frozen: whether batch norms keep their statistics.
        trials: that the rate was chosen by.
        taken: steps taken.
        seconds: that trials, steps and evaluations took.
        ended: why it ended, a clause.
    """

    trains: str
    first: int
    stop: int
    warm: bool = False
    step_seconds: float = 0.0
    rate: float | None = None
    frozen: bool = True
    trials: list[Trial] = field(default_factory=list)
    taken: int = 0
    seconds: float = 0.0
    ended: str = ""

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Stage:
        """Parse what ``asdict`` gave."""
        return Stage(**{**data, "trials": [Trial(**one) for one in data["trials"]]})


@dataclass(frozen=True)
class RecoverResult:
    """What training did.

    Attributes:
        steps: taken in all.
        best_step: step of the network that was kept (0: the one before training).
        dense: task -> primary metric of the dense network on the held-out pictures; NaN where
            they have no label of it.
        before, after: the same of the pruned network, before training and as kept.
        drops: (step, task -> relative drop) of every evaluation; tasks with labels only.
        seconds: wall time of the stages, since each last went on after a kill.
        stages: in order.
        distances: (step, task -> distance from the dense network's answers), tasks without labels.
    """

    steps: int
    best_step: int
    dense: Mapping[str, float]
    before: Mapping[str, float]
    after: Mapping[str, float]
    drops: tuple[tuple[int, Mapping[str, float]], ...]
    seconds: float
    stages: tuple[Stage, ...] = ()
    distances: tuple[tuple[int, Mapping[str, float]], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what is not finite is None."""
        data = asdict(self)
        for key in ("dense", "before", "after"):
            data[key] = _finite(data[key])
        for key in ("drops", "distances"):
            data[key] = [
                {"step": step, key: _finite(values)} for step, values in getattr(self, key)
            ]
        for stage in data["stages"]:
            stage["trials"] = [_finite(trial) for trial in stage["trials"]]
        return data


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


@dataclass
class Progress:
    """Where training is; with the weights, all that is needed to go on."""

    step: int = 0
    best_step: int = 0
    dense: dict[str, float] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    best: Verdict | None = None
    last: Verdict | None = None
    scales: dict[str, float] = field(default_factory=dict)
    best_of_task: dict[str, float] = field(default_factory=dict)
    stale: dict[str, int] = field(default_factory=dict)
    drops: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    distances: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    seconds: float = 0.0
    done: list[Stage] = field(default_factory=list)
    current: Stage | None = None

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Progress:
        """Parse what ``asdict`` gave."""
        found = dict(data)
        found["done"] = [Stage.from_dict(one) for one in data["done"]]
        if data["current"] is not None:
            found["current"] = Stage.from_dict(data["current"])
        for name in ("best", "last"):
            if data[name] is not None:
                found[name] = Verdict(**data[name])
        return Progress(**found)
