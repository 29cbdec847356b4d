"""Gates on the figures of single classes, which a mean over many hides."""

from __future__ import annotations

from collections.abc import Iterator

from edgemtl.gates.limits import OneClassLimits
from edgemtl.gates.outcome import ROUNDING, GateFacts, GateOutcome, at_most, number
from edgemtl.sinks import shown
from edgemtl.tasks.base import MetricSpec
from edgemtl.tasks.metrics import lost_classes

#: classes that a sentence names
_NAMED = 3


def class_gates(
    front: str, asked: OneClassLimits, task: str, facts: GateFacts, only: str | None
) -> Iterator[GateOutcome]:
    """The worst of all labelled classes against their limits, or one class alone."""
    spec = facts.class_metrics.get(task)
    old, new = facts.classes_before.get(task, {}), facts.classes_after.get(task, {})
    before = {name: value for name in old if (value := number(old, name)) is not None}
    after: dict[str, float] = {}
    for name in new:
        value = number(new, name)
        if value is not None or name in before:
            # what had a figure on the same pictures and has none any more has lost it
            after[name] = 0.0 if value is None else value
    if only is not None:
        before, after = ({k: v for k, v in d.items() if k == only} for d in (before, after))
    label = spec.label if spec else "figure"
    for key, limit in (("max_relative_drop", asked.max_relative_drop), ("min", asked.min)):
        if limit is None:
            continue
        name = f"{front}.{key}"
        if key == "min":
            found = dict(after)
        else:
            found = {n: 1 - after[n] / v for n, v in before.items() if v > 0 and n in after}
        if spec is None or not found:
            detail = _no_class(task, facts, spec, only, key)
            yield GateOutcome(name, "not-measured", None, limit, "", detail)
            continue
        worst = (min if key == "min" else max)(found, key=lambda one: found[one])
        values = f"{before[worst]:.4g} -> {after[worst]:.4g}" if worst in before else ""
        detail = f"{label} of '{shown(worst)}' {values}".rstrip()
        beyond = [n for n, v in found.items() if (v < limit if key == "min" else v > limit)]
        if len(found) > 1:
            detail += f", the worst of {len(found)} classes"
        if len(beyond) > 1:
            rest = [f"'{shown(n)}'" for n in beyond if n != worst]
            detail += f"; also {', '.join(rest[:_NAMED])}{', ...' if len(rest) > _NAMED else ''}"
        if key == "min":
            good = found[worst] >= limit - ROUNDING
            yield GateOutcome(name, "pass" if good else "fail", found[worst], limit, "", detail)
        else:
            yield at_most(name, found[worst], limit, detail=detail)


def _no_class(
    task: str, facts: GateFacts, spec: MetricSpec | None, only: str | None, key: str
) -> str:
    """Why a limit on classes cannot be judged."""
    if spec is None:
        return f"the task '{task}' has no classes"
    known = facts.classes_after.get(task, {})
    if only is not None and known and only not in known:
        return f"the task '{task}' has no class '{only}'"
    which = "the classes" if only is None else f"'{only}'"
    if key == "max_relative_drop":
        return f"{spec.label} of {which} was not measured, or is 0, in the uncompressed network"
    return f"{spec.label} of {which} was not measured"


def lost_sentence(task: str, facts: GateFacts) -> str:
    """The classes that are lost altogether, which a mean over many hardly shows."""
    lost = lost_classes(facts.classes_before.get(task, {}), facts.classes_after.get(task, {}))
    told = [f"'{shown(name)}' {old:.2g} -> {new:.2g}" for name, (old, new) in lost.items()]
    more = ", ..." if len(told) > _NAMED else ""
    return f"; lost: {', '.join(told[:_NAMED])}{more}" if told else ""
