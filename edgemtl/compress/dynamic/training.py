"""Train mask heads with the network, and measure what they predict.

The loss is the tasks' own plus the heads' cross-entropy against the masks that the pictures'
activations ask for. Whether the heads learn apart from the layers below (decoupled) or shape them
(joint) is ``MaskOptions.detached``; in neither case does a task's gradient reach a head, because
masks are multiplied as constants.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl.compress.cost import CostModel
from edgemtl.compress.dynamic.accounting import sample_macs
from edgemtl.compress.dynamic.network import DynamicNetwork, Mode
from edgemtl.errors import StageFailed, UsageError
from edgemtl.progress import Progress, report

_log = logging.getLogger(__name__)

#: outputs, names of the requested tasks -> the tasks' loss
Loss = Callable[[Mapping[str, Tensor], Sequence[str]], Tensor]
#: step -> (B, 3, H, W) pictures and their loss
Draw = Callable[[int], tuple[Tensor, Loss]]
#: where the published schedule lowers the rate tenfold, as shares of all steps
DROPS = (0.405, 0.61, 0.755)
#: rates nearer to 0 or 1 are taken for this far from it
RAREST = 0.02
#: shifting one head changes what the next ones see
HOLDING_PASSES = 2


@dataclass(frozen=True)
class TrainOptions:
    """How to train; the defaults are the published ones.

    Attributes:
        steps: optimiser steps.
        learning_rate: of the network, a tenth of it after each of 41, 61 and 76 % of the steps.
        head_learning_rate: of the heads, constant.
        momentum, weight_decay: of the network; heads have no decay.
        beta: weight of the heads' loss.
        head_share: share of the steps in which heads learn; afterwards they are frozen and the
            network adapts to them.
        seed: of the requested sets of tasks.
    """

    steps: int = 400
    learning_rate: float = 0.01
    head_learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    beta: float = 1.0
    head_share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.head_share <= 1:
            raise UsageError("training takes at least one step, and a head share in 0..1")

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def head_loss(dynamic: DynamicNetwork) -> Tensor:
    """The heads' loss of the last pass: per group the sum over channels, averaged over groups.

    Rows of tasks that do not depend on a group have nothing to learn and are left out.
    """
    losses = []
    for site in dynamic.sites:
        if site.name not in dynamic.seen.target:
            continue
        rows = [dynamic.rows == 1 or name in site.tasks for name in dynamic.row_names()]
        chosen = torch.tensor(rows)
        logits = dynamic.seen.logits[site.name][:, chosen]
        target = dynamic.seen.target[site.name][:, chosen].float()
        entropy = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
        losses.append(entropy.sum(dim=2).mean())
    return torch.stack(losses).mean()


@torch.no_grad()
def start_at_rates(dynamic: DynamicNetwork, masks: Mapping[str, Tensor]) -> None:
    """Let heads start from how often each channel is on, instead of with everything on.

    Short trainings need it: a head that starts with all on spends them on learning the rates.

    Args:
        dynamic: whose heads' biases are set; rows of tasks all get the same.
        masks: group -> (pictures, width) bool, of calibration pictures.
    """
    for site in dynamic.sites:
        rate = masks[site.name].double().mean(dim=0).clamp(RAREST, 1 - RAREST)
        dynamic.head(site.name).affine.bias.copy_(rate.logit().float().repeat(dynamic.rows))


@torch.no_grad()
def hold_widths(
    dynamic: DynamicNetwork, batches: Sequence[Tensor], widths: Mapping[str, float]
) -> None:
    """Shift each head's biases so that on average as many channels are on as were estimated.

    Whether a channel is on is decided at a logit of 0, which fixes no budget: heads that are unsure
    drift to one side. The order in which a head prefers channels stays.

    Args:
        dynamic: with trained heads and masks that are not per task.
        batches: (B, 3, H, W) calibration pictures.
        widths: group -> mean number of channels on, of the estimate.
    """
    dynamic.eval()
    for _ in range(HOLDING_PASSES):
        dynamic.mode = "predicted"
        found: dict[str, list[Tensor]] = {}
        for images in batches:
            dynamic(images)
            for name, logits in dynamic.seen.logits.items():
                found.setdefault(name, []).append(logits.flatten(1))
        for name, parts in found.items():
            logits = torch.cat(parts)
            count = min(max(1, round(widths[name] * len(logits))), logits.numel() - 1)
            ranked = logits.flatten().sort(descending=True).values
            dynamic.head(name).affine.bias.sub_((ranked[count - 1] + ranked[count]) / 2)


def train(
    dynamic: DynamicNetwork,
    draw: Draw,
    options: TrainOptions,
    mode: Mode = "predicted",
) -> dict[str, float]:
    """Train network and heads in place.

    Where masks are per task, every other step asks for all tasks and the others for a random
    non-empty set, so that the network knows all of its forms.

    Args:
        dynamic: the network with heads; left in eval mode, predicting.
        draw: the pictures of a step.
        options: see :class:`TrainOptions`.
        mode: what multiplies; ``given`` trains the network with fixed masks and no heads.

    Returns:
        ``first_head_loss`` and ``last_head_loss``, means over the first and last tenth of the steps
        in which heads learned.

    Raises:
        StageFailed: a loss is not finite.
    """
    rng = np.random.default_rng(options.seed)
    network = list(dynamic.network.parameters())
    heads = list(dynamic.heads.parameters())
    optimiser = torch.optim.SGD(
        [
            {"params": network, "weight_decay": options.weight_decay},
            {"params": heads, "weight_decay": 0.0, "lr": options.head_learning_rate},
        ],
        lr=options.learning_rate,
        momentum=options.momentum,
    )
    frozen_from = round(options.steps * options.head_share)
    history: list[float] = []
    dynamic.mode = mode
    for step in range(options.steps):
        dynamic.train()
        images, loss = draw(step)
        tasks = _requested(dynamic, rng)
        own = loss(dynamic(images, tasks), tasks)
        total = own
        if step < frozen_from and dynamic.seen.target:
            entropy = head_loss(dynamic)
            history.append(float(entropy.detach()))
            total = own + options.beta * entropy
        if not bool(total.isfinite()):
            raise StageFailed(
                f"the loss is {float(total.detach())} at step {step}",
                hint="lower the learning rate",
            )
        done = step / options.steps
        rate = options.learning_rate * 0.1 ** sum(done >= drop for drop in DROPS)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if step >= frozen_from:
            for parameter in heads:  # momentum would go on moving them
                parameter.grad = None
        optimiser.step()
        report(Progress("training with masks", step + 1, options.steps, "steps"))
        if (step + 1) % 50 == 0:
            shown = f", heads {history[-1]:.3f}" if history else ""
            _log.info(f"step {step + 1}/{options.steps}: loss {float(own.detach()):.4f}{shown}")
    dynamic.eval()
    part = max(1, len(history) // 10)
    return {
        "first_head_loss": float(np.mean(history[:part])) if history else float("nan"),
        "last_head_loss": float(np.mean(history[-part:])) if history else float("nan"),
    }


def _requested(dynamic: DynamicNetwork, rng: np.random.Generator) -> tuple[str, ...]:
    if dynamic.rows == 1 or len(dynamic.tasks) == 1 or rng.random() < 0.5:
        return dynamic.tasks
    while True:
        chosen = rng.random(len(dynamic.tasks)) < 0.5
        if chosen.any():
            break
    names = {name for name, on in zip(dynamic.tasks, chosen, strict=True) if on}
    return tuple(name for name in dynamic.tasks if name in names)


@dataclass(frozen=True)
class MaskReport:
    """What heads predict on pictures they have not learned from.

    Attributes:
        accuracy: share of channels whose prediction agrees with the target, over all groups.
        always_on: the same for a head that says "on" for all: what accuracy has to beat.
        most_frequent: the same for a mask that does not look at the picture (the more frequent
            value of each channel): what a head that looks has to beat.
        kept: mean share of multiply-accumulates, heads charged.
        kept_p95: what 95 % of the pictures stay below.
        groups: group -> its accuracy.
    """

    accuracy: float
    always_on: float
    most_frequent: float
    kept: float
    kept_p95: float
    groups: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "groups": dict(self.groups)}


@torch.no_grad()
def measure_masks(
    dynamic: DynamicNetwork,
    batches: Sequence[Tensor],
    model: CostModel,
    tasks: Sequence[str] | None = None,
) -> MaskReport:
    """Compare predictions with targets and count what they cost.

    Args:
        dynamic: trained.
        batches: (B, 3, H, W) pictures.
        model: cost of the network (for a request of some tasks: of the network with these alone).
        tasks: requested; all by default.
    """
    dynamic.eval()
    dynamic.mode = "predicted"
    masks: dict[str, list[Tensor]] = {}
    targets: dict[str, list[Tensor]] = {}
    for images in batches:
        dynamic(images, tasks)
        for name, mask in dynamic.seen.mask.items():
            masks.setdefault(name, []).append(mask)
            wanted = dynamic.seen.target[name]
            if dynamic.rows > 1:
                asked = [tasks is None or row in tasks for row in dynamic.tasks]
                wanted = wanted[:, torch.tensor(asked)]
            targets.setdefault(name, []).append(wanted.any(dim=1))
    whole = {name: torch.cat(parts) for name, parts in masks.items()}
    wanted_all = {name: torch.cat(parts) for name, parts in targets.items()}
    right = {name: (whole[name] == wanted_all[name]).double() for name in whole}
    count = sum(value[0].numel() for value in right.values())
    rates = {name: value.double().mean(dim=0) for name, value in wanted_all.items()}
    share = sample_macs(model, whole, dynamic.head_macs) / float(np.asarray(model.macs({})))
    return MaskReport(
        sum(float(value.mean(dim=0).sum()) for value in right.values()) / count,
        sum(float(rate.sum()) for rate in rates.values()) / count,
        sum(float(torch.maximum(rate, 1 - rate).sum()) for rate in rates.values()) / count,
        float(share.mean()),
        float(np.percentile(share, 95)),
        {name: float(value.mean()) for name, value in right.items()},
    )
