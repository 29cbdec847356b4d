"""What happens to a picture happens to its labels, as the tasks that read them say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgemtl.data.preprocess import Part, View
from edgemtl.data.samples import Sample
from edgemtl.tasks.base import Task


def readers(labels: Mapping[str, Any], tasks: Sequence[Task]) -> dict[str, Task]:
    """Kind of label -> the task that is asked about it: of several that read it the first.

    Labels that no task reads are left out: they neither move nor forbid anything.
    """
    found: dict[str, Task] = {}
    for task in tasks:
        if task.label_kind in labels:
            found.setdefault(task.label_kind, task)
    return found


def labels_on_canvas(
    labels: Mapping[str, Any], tasks: Sequence[Task], view: View
) -> dict[str, Any]:
    """A sample's labels in pixels of the canvas that its picture lies on: what ``collate`` takes.

    Raises:
        InputRefused: a task does not know how its label moves.
    """
    return {
        kind: task.to_canvas(labels[kind], view) for kind, task in readers(labels, tasks).items()
    }


def mirrored(sample: Sample, tasks: Sequence[Task]) -> Sample:
    """The sample with left and right exchanged; as it is where a label has no mirror image."""
    width = sample.image.shape[1]
    labels = {
        kind: task.mirror(sample.labels[kind], width)
        for kind, task in readers(sample.labels, tasks).items()
    }
    if any(label is None for label in labels.values()):
        return sample
    return Sample(sample.name, np.ascontiguousarray(sample.image[:, ::-1]), labels)


def cropped(sample: Sample, tasks: Sequence[Task], part: Part) -> Sample:
    """A part of the sample; the whole where a task cannot say what its label is of a part."""
    labels = {
        kind: task.crop(sample.labels[kind], part)
        for kind, task in readers(sample.labels, tasks).items()
    }
    if any(label is None for label in labels.values()):
        return sample
    return Sample(sample.name, part.of(sample.image), labels)
