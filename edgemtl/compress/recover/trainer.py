"""Training steps of one stage: which parameters, which tasks, by which optimiser."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edgemtl.compress.batches import Prepared, images_of
from edgemtl.compress.recover.losses import task_losses
from edgemtl.compress.recover.matched import FeatureMatch, Rows
from edgemtl.compress.recover.options import RecoverOptions
from edgemtl.compress.recover.statistics import let_train
from edgemtl.models.base import MultiTaskNetwork

#: learning rate at the end of the cosine, relative to the peak
LAST_RATE = 0.02
LARGEST_GRADIENT = 10.0
#: the warm-up takes at most so large a part of a stage
WARM_UP_SHARE = 8


def computes_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself.

    Where it does not, PyTorch emulates it: a training step of an M3ViT took 8 times as long as in
    float32 on a processor with AVX2 only.
    """
    able = torch.cpu.get_capabilities()
    return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class LossNotFinite(Exception):
    """The loss of a step is infinite or no number; nothing was changed by it."""


class Trainer:
    """Takes steps.

    Attributes:
        frozen: whether batch norms keep their statistics.

    Args:
        network: trained in place; parameters that are not named need no gradient until
            :meth:`close`.
        teacher: the dense network.
        names: of the tasks that are trained.
        parameters: that are trained.
        options: see :class:`RecoverOptions`.
        rows: places to distil at, see :func:`~.matched.matched_rows`.
        scales: recent sizes of the tasks' losses; brought up to date.
    """

    def __init__(
        self,
        network: MultiTaskNetwork,
        teacher: MultiTaskNetwork,
        names: Sequence[str],
        parameters: Sequence[nn.Parameter],
        options: RecoverOptions,
        rows: Rows,
        scales: dict[str, float],
    ) -> None:
        self._network, self._teacher, self._options = network, teacher, options
        self._tasks = [network.task(name) for name in names]
        self._asked = [task.name for task in network.selected(list(names))]
        self.scales, self.frozen = scales, True
        chosen = {id(parameter) for parameter in parameters}
        self._resting = [p for p in network.parameters() if p.requires_grad and id(p) not in chosen]
        for parameter in self._resting:
            parameter.requires_grad_(False)
        self._optimiser = torch.optim.AdamW(
            [
                {
                    "params": [p for p in parameters if p.dim() > 1],
                    "weight_decay": options.weight_decay,
                },
                {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
            ]
        )
        self._trained = list(parameters)
        self._features = FeatureMatch(network, teacher, rows)

    def step(self, prepared: Sequence[Prepared], rate: float, weights: Mapping[str, float]) -> None:
        """One optimiser step.

        With a rate of 0 no weight changes, and the optimiser's moments learn what gradients are
        like at this place: they are warm when training starts.

        Args:
            prepared: to learn from.
            rate: learning rate.
            weights: task -> weight of its loss.

        Raises:
            LossNotFinite: before anything was changed.
        """
        network, options = self._network, self._options
        let_train(network, self.frozen)
        self._features.clear()
        images = images_of(prepared)
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16()):
            with torch.no_grad():
                wanted = self._teacher(images, self._asked)
            outputs = network(images, self._asked)
        loss = options.features * self._features.loss() + task_losses(
            self._tasks, outputs, wanted, prepared, options.answers, weights, self.scales
        )
        if not bool(loss.isfinite()):
            raise LossNotFinite
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._trained, LARGEST_GRADIENT)
        self._optimiser.step()

    def state(self) -> dict[str, Any]:
        """A copy of network, moments and sizes of losses, for :meth:`restore`."""
        return copy.deepcopy(
            {
                "network": self._network.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "scales": self.scales,
            }
        )

    def restore(self, state: Mapping[str, Any]) -> None:
        """Be again as :meth:`state` found it."""
        state = copy.deepcopy(dict(state))
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.scales.clear()
        self.scales.update(state["scales"])

    def moments(self) -> dict[str, Any]:
        """The optimiser's state, to be saved; not a copy."""
        return self._optimiser.state_dict()

    def resume(self, moments: Mapping[str, Any]) -> None:
        """Go on with saved moments; network and sizes of losses are the caller's to restore."""
        self._optimiser.load_state_dict(dict(moments))

    def close(self) -> None:
        """Take hooks off; what rested may be trained again."""
        self._features.remove()
        for parameter in self._resting:
            parameter.requires_grad_(True)
        self._network.eval()


def scheduled(rate: float, step: int, steps: int, warmup: int) -> float:
    """Learning rate of a step: a short warm-up to ``rate``, then a cosine down to 2 % of it.

    Args:
        rate: peak.
        step: from 0.
        steps: of the stage.
        warmup: steps of the warm-up at most; an eighth of the stage where that is less.
    """
    warmup = min(warmup, steps // WARM_UP_SHARE)
    if step < warmup:
        return rate * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return rate * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * done)) / 2)
