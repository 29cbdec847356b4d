"""A network whose outputs its tasks cannot read is refused before any work."""

from __future__ import annotations

import pytest
import torch
from support.dense_family import build

from edgemtl.errors import InputRefused
from edgemtl.models.mos.network import MOS
from edgemtl.tasks import Depth, Edges, Normals, Saliency, Segmentation, Task

SIZE = (64, 96)


def test_networks_of_ours_fit_their_tasks() -> None:
    for network in (build(), MOS(variant="mos-t", context="plain", size=(64, 64)).eval()):
        with torch.no_grad():
            outputs = network(network.example_input())
        for task in network.tasks:
            shapes = {name: tuple(outputs[name].shape) for name in task.outputs}
            task.check_outputs(shapes, network.input_spec.size)


@pytest.mark.parametrize(
    ("task", "right", "wrong"),
    [
        (Segmentation("t", ("a", "b", "c")), (1, 3, 16, 24), (1, 4, 16, 24)),
        (Depth("t"), (1, 1, 32, 48), (1, 32, 48)),
        (Normals("t"), (1, 3, 16, 24), (1, 1, 16, 24)),
        (Edges("t"), (1, 1, 16, 24), (1, 2, 16, 24)),
        (Saliency("t"), (1, 1, 16, 24), (1, 1, 16)),
    ],
)
def test_maps_have_the_channels_that_the_task_reads(
    task: Task, right: tuple[int, ...], wrong: tuple[int, ...]
) -> None:
    (output,) = task.outputs
    task.check_outputs({output: right}, SIZE)
    with pytest.raises(InputRefused, match=f"output '{output}' is .*, task 't' reads"):
        task.check_outputs({output: wrong}, SIZE)


def test_face_tasks_need_an_answer_for_every_prior() -> None:
    network = MOS(variant="mos-t", context="plain", size=(64, 64)).eval()
    with torch.no_grad():
        outputs = network(network.example_input())
    for task in network.tasks:
        shapes = {name: tuple(outputs[name].shape) for name in task.outputs}
        with pytest.raises(InputRefused, match=f"task '{task.name}' reads"):
            task.check_outputs(shapes, (96, 96))  # another canvas has more priors
