"""The fast PAGCP search: units in sequence, each cut as far as every task's tolerance allows.

Following design section 6 (papers/pagcp.md): worst-task Taylor ranking, screening by predicted
rise, few checks on the snapped widths, the oracle of :mod:`edgemtl.compress.pagcp.oracle`. With a
goal (kept multiply-accumulates, parameters, latency) the units are gone through in several sweeps
of small budgets instead of one of a large budget, and the search ends when the goal is reached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.cost import Cost, CostModel, Goals, Keep
from edgemtl.compress.pagcp.boundary import Boundary
from edgemtl.compress.pagcp.budgets import Tolerances
from edgemtl.compress.pagcp.oracle import Oracle
from edgemtl.compress.pagcp.position import Position
from edgemtl.compress.pagcp.safety import Point, first_broken
from edgemtl.compress.pagcp.widths import farthest_passing
from edgemtl.compress.results import GroupStep, Refusal
from edgemtl.compress.search_cost import SearchCost
from edgemtl.compress.taylor import (
    Scores,
    keep_most_important,
    predicted_rise,
    worst_task,
)
from edgemtl.errors import EdgemtlError

#: units are ordered by what removing this share of their channels saves (PAGCP)
PROBE_SHARE = 0.3
#: share of the units that a sweep works on, those that save most per predicted rise (PAGCP's P)
KEPT_UNITS = 0.8
#: a sweep towards a goal lets every task's loss grow by this factor
SWEEP_BUDGET = 1.3
#: a sweep that comes less than this share closer to the goal makes the next one's budget larger
SLOW_SWEEP = 0.08
MOST_SWEEPS = 24
#: after so many commits batch statistics are adapted, and estimated losses replaced by exact ones
RECALIBRATE_EVERY = 20
#: after so many commits, and after each sweep, the network is exported: once per step would make
#: the search noticeably longer
EXPORT_EVERY = 8


@dataclass
class Search:
    """One search on one network.

    Attributes:
        choices: group -> widths it may have, widest first.
        oracle: judges masks; its dense losses are measured already.
        cost: of any masks.
        dense: what goals are relative to (the network before the first round).
        goals: when to stop; without any, one sweep spends the budgets.
        budgets: task -> growth factor; None for automatic sweeps towards the goals.
        first: task -> first tolerance.
        score: masks -> Taylor scores and what computing them cost.
        check: raises EdgemtlError when the network cut to these masks does not run.
        export: raises EdgemtlError when it cannot be exported.
        save: called after every unit.
        tell: progress.
        points: where to go back to, one per step since the last export that worked.
        refused: steps that were taken back; their groups are left alone.
    """

    choices: Mapping[str, Sequence[int]]
    oracle: Oracle
    cost: CostModel
    dense: Cost
    goals: Goals
    budgets: Mapping[str, float] | None
    first: Mapping[str, float]
    score: Callable[[Keep], tuple[Scores, SearchCost]]
    check: Callable[[Keep], None]
    export: Callable[[Keep], None] = lambda keep: None
    save: Callable[[Search], None] = lambda search: None
    tell: Callable[[str], None] = lambda line: None
    position: Position = field(default_factory=Position)
    steps: list[GroupStep] = field(default_factory=list)
    scores: Scores = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keep: dict[str, Tensor] = {
            name: torch.ones(len(ones), dtype=torch.bool)
            for name, ones in self.oracle.traced.ones.items()
        }

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, the order of all arrays."""
        return tuple(task.name for task in self.oracle.tasks)

    def run(self) -> None:
        """Search until the goals are reached, the budgets are spent, or nothing is left."""
        while self._next_unit() or not self._exports():
            pass
        self.oracle.recalibrate()

    def _next_unit(self) -> bool:
        """Work on the next unit; False when there is nothing left to do."""
        position = self.position
        if self._done():
            return False
        if not position.order and self._exports() and not self._begin_sweep():
            return False
        if position.order:
            self._unit(position.order.pop(0))
        return True

    def _done(self) -> bool:
        return self.goals.reached(self.cost.of(self.keep), self.dense)

    def _distance(self) -> float:
        shares = self.goals.shares(self.cost.of(self.keep), self.dense)
        return sum(max(0.0, now - wanted) for now, wanted in shares.values())

    def _begin_sweep(self) -> bool:
        """Plan a sweep over the units that are worth it; False when there is nothing to do."""
        position = self.position
        if position.sweep >= (MOST_SWEEPS if self.budgets is None else 1):
            return False
        budget = self._sweep_budget()
        self.scores, spent = self.score(self.keep)
        self.oracle.spent = self.oracle.spent.plus(spent)
        units = [name for name in self.keep if self._widths(name)]
        if not units:
            return False
        position.tolerances = Tolerances.plan(len(units), budget, self.first or None)
        order = self._ordered(units)
        if not order:
            return False
        position.sweep += 1
        position.order, position.budget, position.distance = order, budget, self._distance()
        shown = ", ".join(f"{task} x{factor:.3g}" for task, factor in budget.items())
        self.tell(f"sweep {position.sweep}: {len(order)} groups, budgets {shown}")
        return True

    def _sweep_budget(self) -> dict[str, float]:
        if self.budgets is not None:
            return {task: float(self.budgets[task]) for task in self.tasks}
        previous = self.position.budget
        if not previous:
            return dict.fromkeys(self.tasks, SWEEP_BUDGET)
        gained = self.position.distance - self._distance()
        if gained < SLOW_SWEEP * max(self.position.distance, 0.1):
            return {task: factor**1.6 for task, factor in previous.items()}
        return dict(previous)

    def _widths(self, name: str) -> list[int]:
        if name in {refusal.group for refusal in self.refused}:
            return []
        alive = int(self.keep[name].sum())
        return [width for width in self.choices[name] if width < alive]

    def _bearable(self) -> NDArray[np.float64]:
        """(tasks,) how much each task's loss may rise in a typical step of this sweep."""
        assert self.position.tolerances is not None
        return np.asarray(self.position.tolerances.first * self.oracle.reference, np.float64)

    def _cut_to(self, name: str, width: int) -> Tensor:
        importance = worst_task(self.scores[name], self._bearable())
        return keep_most_important(importance, self.keep[name], width)

    def _ordered(self, units: list[str]) -> list[str]:
        """The units worth their predicted rise, the largest saving at the loosest tolerance."""
        assert self.position.tolerances is not None
        now = self.cost.of(self.keep)
        saving, worth = {}, {}
        for name in units:
            alive = int(self.keep[name].sum())
            widths = self._widths(name)
            target = alive * (1 - PROBE_SHARE)
            width = min(widths, key=lambda w: abs(w - target))
            keep = self._cut_to(name, width)
            after = self.cost.of({**self.keep, name: keep})
            rise = predicted_rise(self.scores[name], self.keep[name], keep) / self._bearable()
            saving[name] = self.goals.saving(now, after, self.dense)
            worth[name] = saving[name] / max(float(rise.max()), 1e-9)
        useful = [name for name in units if saving[name] > 0]
        kept = sorted(useful, key=lambda n: -worth[n])[: math.ceil(KEPT_UNITS * len(useful))]
        sign = -1 if self.position.tolerances.largest_first else 1
        return sorted(kept, key=lambda name: (sign * saving[name], name))

    def _unit(self, name: str) -> None:
        """Cut one unit as far as the tolerances allow, and commit."""
        oracle, position = self.oracle, self.position
        assert position.tolerances is not None
        widths = self._within_goal(name, self._widths(name))
        if not widths:
            return
        tolerance = position.tolerances.now
        masks = [self._cut_to(name, width) for width in widths]
        predicted = np.array(
            [predicted_rise(self.scores[name], self.keep[name], mask) for mask in masks]
        )
        slack = (1 + tolerance) * oracle.reference - oracle.current
        total = len(self.keep[name])
        boundary = Boundary(widths, total, predicted, slack, self._usual_scale())
        turn = position.commits // RECALIBRATE_EVERY

        def passes(place: int) -> bool:
            trial = oracle.try_mask(name, masks[place].float(), tolerance, turn)
            return boundary.learn(place, trial)

        start, count = boundary.expected(), len(widths)
        best = farthest_passing(count, start, passes, boundary.expected, boundary.enough)
        position.scales.append(boundary.scale)
        if best < 0:
            self.save(self)
            return
        point = self._point(name, widths[best])
        mask = masks[best]
        cost_before = self.cost.of(self.keep)
        width_before = int(self.keep[name].sum())
        oracle.commit(name, boundary.trials[best])
        self.keep[name] = mask
        try:
            self.check(self.keep)
        except EdgemtlError as error:
            self._go_back(point, error)
            self.save(self)
            return
        position.tolerances.committed()
        position.commits += 1
        self._record(name, width_before, cost_before, boundary, best)
        if position.commits % RECALIBRATE_EVERY == 0:
            oracle.recalibrate()
        self.points.append(point)
        if len(self.points) >= EXPORT_EVERY:
            self._exports()
        self.save(self)

    def _within_goal(self, name: str, widths: list[int]) -> list[int]:
        """The widths down to the first that reaches the goals: farther is not wanted."""
        for place, width in enumerate(widths):
            after = self.cost.of({**self.keep, name: self._cut_to(name, width)})
            if self.goals.reached(after, self.dense):
                return widths[: place + 1]
        return widths

    def _usual_scale(self) -> float:
        recent = self.position.scales[-15:]
        return float(np.exp(np.median(np.log(recent)))) if len(recent) >= 3 else 1.0

    def _point(self, name: str, width: int) -> Point:
        """The present state, to go back to should this step turn out to break the network."""
        oracle, position = self.oracle, self.position
        assert position.tolerances is not None
        return Point(
            name,
            width,
            dict(self.keep),
            oracle.committed,
            oracle.current.copy(),
            oracle.reference.copy(),
            position.tolerances.now.copy(),
            position.commits,
            len(self.steps),
            tuple(position.order),
        )

    def _exports(self) -> bool:
        """Whether the network can be exported; if not, the step that broke it is taken back.

        With it go the steps behind it, whose groups come again.
        """
        if not self.points:
            return True
        found = first_broken([*(p.keep for p in self.points[1:]), self.keep], self.export)
        if found is None:
            self.points.clear()
            return True
        number, error = found
        self._go_back(self.points[number], error)
        self.points.clear()
        self.save(self)
        return False

    def _go_back(self, point: Point, error: EdgemtlError) -> None:
        """Undo a step and all behind it, and leave its group alone from now on."""
        position = self.position
        assert position.tolerances is not None
        self.oracle.restore(point.state, point.current, point.reference, self.oracle.spent)
        self.keep = dict(point.keep)
        position.tolerances.now = point.tolerance.copy()
        position.commits, position.order = point.commits, list(point.order)
        del self.steps[point.steps :]
        width = int(self.keep[point.group].sum())
        self.refused.append(Refusal(point.group, width, point.width, error.message))
        self.tell(f"{point.group}: {width} -> {point.width} taken back, {error.message}")

    def _record(
        self,
        name: str,
        before: int,
        cost_before: Cost,
        boundary: Boundary,
        best: int,
    ) -> None:
        oracle, trials, refused_by = self.oracle, boundary.trials, boundary.refused_by
        trial, after = trials[best], boundary.widths[best]
        cost = self.cost.of(self.keep)
        rises = {
            task: float(rise / base)
            for task, rise, base in zip(self.tasks, trial.rises, oracle.dense, strict=True)
        }
        self.steps.append(
            GroupStep(
                group=name,
                tasks=oracle.affected(name),
                width_before=before,
                width_after=after,
                macs_saved=cost_before.macs - cost.macs,
                params_saved=cost_before.params - cost.params,
                latency_saved_ms=None
                if cost.latency_ms is None or cost_before.latency_ms is None
                else cost_before.latency_ms - cost.latency_ms,
                loss_rise=rises,
                sensitive_task=max(rises, key=lambda t: rises[t])
                if refused_by is None
                else self.tasks[refused_by],
                checks=len(trials),
                images=sum(t.images for t in trials.values()),
                macs_share=cost.macs / self.dense.macs,
                loss_ratio={
                    task: float(value / base)
                    for task, value, base in zip(
                        self.tasks, oracle.current, oracle.dense, strict=True
                    )
                },
            )
        )
        self.tell(
            f"{name}: {before} -> {after}, {100 * cost.macs / self.dense.macs:.1f} % of MACs, "
            f"{100 * cost.params / self.dense.params:.1f} % of parameters left"
        )
