"""What is timed and what it is fed with: the one builder of benchmark requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.data.preprocess import InputSpec
from edgemtl.measure.results import BenchRequest, StopRule
from edgemtl.tasks.base import Task


@dataclass(frozen=True)
class Around:
    """What surrounds a run of the network, so that pre- and post-processing are timed too.

    Attributes:
        tasks: of the network.
        spec: its input.
        image: to be letterboxed; None for noise or ``recorded``.
        recorded: a ``.npy`` file with the input as it is; not read where there is a picture.
    """

    tasks: Sequence[Task]
    spec: InputSpec
    image: Path | None = None
    recorded: Path | None = None


def bench_request(
    artefact: Artefact,
    session: SessionOptions,
    stop: StopRule,
    seed: int = 0,
    around: Around | None = None,
) -> BenchRequest:
    """One artefact to time.

    Args:
        artefact: compiled.
        session: threads and precision.
        stop: when to end; of comparisons only the warm-up counts.
        seed: of the noise that is fed where there is no picture.
        around: None for the network alone, fed with noise.
    """
    if around is None:
        return BenchRequest(artefact, session, stop=stop, seed=seed)
    return BenchRequest(
        artefact,
        session,
        image=around.image,
        input_array=around.recorded if around.image is None else None,
        tasks=tuple(task.spec().to_dict() for task in around.tasks),
        input_spec=around.spec.to_dict(),
        stop=stop,
        seed=seed,
    )
