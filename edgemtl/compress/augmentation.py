"""Random changes of labelled pictures for recovery training.

What a change does to a label, and whether it may be made at all, the task says that reads the label
(:class:`edgemtl.tasks.base.Task`); nothing here knows kinds of tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemtl.compress.batches import Prepared, prepare
from edgemtl.data.augment import degrade, jitter_colours
from edgemtl.data.preprocess import InputSpec, Part, letterbox
from edgemtl.data.samples import Dataset, Sample
from edgemtl.errors import InputRefused
from edgemtl.tasks.base import Task
from edgemtl.tasks.labels import cropped, labels_on_canvas, mirrored, readers

#: a random part of a picture, as a share of each side
SHARES = (0.6, 1.0)
#: how often a picture is placed for the sake of one labelled object
FOCUS = 0.5


def random_view(
    sample: Sample, tasks: Sequence[Task], spec: InputSpec, rng: np.random.Generator
) -> Prepared:
    """A randomly changed picture on the canvas, with its labels.

    Args:
        sample: a picture in its own pixels.
        tasks: that learn from it.
        spec: the canvas; its ``size`` may differ from the network's.
        rng: draws everything random.
    """
    sample = _placed(sample, tasks, spec, rng, FOCUS) or _random_part(sample, tasks, rng)
    if rng.random() < 0.5:
        sample = mirrored(sample, tasks)
    image = degrade(jitter_colours(sample.image, rng), rng)
    canvas, view = letterbox(image, spec)
    return Prepared(canvas.astype(np.float16), labels_on_canvas(sample.labels, tasks, view))


def rescaled(
    sample: Sample, tasks: Sequence[Task], spec: InputSpec, rng: np.random.Generator
) -> Sample:
    """A picture at a scale drawn for one of its labelled objects, so that all sizes are seen.

    Pictures without objects, or whose tasks have none, are returned as they are.
    """
    return _placed(sample, tasks, spec, rng, 1.0) or sample


def prepare_all(
    dataset: Dataset, tasks: Sequence[Task], spec: InputSpec, seed: int
) -> list[Prepared]:
    """All pictures of a data set, shuffled, so that the first few already resemble the whole.

    Every other picture of objects is shown at another scale (see :func:`rescaled`).

    Raises:
        InputRefused: no picture decodes, or a task does not know how its labels move.
    """
    rng = np.random.default_rng(seed)
    found = [
        prepare(rescaled(sample, tasks, spec, rng) if number % 2 else sample, tasks, spec)
        for number, sample in enumerate(dataset)
    ]
    if not found:
        raise InputRefused("no picture could be read", where=dataset.name)
    return [found[int(index)] for index in rng.permutation(len(found))]


def _placed(
    sample: Sample,
    tasks: Sequence[Task],
    spec: InputSpec,
    rng: np.random.Generator,
    focus: float,
) -> Sample | None:
    """The picture as the first task wants it that cares; None where none does."""
    for kind, task in readers(sample.labels, tasks).items():
        found = task.placed(sample, spec, rng, focus)
        if found is not None:
            others = [other for other in tasks if other.label_kind != kind]
            labels = labels_on_canvas(sample.labels, others, found.view)
            return Sample(sample.name, found.image, {kind: found.label, **labels})
    return None


def _random_part(sample: Sample, tasks: Sequence[Task], rng: np.random.Generator) -> Sample:
    height, width = sample.image.shape[:2]
    share = float(rng.uniform(*SHARES))
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    y = int(rng.integers(0, height - rows + 1))
    x = int(rng.integers(0, width - columns + 1))
    return cropped(sample, tasks, Part((height, width), y, x, rows, columns))
