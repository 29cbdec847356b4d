"""The averaged weights of a training, and the best that held-out pictures have seen of them."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgemtl.compress.recover.judge import HeldOutJudge
from edgemtl.compress.recover.records import Progress, Verdict
from edgemtl.compress.recover.statistics import reestimated
from edgemtl.models.base import MultiTaskNetwork

_log = logging.getLogger(__name__)

#: an improvement of the drop smaller than this does not count
SMALLEST_GAIN = 0.001


class BestWeights:
    """Follows a network, looks at it, keeps the best.

    Attributes:
        average: the network with averaged weights, in eval mode.
        best: weights of the best that was seen; at first what the training starts from.

    Args:
        network: that is followed.
        progress: brought up to date.
    """

    def __init__(self, network: MultiTaskNetwork, progress: Progress) -> None:
        self.average = copy.deepcopy(network).eval()
        self.best: dict[str, Tensor] = copy.deepcopy(network.state_dict())
        self.progress = progress

    @torch.no_grad()
    def follow(self, network: MultiTaskNetwork, step: int, most: float) -> None:
        """Average one step's weights in; the decay grows up to ``most`` with ``step`` from 1."""
        decay = min(most, (step + 1) / (step + 10))
        current = network.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(current[name], 1 - decay)
            else:
                value.copy_(current[name])

    def look(self, judge: HeldOutJudge, step: int) -> None:
        """Evaluate the average, remember it if it is the best."""
        progress, now = self.progress, judge.verdict(self.average)
        progress.last = now
        progress.before = progress.before or now.figures
        self._note_stale(now.lost)
        progress.drops.append((step, now.drops))
        progress.distances.append((step, now.distances))
        self._keep_if_best(step, now, self.average)
        shown = ", ".join(f"{name} {100 * lost:+.1f} %" for name, lost in now.lost.items())
        what = "drop" if now.drops else "distance from the dense network's answers"
        _log.info(f"recovery step {step}: held-out {what} {shown}")

    def reestimate(self, judge: HeldOutJudge, images: Sequence[Tensor]) -> None:
        """Statistics of training pictures for the best network, kept only where they are better."""
        self.average.load_state_dict(self.best)
        found = reestimated(self.average, images)
        now, best = judge.verdict(found), self.progress.best_step
        if self._keep_if_best(best, now, found):
            # the last entry of a step is of the network that is kept
            self.progress.drops.append((best, now.drops))
            self.progress.distances.append((best, now.distances))
            _log.info("recovery: batch statistics estimated anew are better, and kept")

    def enough(self, most: Mapping[str, float]) -> bool:
        """Whether every named task of the best network is at or below its drop."""
        best = self.progress.best
        return (
            bool(most)
            and best is not None
            and all(best.drops.get(name, math.inf) <= limit for name, limit in most.items())
        )

    def settled(self, names: Sequence[str], patience: int) -> bool:
        """Whether none of these tasks has got better in so many looks."""
        return all(self.progress.stale.get(name, 0) >= patience for name in names)

    def _note_stale(self, lost: Mapping[str, float]) -> None:
        progress, worst = self.progress, max(lost.values())
        for name, drop in lost.items():
            if drop < progress.best_of_task.get(name, math.inf) - SMALLEST_GAIN:
                progress.best_of_task[name] = drop
                progress.stale[name] = 0
            elif drop == worst and drop > progress.best_of_task.get(name, drop) + SMALLEST_GAIN:
                progress.stale[name] = 0  # it suffers from the others' training: let it fight back
            else:
                progress.stale[name] = progress.stale.get(name, 0) + 1

    def _keep_if_best(self, step: int, now: Verdict, network: MultiTaskNetwork) -> bool:
        progress = self.progress
        if progress.best is not None and now.score >= progress.best.score:
            return False
        progress.best, progress.best_step = now, step
        self.best = copy.deepcopy(network.state_dict())
        return True
