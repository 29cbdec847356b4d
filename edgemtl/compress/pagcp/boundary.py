"""Where one unit's tolerances end: expected from Taylor scores, corrected by each trial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.pagcp.oracle import Trial
from edgemtl.compress.pagcp.widths import between

#: a check that passed with this share of its slack used up is near enough to the boundary
CLOSE = 0.7
#: and one beside a width that failed and differs from it by at most this share of the unit, or
#: beside one that is predicted to need more than this multiple of the slack
RESOLUTION, HOPELESS = 0.05, 1.5
#: the least share of the slack used up that such a prediction is made from
TELLING = 0.3
#: the first predictions are taken as they are; a unit's own correction stays within these limits
SCALE_LIMITS = (0.02, 50.0)


@dataclass
class Boundary:
    """What is known of one unit.

    Attributes:
        widths: that it may be cut to, widest first.
        total: its width in the dense network.
        predicted: (widths, tasks) rise of each loss at each width, by the scores.
        slack: (tasks,) how much each loss may rise.
        scale: what predictions are multiplied by.
        trials: place in ``widths`` -> trial, in the order in which they were made.
    """

    widths: Sequence[int]
    total: int
    predicted: NDArray[np.float64]
    slack: NDArray[np.float64]
    scale: float
    trials: dict[int, Trial] = field(default_factory=dict)

    def learn(self, place: int, trial: Trial) -> bool:
        """Take note of a trial; returns whether it was accepted."""
        self.trials[place] = trial
        worst = self._worst(trial)
        expected = self.predicted[place, worst]
        if expected > 0:
            found = max(float(trial.rises[worst]), 0.0) / expected
            self.scale = float(np.clip(found, *SCALE_LIMITS))
        return trial.accepted

    def expected(self) -> int:
        """The last place that is expected to pass; -1 for none."""
        passed = [place for place, trial in self.trials.items() if trial.accepted]
        failed = [place for place, trial in self.trials.items() if not trial.accepted]
        if passed and failed:
            pressures = {place: self._pressure(place) for place in self.trials}
            return between(max(passed), min(failed), pressures)
        fits = (self.predicted * self.scale <= self.slack).all(axis=1)
        return int(fits.sum()) - 1

    def enough(self, below: int, above: int) -> bool:
        """Whether ``below``, which passed, will do; see :mod:`edgemtl.compress.pagcp.widths`."""
        if below < 0:
            return False
        pressure = self._pressure(below)
        if pressure >= CLOSE:
            return True
        if above < len(self.widths):
            return self.widths[below] - self.widths[above] <= RESOLUTION * self.total
        following = self.predicted[below + 1] / np.maximum(self.predicted[below], 1e-12)
        return bool(pressure > TELLING and pressure * following.max() > HOPELESS)

    @property
    def refused_by(self) -> int | None:
        """The task that suffered most in the first trial that was refused."""
        refused = (self._worst(trial) for trial in self.trials.values() if not trial.accepted)
        return next(refused, None)

    def _pressures(self, trial: Trial) -> NDArray[np.float64]:
        """(tasks,) rise of each loss as a share of its slack."""
        return np.asarray(trial.rises / np.maximum(self.slack, 1e-12), np.float64)

    def _worst(self, trial: Trial) -> int:
        return int(np.argmax(self._pressures(trial)))

    def _pressure(self, place: int) -> float:
        return float(self._pressures(self.trials[place]).max())
