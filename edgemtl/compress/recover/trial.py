"""Which learning rate: a few steps at several, judged on held-out losses and figures."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence

from edgemtl.compress.batches import Prepared
from edgemtl.compress.recover.judge import HeldOutJudge
from edgemtl.compress.recover.records import Stage, Trial, Verdict
from edgemtl.compress.recover.trainer import LossNotFinite, Trainer
from edgemtl.models.base import MultiTaskNetwork

_log = logging.getLogger(__name__)

#: rates that are tried, of all parameters; norms and biases stand more
RATES = (1e-3, 4e-4, 1.6e-4, 6.4e-5)
NORMS_STAND = 5.0
#: where none of them is better than no step, one more is tried, so much smaller than the least
LAST_RESORT = 8.0
#: steps of a trial: this share of the stage's, within the limits
SHARE, FEWEST, MOST = 0.05, 3, 8
#: a held-out loss of nothing, to divide by
TINY = 1e-12


def trial_steps(steps: int) -> int:
    """How many steps are tried at each rate before a stage of so many."""
    return min(max(round(SHARE * steps), FEWEST), MOST)


class RateTrial:
    """Tries rates, each from the same start; what was tried before a kill is not tried again.

    Args:
        trainer: of the stage, its moments warm.
        network: that it trains.
        judge: by held-out pictures.
        start: the network's verdict.
        batches: to train on, the same for every rate.
        weights: task -> weight of its loss.
        save: called after each trial, when everything is as before it.
    """

    def __init__(
        self,
        trainer: Trainer,
        network: MultiTaskNetwork,
        judge: HeldOutJudge,
        start: Verdict,
        batches: Sequence[Sequence[Prepared]],
        weights: Mapping[str, float],
        save: Callable[[], None],
    ) -> None:
        self._trainer, self._network, self._judge = trainer, network, judge
        self._start, self._batches, self._weights = start, batches, weights
        self._save, self._losses = save, judge.losses(network.eval())

    def choose(self, stage: Stage, rates: Sequence[float], batch_statistics: bool) -> None:
        """Set the stage's rate, 0 where every one is worse than no step.

        Args:
            stage: its trials are added to, its rate and ``frozen`` are set.
            rates: to try. A single one is what was asked for: no step is then no choice.
            batch_statistics: whether to try the best rate with norms that follow the batches.
        """
        for rate in rates:
            self._try(stage, rate, True)
        asked = len(rates) == 1
        if not asked and self._best(stage).score >= 0:
            self._try(stage, min(rates) / LAST_RESORT, True)
        best = self._best(stage)
        if best.score >= 0 and not asked:
            stage.rate = 0.0
            return
        if batch_statistics:
            self._try(stage, best.rate, False)
            best = self._best(stage)
        stage.rate, stage.frozen = best.rate, best.frozen

    def _best(self, stage: Stage) -> Trial:
        return min(stage.trials, key=lambda trial: trial.score)

    def _try(self, stage: Stage, rate: float, frozen: bool) -> None:
        if any((trial.rate, trial.frozen) == (rate, frozen) for trial in stage.trials):
            return
        trainer, before = self._trainer, self._trainer.state()
        trainer.frozen = frozen
        try:
            for images in self._batches:
                trainer.step(images, rate, self._weights)
            score = self._score(self._network.eval())
        except LossNotFinite:
            score = math.inf
        trainer.restore(before)
        trainer.frozen = True
        stage.trials.append(Trial(rate, frozen, score))
        how = "" if frozen else ", with statistics of the batches"
        _log.info(f"rate {rate:.1e}{how}: {len(self._batches)} steps change {100 * score:+.2f} %")
        self._save()

    def _score(self, network: MultiTaskNetwork) -> float:
        """By how much held-out losses rose and the worst task's figure dropped, relative."""
        verdict = self._judge.verdict(network)
        if not math.isfinite(verdict.score):
            return math.inf
        now, weights = self._judge.losses(network), self._weights
        rises = [
            weights[name] * (now[name] / max(before, TINY) - 1)
            for name, before in self._losses.items()
            if name in weights
        ]
        rise = sum(rises) / sum(weights.values())
        if not math.isfinite(self._start.score):
            return rise - 1  # a figure that was lost is there again
        return rise + verdict.score - self._start.score
