"""Runs the fake backend's artefacts on a device: packed into bundles, never imported here.

Its imports are those of a module of ``edgemtl/devices/runner/runtimes``, among which it then lies.
An artefact is an ``.npz`` file of answers.
"""

from __future__ import annotations

from ..errors import STAGE_FAILED, RunnerError
from . import Session


class FakeSession(Session):
    """Gives the same answers to whatever it is asked."""

    runtime = "fake"
    version = "1"

    def __init__(self, answers):
        super().__init__()
        self._answers = answers

    def run(self, images):
        """See :meth:`Session.run`."""
        return self._answers


def load(model, device, threads, precision_hint, outputs):
    """Read the answers."""
    import numpy as np

    with np.load(model) as stored:
        if set(outputs) - set(stored.files):
            raise RunnerError(STAGE_FAILED, "an answer is missing")
        return FakeSession({name: stored[name] for name in outputs})
