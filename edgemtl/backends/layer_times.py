"""What each layer of an artefact takes, told by the runtime's own profiler.

Profiling costs time itself, so these figures share out the latency and are no measurement of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends import registry
from edgemtl.backends.profile import LayerTime, Profile
from edgemtl.backends.types import Artefact, SessionOptions

#: runs before those that count, and those
WARM_UP, RUNS = 3, 20

__all__ = ["LayerTime", "can_profile", "layer_times", "open_profile"]


def layer_times(
    artefact: Artefact, options: SessionOptions, images: NDArray[np.float32]
) -> tuple[LayerTime, ...] | None:
    """Profile an artefact; None where its runtime has no profiler that we read.

    Args:
        artefact: a single graph.
        options: as for measuring.
        images: its input.

    Raises:
        StageFailed: the runtime failed.
    """
    if not can_profile(artefact):
        return None
    profile = open_profile(artefact, options)
    for run in range(WARM_UP + RUNS):
        profile.run(images, counts=run >= WARM_UP)
    return profile.end()


def can_profile(artefact: Artefact) -> bool:
    """Whether its runtime has a profiler that we read."""
    told = registry.get(artefact.backend).capabilities.profiles
    return told and not artefact.files[0].endswith(".json")


def open_profile(artefact: Artefact, options: SessionOptions) -> Profile:
    """Load an artefact with its runtime's profiler on; several may be open and run in turns.

    Args:
        artefact: one of which :func:`can_profile` is true.
        options: as for measuring.

    Raises:
        StageFailed: the runtime failed.
    """
    return registry.get(artefact.backend).profile(artefact, options)
