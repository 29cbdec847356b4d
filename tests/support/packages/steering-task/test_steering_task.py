import numpy as np

from edgemtl.data.samples import Sample
from edgemtl.tasks import TaskSpec, build


def test_the_error_is_the_mean_over_the_images_that_have_a_label():
    task = build(TaskSpec("wheel", "steering"))  # by the name of the kind, as a checkpoint does
    image, metric = np.zeros((4, 4, 3), np.uint8), task.new_metric()
    metric.update({"wheel": 3.0}, Sample("a.png", image, {"steering": 5.0}))
    metric.update({"wheel": 3.0}, Sample("b.png", image))
    assert metric.result().values == {"mae_deg": 2.0}
    assert metric.result().count == 1


def test_the_loss_skips_images_without_a_label():
    task = build(TaskSpec("wheel", "steering"))
    targets = task.collate([5.0, None], (32, 48))
    answers = {"wheel.degrees": targets.new_tensor([[3.0], [9.0]])}
    assert task.loss(answers, targets).item() == 2.0
