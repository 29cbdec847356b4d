"""The method ``pagcp``: as little harm to the worst task as the goals allow, after compensation.

Performance-aware in the sense of PAGCP (Ye et al., IEEE TPAMI 2023): every task has its own budget,
and what is judged is held-out performance. What is judged is the compensated network.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from edgemtl.compress.compensation.allowance import Allowance
from edgemtl.compress.compensation.check import Checks
from edgemtl.compress.compensation.descent import Descent
from edgemtl.compress.compensation.evidence import Evidence, evidence_of, moments_of
from edgemtl.compress.compensation.solve import solve
from edgemtl.compress.compensation.story import graph_notes, steps_of
from edgemtl.compress.context import DEFAULT_BUDGET, ChannelSelection, PruneContext, register_method
from edgemtl.compress.results import Refusal
from edgemtl.compress.search_cost import peak_mib
from edgemtl.errors import EdgemtlError

_log = logging.getLogger(__name__)

#: a loss of nothing, to divide by
TINY = 1e-30


@register_method("pagcp")
def pagcp(context: PruneContext) -> ChannelSelection:
    """Descend to the goals, or as far as budgets allow.

    Raises:
        StageFailed: the dense network cannot be exported.
    """
    options = context.options
    context.check_export(context.all_kept)  # what fails before the first step fails after each
    evidence = evidence_of(context)
    checks = Checks(context, evidence.moments)
    names = [task.name for task in context.network.tasks]
    budgets = dict(options.budgets)
    if not context.goals.given:
        budgets = dict.fromkeys(names, DEFAULT_BUDGET) | budgets
    # With recovery to come, what a figure may drop by is judged after it.
    drops = {} if options.recovery is not None else options.most_drop
    allowance = Allowance.of(names, options.allowed or options.most_drop, budgets, drops)
    frozen: dict[str, int] = {}
    refused: list[Refusal] = []
    while True:
        descent = Descent(context, evidence, checks, allowance, frozen)
        descent.run()
        refusal = _refusal(context, descent)
        if refusal is None:
            break
        refused.append(refusal)
        frozen[refusal.group] = refusal.width
        _log.info(
            f"{refusal.group}: {refusal.width} -> {refusal.width_tried} taken back, "
            f"{refusal.problem}"
        )
    return _selection(context, evidence, checks, descent, refused)


def _selection(
    context: PruneContext,
    evidence: Evidence,
    checks: Checks,
    descent: Descent,
    refused: list[Refusal],
) -> ChannelSelection:
    place = descent.place
    assert place is not None
    names = [task.name for task in context.network.tasks]
    ratio = {name: float(value) for name, value in zip(names, place.loss_ratio, strict=True)}
    drops = {
        name: float(value) for name, value in zip(names, place.drop, strict=True) if value == value
    }
    notes = [*evidence.moments.notes, *graph_notes(evidence.moments), *checks.notes]
    notes += [
        f"group '{refusal.group}' was left at {refusal.width}: {refusal.problem}"
        for refusal in refused
    ]
    spent = evidence.spent.plus(checks.spent)
    return ChannelSelection(
        place.keep,
        place.compensation.weights,
        place.compensation.explained,
        descent.stopped,
        drops,
        steps_of(context, descent),
        ratio,
        replace(spent, peak_mib=peak_mib()),
        tuple(notes),
        tuple(refused),
        predicted={
            name: 1 + float(error) / max(float(loss), TINY)
            for name, error, loss in zip(
                names, descent.path.error, evidence.moments.losses, strict=True
            )
        },
    )


def _refusal(context: PruneContext, descent: Descent) -> Refusal | None:
    """The step whose network does not run or export, if any; found by bisection, since what one
    step broke stays broken."""
    steps = descent.path.steps

    def problem(count: int) -> EdgemtlError | None:
        keep = descent.masks(descent.path.widths_after(count))
        try:
            context.check(keep)
            context.check_export(keep)
        except EdgemtlError as error:
            return error
        return None

    error = problem(len(steps))
    if error is None or not steps:
        return None
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        found = problem(middle + 1)
        if found is None:
            low = middle + 1
        else:
            high, error = middle, found
    step = steps[high]
    return Refusal(step.group, step.before, step.after, error.message)


def compensate(context: PruneContext, found: ChannelSelection) -> ChannelSelection:
    """What another method found, with the layers that read removed channels re-solved."""
    moments, spent = moments_of(context)
    solved = solve(context.network, context.groups, found.keep, moments)
    return replace(
        found,
        weights=solved.weights,
        explained=solved.explained,
        notes=(*found.notes, *moments.notes, *graph_notes(moments)),
        spent=replace(found.spent.plus(spent), peak_mib=peak_mib()),
    )
