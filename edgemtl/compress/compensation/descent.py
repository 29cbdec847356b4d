"""Down the path of widths, with a look at held-out pictures at fixed places on it.

What is predicted per task is a second-order term, summed over groups as if they did not matter to
each other; what is measured is the network as it would be shipped. The ratio of the two, which is
another for every task, becomes the factor that the task's predictions count with. It is first taken
before the first step, with every group at half its width, where harm stands out from the noise of
few images; then at every rung. Neither depends on the goal, so neither does the way.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.compensation.allowance import Allowance
from edgemtl.compress.compensation.check import Checks, Place
from edgemtl.compress.compensation.evidence import Evidence
from edgemtl.compress.compensation.path import Path, Price
from edgemtl.compress.context import PruneContext

_log = logging.getLogger(__name__)

#: shares of the dense network's cost at which held-out pictures are looked at. The first is early:
#: a task whose harm is predicted far too small loses its decoder at once, and widths never grow
RUNGS = (0.85, 0.65, 0.5, 0.4, 0.3, 0.2, 0.1)
#: a task counts at least this share of the mean of all
SMALLEST_FACTOR = 0.05
#: width of every group before the first step, for the first ratio
PROBE = 0.5
#: relative harm below which held-out images say little: so much is taken to be as first measured
NOISE = 0.01
#: no harm is taken to be smaller in the first ratio
SMALLEST_HARM = 0.002
#: places between two rungs that a limit is looked for at, as shares of the cost
GRID = 0.01


@dataclass
class Descent:
    """One way down.

    Attributes:
        path: the steps.
        place: where it ended, judged.
        stopped: which limit ended it short of the goals; empty where none did.
    """

    context: PruneContext
    evidence: Evidence
    checks: Checks
    allowance: Allowance
    frozen: Mapping[str, int]
    path: Path = field(init=False)
    place: Place | None = None
    stopped: str = ""

    def __post_init__(self) -> None:
        context = self.context
        choices = {
            name: [w for w in widths if w >= self.frozen.get(name, 0)]
            for name, widths in context.choices.items()
        }
        self._losses = self.evidence.moments.losses
        self._scale = self._probe()
        weight = self._scale / self._scale.mean() / (self.allowance.shares * self._losses)
        self.path = Path(context.groups, self.evidence.curves, choices, price_of(context), weight)

    def _probe(self) -> NDArray[np.float64]:
        """(tasks,) measured over predicted harm with every group at half its width."""
        context = self.context
        widths = {
            group.name: min(
                context.choices[group.name], key=lambda width: abs(width - PROBE * group.width)
            )
            for group in context.groups
        }
        predicted = np.zeros(len(self._losses))
        for group in context.groups:
            curve = self.evidence.curves[group.name]
            predicted += curve.error[group.width - widths[group.name]].numpy() / self._losses
        if not predicted.any():
            return np.ones(len(self._losses))
        place = self.checks.place(self.masks(widths))
        return first_ratio(predicted, harm(place))

    def masks(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """group -> mask of these widths."""
        return {
            group.name: self.evidence.curves[group.name].keep(group.width, widths[group.name])
            for group in self.context.groups
        }

    def run(self) -> None:
        """Go down to the goals, or as far as limits and widths allow."""
        path = self.path
        rungs = [rung for rung in RUNGS if rung < path.cost]
        sound = 0  # steps up to the last place that was judged and broke no limit
        while not self._reached():
            if rungs and path.cost <= rungs[0]:
                while rungs and path.cost <= rungs[0]:
                    rungs.pop(0)
                if self._over(self._look()):
                    break
                sound = len(path.steps)
                self._correct()
            if not path.advance():
                break
        if self.place is None or self._looked != len(path.steps):
            self._look()
        assert self.place is not None
        if over := self._over(self.place):
            self._back(sound)
            self.stopped = over

    def _reached(self) -> bool:
        context = self.context
        cost = context.cost.of(self.masks(self.path.widths))
        return context.goals.given and context.goals.reached(cost, context.dense)

    def _look(self, count: int | None = None) -> Place:
        """Judge where the path was after so many steps; where it is now by default."""
        self._looked = len(self.path.steps) if count is None else count
        self.place = self.checks.place(self.masks(self.path.widths_after(self._looked)))
        shown = ", ".join(
            f"{task.name} {ratio - 1:+.1%}"
            for task, ratio in zip(self.context.network.tasks, self.place.loss_ratio, strict=True)
        )
        left = self.path.costs[self._looked]
        _log.info(f"{left:.1%} of the cost left, compensated: held-out loss {shown}")
        return self.place

    def _over(self, place: Place) -> str:
        """Which limit a place breaks, as a sentence; empty for none."""
        found = self.allowance.broken(place.loss_ratio, place.drop)
        if not found:
            return ""
        task, clause = found[0]
        return f"the limit of task '{self.context.network.tasks[task].name}' ends it: {clause}"

    def _correct(self) -> None:
        assert self.place is not None
        predicted = self.path.error / self._losses
        factor = factors(predicted, harm(self.place), self._scale)
        self.path.weight = factor / (self.allowance.shares * self._losses)

    def _back(self, sound: int) -> None:
        """Back to the furthest place, on a grid of costs, that breaks no limit."""
        path = self.path
        low, high = sound, len(path.steps)
        places = sorted({_first_below(path.costs, GRID * number) for number in range(1, 101)})
        between = [place for place in places if low < place < high]
        while between:
            middle = between[len(between) // 2]
            if self._over(self._look(middle)):
                between = [place for place in between if place < middle]
            else:
                low = middle
                between = [place for place in between if place > middle]
        if self._looked != low:
            self._look(low)
        path.back_to(low)


def _first_below(costs: Sequence[float], limit: float) -> int:
    """The first place whose cost is at most ``limit``; the last one where none is."""
    return next((place for place, cost in enumerate(costs) if cost <= limit), len(costs) - 1)


def harm(place: Place) -> NDArray[np.float64]:
    """(tasks,) how much worse each task is, relative: by its figure, or where there is none its
    loss."""
    return np.where(np.isfinite(place.drop), place.drop, place.loss_ratio - 1)


def first_ratio(
    predicted: NDArray[np.float64], measured: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(tasks,) measured over predicted harm; 1 times the others' mean for a task that nothing is
    predicted to harm."""
    known = predicted > 0
    ratio = np.maximum(measured, SMALLEST_HARM) / np.where(known, predicted, 1.0)
    return np.where(known, ratio, ratio[known].mean())


