"""Which regions to leave in float32: the fewest that bring every task inside its budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgemtl.compress.quantize.results import TaskVerdict

Verdicts = Mapping[str, TaskVerdict]
#: measures the network with these regions in float32
Try = Callable[[Sequence[str]], Verdicts]


@dataclass(frozen=True)
class Found:
    """Outcome of a search.

    Attributes:
        kept: regions left in float32.
        verdicts: what the tasks lose so.
        enough: whether every budget is kept.
    """

    kept: tuple[str, ...]
    verdicts: Verdicts
    enough: bool


def failing(verdicts: Verdicts) -> list[str]:
    """Tasks that exceed their budget."""
    return [name for name, verdict in verdicts.items() if not verdict.inside]


def rank(costs: Mapping[str, Mapping[str, float]], tasks: Sequence[str]) -> list[str]:
    """Regions by their largest share of any of these tasks' total cost, dearest first."""
    totals = {task: sum(max(cost[task], 0) for cost in costs.values()) for task in tasks}

    def share(region: str) -> float:
        return max(
            (max(costs[region][t], 0) / totals[t] for t in tasks if totals[t] > 0), default=0.0
        )

    return sorted(costs, key=share, reverse=True)


def fewest(order: Sequence[str], attempt: Try, full: Verdicts, evaluations: int) -> Found:
    """Leave the first regions of an order in float32, as few as it takes.

    The number is doubled until every budget is kept, then halved down; then single regions are
    given back, the cheapest first, while that does no harm and evaluations remain.

    Args:
        order: regions, dearest first.
        attempt: measures a choice.
        full: what was measured with every region quantised.
        evaluations: how often ``attempt`` may be called.
    """
    left = evaluations
    best = Found((), full, not failing(full))
    if best.enough or not order:
        return best
    low, high = 0, 1
    enough: Found | None = None
    while left > 0:
        count = min(high, len(order))
        verdicts = attempt(order[:count])
        left -= 1
        found = Found(tuple(order[:count]), verdicts, not failing(verdicts))
        if found.enough:
            enough = found
            break
        best = _better(best, found)
        low = count
        if count == len(order):
            break
        high = count * 2
    if enough is None:
        return best
    while left > 0 and len(enough.kept) - low > 1:
        count = (low + len(enough.kept)) // 2
        verdicts = attempt(order[:count])
        left -= 1
        if failing(verdicts):
            low = count
        else:
            enough = Found(tuple(order[:count]), verdicts, True)
    # The last one kept is needed: without it the number below was measured and not enough.
    for region in reversed(enough.kept[:-1]):
        if left == 0:
            break
        kept = tuple(name for name in enough.kept if name != region)
        verdicts = attempt(kept)
        left -= 1
        if not failing(verdicts):
            enough = Found(kept, verdicts, True)
    return enough


def excess(verdicts: Verdicts) -> float:
    """By how much the worst budget is exceeded; infinite where one could not be judged."""
    return max(
        (
            float("inf") if v.drop is None else v.drop - v.budget
            for v in verdicts.values()
            if v.budget is not None
        ),
        default=0.0,
    )


def _better(one: Found, other: Found) -> Found:
    return other if excess(other.verdicts) < excess(one.verdicts) else one
