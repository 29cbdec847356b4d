"""What the descent did, group by group, for ``prune.json`` and its page."""

from __future__ import annotations

import numpy as np

from edgemtl.compress.compensation.descent import Descent
from edgemtl.compress.compensation.moments import Moments
from edgemtl.compress.context import PruneContext
from edgemtl.compress.results import GroupStep

#: names of weights that a note lists
LISTED = 3


def graph_notes(moments: Moments) -> list[str]:
    """Readers that could not be compensated."""
    if not moments.strange:
        return []
    listed = ", ".join(f"'{name}'" for name in moments.strange[:LISTED])
    more = len(moments.strange) - LISTED
    return [
        f"{len(moments.strange)} weight(s) read removed channels in a way that is not known and "
        f"keep their values: {listed}{f' and {more} more' if more > 0 else ''}"
    ]


def steps_of(context: PruneContext, descent: Descent) -> tuple[GroupStep, ...]:
    """One step per group and stretch of the path, with predicted errors as rises of the loss.

    Rises are scaled so that they add up to what was measured at the end.
    """
    place = descent.place
    assert place is not None
    names = [task.name for task in context.network.tasks]
    losses = descent.evidence.moments.losses
    total = np.maximum(descent.path.error / losses, 1e-30)
    scale = np.where(descent.path.error > 0, (place.loss_ratio - 1) / total, 0.0)
    widths = {group.name: group.width for group in context.groups}
    order = list(dict.fromkeys(step.group for step in descent.path.steps))
    rises = {name: np.zeros(len(names)) for name in order}
    after = dict(widths)
    for step in descent.path.steps:
        rises[step.group] = rises[step.group] + step.error / losses * scale
        after[step.group] = step.after
    found = []
    now, ratio = dict(widths), np.ones(len(names))
    before = context.cost.of(descent.masks(now))
    for name in order:
        now[name] = after[name]
        cost = context.cost.of(descent.masks(now))
        ratio = ratio + rises[name]
        group = context.by_name[name]
        found.append(
            GroupStep(
                group=name,
                tasks=group.tasks,
                width_before=group.width,
                width_after=after[name],
                macs_saved=before.macs - cost.macs,
                params_saved=before.params - cost.params,
                latency_saved_ms=None
                if cost.latency_ms is None or before.latency_ms is None
                else before.latency_ms - cost.latency_ms,
                loss_rise=dict(zip(names, rises[name].tolist(), strict=True)),
                sensitive_task=names[int(rises[name].argmax())],
                checks=0,
                images=0,
                macs_share=cost.macs / context.dense.macs,
                loss_ratio=dict(zip(names, ratio.tolist(), strict=True)),
            )
        )
        before = cost
    return tuple(found)
