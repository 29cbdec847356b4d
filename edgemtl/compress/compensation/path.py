"""One nested path of widths from the dense network down, of which every goal is a place.

At each place the step is taken that raises the largest of all tasks' errors, each relative to what
the task may lose, by the least per unit of cost that it saves. Nothing on the way depends on how
far it is going to be followed, so a looser goal never removes more than a tighter one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.compensation.curves import Curve

#: widths that a step may skip: what saves nothing alone may pay together
LOOK_AHEAD = 4
#: exponent of the mean over tasks that stands for their maximum
SHARPNESS = 6.0
#: widths of all groups, several candidates at once: group -> number, or one per candidate; the cost
#: relative to the dense network's
Price = Callable[[Mapping[str, int | NDArray[np.int64]]], NDArray[np.float64]]


@dataclass(frozen=True)
class Step:
    """A group gets narrower by one allowed width.

    Attributes:
        group: its name.
        before, after: units.
        error: (tasks,) what it adds to each task's predicted error, in units of its loss.
    """

    group: str
    before: int
    after: int
    error: NDArray[np.float64]


class Path:
    """The way down, as far as it was walked.

    Attributes:
        widths: where it is.
        error: (tasks,) predicted rise of each loss there.
        steps: so far.
        cost: where it is, relative to the dense network's; costs: the same before each step and
            after the last.
        weight: (tasks,) what a unit of predicted error of each task counts from here on.

    Args:
        groups: of the network.
        curves: group -> its curve.
        choices: group -> widths it may have, widest first.
        price: of widths.
        weight: (tasks,) at the start: 1 over what each task may lose.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        curves: Mapping[str, Curve],
        choices: Mapping[str, Sequence[int]],
        price: Price,
        weight: NDArray[np.float64],
    ) -> None:
        self._total = {group.name: group.width for group in groups}
        self._error = {name: curve.error.numpy() for name, curve in curves.items()}
        self._choices, self._price = choices, price
        self._beside = _neighbours(groups)
        self.widths = dict(self._total)
        self.weight = weight
        self.error = np.zeros(len(weight))
        self.steps: list[Step] = []
        self._forced: list[tuple[str, int]] = []
        self._saving: dict[str, list[tuple[int, float]]] = {}
        self.cost = float(np.asarray(price(self.widths)).reshape(-1)[0])
        self.costs = [self.cost]

    def widths_after(self, count: int) -> dict[str, int]:
        """Widths when ``count`` steps were taken."""
        found = dict(self._total)
        for step in self.steps[:count]:
            found[step.group] = step.after
        return found

    def back_to(self, count: int) -> None:
        """Undo all steps but the first ``count``; the path ends there."""
        self.widths = self.widths_after(count)
        del self.steps[count:], self.costs[count + 1 :]
        self.cost = self.costs[-1]
        self.error = sum((step.error for step in self.steps), np.zeros(len(self.weight)))
        self._saving.clear()
        self._forced.clear()

    def advance(self) -> bool:
        """Take one step; False where no width can be narrowed any more with a gain."""
        if not self._forced:
            self._appraise()
            best = self._best()
            if best is None:
                return False
            self._forced = best
        name, width = self._forced.pop(0)
        error = self._rise(name, width)
        self.steps.append(Step(name, self.widths[name], width, error))
        self.widths[name] = width
        self.error = self.error + error
        for other in self._beside[name]:
            self._saving.pop(other, None)
        self.cost = float(np.asarray(self._price(self.widths)).reshape(-1)[0])
        self.costs.append(self.cost)
        return True

    def _rise(self, name: str, width: int) -> NDArray[np.float64]:
        curve, total = self._error[name], self._total[name]
        rise = curve[total - width] - curve[total - self.widths[name]]
        return np.asarray(rise, np.float64)

    def _appraise(self) -> None:
        """Price the next widths of every group whose price may have moved."""
        wanted: list[tuple[str, int]] = []
        for name in self._total:
            if name not in self._saving:
                narrower = [w for w in self._choices[name] if w < self.widths[name]]
                wanted += [(name, width) for width in narrower[:LOOK_AHEAD]]
                self._saving[name] = []
        if not wanted:
            return
        candidates: dict[str, int | NDArray[np.int64]] = dict(self.widths)
        for name in {name for name, _ in wanted}:
            column = np.full(len(wanted), self.widths[name], np.int64)
            for place, (other, width) in enumerate(wanted):
                if other == name:
                    column[place] = width
            candidates[name] = column
        costs = np.broadcast_to(self._price(candidates), (len(wanted),))
        for (name, width), cost in zip(wanted, costs, strict=True):
            self._saving[name].append((width, self.cost - float(cost)))

    def _best(self) -> list[tuple[str, int]] | None:
        """The step of the least rise per cost saved, as widths to go through."""
        names, widths, saved, rises = [], [], [], []
        for name, options in self._saving.items():
            for width, saving in options:
                if saving > 0:
                    names.append(name)
                    widths.append(width)
                    saved.append(saving)
                    rises.append(self._rise(name, width))
        if not names:
            return None
        errors = (self.error + np.array(rises)) * self.weight
        now = _largest(self.error * self.weight)
        ratio = (_largest(errors) - now) / np.array(saved)
        place = int(ratio.argmin())
        name, last = names[place], widths[place]
        between = [w for w in self._choices[name] if last <= w < self.widths[name]]
        return [(name, width) for width in between]


def _largest(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smooth maximum over the last axis."""
    top = np.maximum(errors.max(axis=-1, keepdims=True), 1e-30)
    found = top[..., 0] * ((errors / top) ** SHARPNESS).sum(axis=-1) ** (1 / SHARPNESS)
    return np.asarray(found, np.float64)


def _neighbours(groups: Sequence[ChannelGroup]) -> dict[str, set[str]]:
    """Group -> groups with a weight in common, itself among them: their prices move with it."""
    owners: dict[str, set[str]] = {}
    for group in groups:
        for member in group.members:
            owners.setdefault(member.tensor, set()).add(group.name)
    found: dict[str, set[str]] = {group.name: {group.name} for group in groups}
    for names in owners.values():
        for name in names:
            found[name] |= names
    return found
