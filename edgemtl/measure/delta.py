"""Delta_m: how much better a multi-task network is than single-task ones, in one number."""

from __future__ import annotations

from collections.abc import Mapping

from edgemtl.tasks.base import MetricSpec


def delta_m(
    values: Mapping[str, float | None],
    reference: Mapping[str, float | None],
    metrics: Mapping[str, MetricSpec],
) -> float | None:
    """Mean over tasks of the relative gain in percent; positive is better (M3ViT, section 5).

    Args:
        values: task -> figure of the network in question.
        reference: task -> figure of the networks trained for that task alone.
        metrics: task -> what its figure is; says which tasks count.

    Returns:
        None when there is no task or a figure was not measured: a mean over fewer tasks would not
        be comparable.
    """
    gains = []
    for task, metric in metrics.items():
        ours, theirs = values.get(task), reference.get(task)
        if ours is None or theirs is None:
            return None
        gains.append(-metric.relative_drop(theirs, ours))
    return 100 * sum(gains) / len(gains) if gains else None
