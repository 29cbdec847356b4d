"""Which stages a training has, and what each of them trains."""

from __future__ import annotations

import math

from torch import nn

from edgemtl.compress.recover.options import RecoverOptions
from edgemtl.compress.recover.parameters import norms_and_biases, own_parameters
from edgemtl.compress.recover.records import Progress, Stage
from edgemtl.models.base import MultiTaskNetwork

#: share of all steps that each stage before the last may take
EARLY_SHARE = 0.2
_TASK = "task "


def stage_names(options: RecoverOptions) -> list[str]:
    """Kinds of stages, in order."""
    if options.train == "auto":
        return ["norms", "task", "all"] if options.enough else ["all"]
    return [options.train]


def planned(kind: str, options: RecoverOptions, progress: Progress, tasks: int) -> Stage:
    """The stage of this kind from here; one of no step where there is nothing for it to do."""
    step, steps = progress.step, options.steps
    stop = steps
    if options.train == "auto" and kind != "all":
        stop = min(step + max(1, round(EARLY_SHARE * steps)), steps)
    if kind != "task":
        return Stage(kind, step, stop)
    drops = {} if progress.best is None else progress.best.drops
    behind = [one for one, drop in drops.items() if drop > options.enough.get(one, math.inf)]
    if len(behind) == 1 < tasks:
        return Stage(_TASK + behind[0], step, stop)
    return Stage("no task", step, step)


def only_task(stage: Stage) -> str | None:
    """The one task that a stage trains; None where it trains all."""
    return stage.trains.removeprefix(_TASK) if stage.trains.startswith(_TASK) else None


def trained(stage: Stage, network: MultiTaskNetwork) -> list[nn.Parameter]:
    """What a stage trains of the parameters that need gradients."""
    task = only_task(stage)
    if task is not None:
        found = own_parameters(network, task)
    elif stage.trains == "norms":
        found = norms_and_biases(network)
    else:
        found = list(network.parameters())
    return [parameter for parameter in found if parameter.requires_grad]