def factors(
    predicted: NDArray[np.float64], measured: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(tasks,) measured over predicted harm, relative to their mean over tasks, within limits.

    Only ratios between tasks steer. Early on the way all harm is noise, and a task that seems to
    gain by luck would lose its decoder for it: until harm stands out, the first ratio counts.

    Args:
        predicted: (tasks,) relative harm, as summed over groups.
        measured: (tasks,) relative harm on held-out images.
        scale: (tasks,) the first ratio.
    """
    raw = (np.maximum(measured, 0.0) + NOISE) / (predicted + NOISE / scale)
    return np.asarray(np.maximum(raw / raw.mean(), SMALLEST_FACTOR), np.float64)


def price_of(context: PruneContext) -> Price:
    """The mean over what goals are about: work, parameters, latency; each relative to the dense
    network's."""
    goals, dense = context.goals, context.dense
    latency = context.latency if goals.latency is not None or not goals.given else None

    def price(widths: Mapping[str, Any]) -> NDArray[np.float64]:
        removed = {name: group.width - widths[name] for name, group in context.by_name.items()}
        macs, params = context.cost.sums(removed)
        parts = []
        if goals.macs is not None or (not goals.given and latency is None):
            parts.append(macs / dense.macs)
        if goals.params is not None:
            parts.append(params / dense.params)
        if latency is not None:
            # Without what was measured of the whole: the way down stays the same when that changes.
            parts.append(latency.table.predict_many(widths) / latency.dense_ms)
        return np.asarray(sum(parts) / len(parts), np.float64)

    return price
