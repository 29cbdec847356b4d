"""Labelled pictures as batches of a network's input with the targets of its tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.preprocess import InputSpec, letterbox
from edgemtl.data.samples import Sample
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.tasks.base import Task
from edgemtl.tasks.labels import labels_on_canvas


@dataclass(frozen=True)
class Prepared:
    """One picture on the network's canvas.

    Attributes:
        canvas: (3, H, W) float16: pixel values need no more, and half the memory.
        labels: kind of label -> its value in canvas pixels.
    """

    canvas: NDArray[np.float16]
    labels: dict[str, Any]


def prepare(sample: Sample, tasks: Sequence[Task], spec: InputSpec) -> Prepared:
    """Letterbox a picture and move the labels that these tasks read with it."""
    canvas, view = letterbox(sample.image, spec)
    return Prepared(canvas.astype(np.float16), labels_on_canvas(sample.labels, tasks, view))


def images_of(prepared: Sequence[Prepared]) -> Tensor:
    """(B, 3, H, W) float32, channels last in memory."""
    stacked = np.stack([item.canvas for item in prepared]).astype(np.float32)
    return torch.from_numpy(stacked).to(memory_format=torch.channels_last)


def targets_of(prepared: Sequence[Prepared], task: Task, size: tuple[int, int]) -> Any:
    """What ``task.loss`` takes for these pictures."""
    return task.collate([item.labels.get(task.label_kind) for item in prepared], size)


@dataclass
class Batch:
    """Pictures with the targets of every task, as one batch and one by one.

    Attributes:
        images: (B, 3, H, W) float32.
        count: pictures that count; the rest only fills the batch up.
        whole: task name -> targets of the batch.
        single: task name -> targets of each picture alone.
    """

    images: Tensor
    count: int
    whole: dict[str, Any]
    single: dict[str, list[Any]]


def batches(
    prepared: Sequence[Prepared], tasks: Sequence[Task], size: tuple[int, int], batch: int
) -> list[Batch]:
    """Cut pictures into batches of exactly ``batch``; the last is filled up by repetition."""
    return list(each_batch(prepared, tasks, size, batch))


def each_batch(
    prepared: Sequence[Prepared], tasks: Sequence[Task], size: tuple[int, int], batch: int
) -> Iterator[Batch]:
    """The same one by one, made when they are asked for: float32 pictures take much memory."""
    for start in range(0, len(prepared), batch):
        part = list(prepared[start : start + batch])
        count = len(part)
        part += [prepared[i % len(prepared)] for i in range(batch - count)]
        yield Batch(
            images_of(part),
            count,
            {task.name: targets_of(part, task, size) for task in tasks},
            {task.name: [targets_of([item], task, size) for item in part] for task in tasks},
        )


def losses_per_image(
    outputs: dict[str, Tensor], batch: Batch, tasks: Sequence[Task]
) -> NDArray[np.float64]:
    """(count, tasks) loss of every picture that counts; exactly 0 where it has no label.

    ``outputs`` holds (B, ...) tensors of at least these tasks' outputs.
    """
    found = np.zeros((batch.count, len(tasks)))
    for index in range(batch.count):
        for column, task in enumerate(tasks):
            own = {name: outputs[name][index : index + 1] for name in task.outputs}
            found[index, column] = float(task.loss(own, batch.single[task.name][index]))
    return found


def losses_of(network: MultiTaskNetwork, batch: Batch) -> NDArray[np.float64]:
    """(count, tasks) losses of a batch by a network as it stands, see :func:`losses_per_image`."""
    with torch.inference_mode():
        return losses_per_image(network(batch.images), batch, network.tasks)
