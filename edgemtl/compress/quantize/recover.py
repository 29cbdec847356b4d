"""Short training of a rounded network to answer as the float32 one does.

Where rounding after training costs a task more than its budget, the weights are trained a little
while they are rounded (Jacob et al., CVPR 2018, section 3, with fixed activation ranges): the
float32 network is the teacher, each task's distance from its answers is divided by what it was at
the start, so that tasks weigh alike, and those that miss their budget count double.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from edgemtl.compress.batches import targets_of
from edgemtl.compress.quantize.images import Canvases
from edgemtl.compress.quantize.layers import Layer
from edgemtl.compress.quantize.simulate import simulation
from edgemtl.compress.quantize.trainable import TrainableGraph
from edgemtl.errors import StageFailed
from edgemtl.exporting.differences import difference
from edgemtl.progress import Progress, report
from edgemtl.tasks.base import Task

if TYPE_CHECKING:
    from onnx import ModelProto

_log = logging.getLogger(__name__)

#: pictures per step
BATCH = 4
#: at its highest; it falls to nothing along half a cosine
LEARNING_RATE = 2e-5
#: weight of a task that misses its budget, beside 1 of the others
LATE = 2.0
#: largest change, as a share of an output's range, between the graph here and in ONNX Runtime
SAME = 1e-3
SAID_EVERY = 25
#: pictures that say how large each task's distance is before training
SCALED_ON = 8


def retrain(
    model: ModelProto,
    teacher: ModelProto,
    layers: Sequence[Layer],
    magnitudes: Mapping[str, float],
    tasks: Sequence[Task],
    late: Collection[str],
    images: Canvases,
    size: tuple[int, int],
    steps: int,
    seed: int,
    reduce_range: bool = False,
) -> ModelProto:
    """A copy of the graph with trained weights and biases; repeatable.

    Args:
        model: float32 graph that training starts from.
        teacher: float32 graph whose answers are wanted.
        layers: those that compute in int8.
        magnitudes: tensor -> largest magnitude that its rounding represents.
        tasks: whose answers count.
        late: tasks that miss their budget.
        images: to train on.
        size: canvas height and width.
        steps: of the optimiser.
        seed: of the order of pictures.
        reduce_range: as for the file (weights.py).

    Raises:
        StageFailed: the graph has an operator that cannot be trained through, or it does not
            compute the same in torch.
    """
    graph = TrainableGraph(model, layers, magnitudes, reduce_range)
    _require_same(graph, model, images[0])
    distances = _Distances(graph, teacher, tasks, images, size)
    with torch.no_grad():
        first = [distances(index) for index in range(min(SCALED_ON, len(images)))]
    scales = torch.stack(first).mean(dim=0).clamp(min=1e-6)
    weights = torch.tensor([LATE if task.name in late else 1.0 for task in tasks]) / scales
    optimiser = torch.optim.Adam(graph.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    order = np.random.default_rng(seed)
    told = torch.zeros(len(tasks))
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        chosen = order.choice(len(images), min(BATCH, len(images)), replace=False)
        for index in chosen.tolist():
            found = distances(index)
            (found * weights).sum().div(len(chosen)).backward()  # type: ignore[no-untyped-call]
            told += found.detach() / scales / len(chosen)
        optimiser.step()
        schedule.step()
        report(Progress("training while rounded", step, steps, "steps"))
        if step % SAID_EVERY == 0:
            named = zip(tasks, (told / SAID_EVERY).tolist(), strict=True)
            words = ", ".join(f"{task.name} {share:.2f}" for task, share in named)
            _log.info(f"training step {step} of {steps}: distances relative to before {words}")
            told.zero_()
    return _with_weights(model, graph.trained())


class _Distances:
    """How far a graph's answers to a picture are from the teacher's, per task."""

    def __init__(
        self,
        graph: TrainableGraph,
        teacher: ModelProto,
        tasks: Sequence[Task],
        images: Canvases,
        size: tuple[int, int],
    ) -> None:
        self._graph, self._tasks, self._images = graph, tasks, images
        self._answers = simulation(teacher)
        self._targets = [[targets_of([p], t, size) for t in tasks] for p in images.prepared]

    def __call__(self, index: int) -> Tensor:
        """(tasks,) for the picture at this place."""
        image = self._images[index]
        wanted = {name: torch.from_numpy(v) for name, v in self._answers(image).items()}
        found = self._graph(torch.from_numpy(image))
        pairs = zip(self._tasks, self._targets[index], strict=True)
        return torch.stack([task.distil(found, wanted, target) for task, target in pairs])


def _require_same(graph: TrainableGraph, model: ModelProto, image: Any) -> None:
    graph.rounding = False
    with torch.inference_mode():
        here = {name: value.numpy() for name, value in graph(torch.from_numpy(image)).items()}
    graph.rounding = True
    there = simulation(model)(image)
    for name, value in there.items():
        if not difference(value, here[name]).within(SAME):
            raise StageFailed(f"no training: output '{name}' is not the same in torch")


def _with_weights(model: ModelProto, values: Mapping[str, Any]) -> ModelProto:
    import onnx
    from onnx import numpy_helper

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in values:
            if not np.isfinite(values[tensor.name]).all():
                raise StageFailed("training left weights that are not finite")
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    return changed
