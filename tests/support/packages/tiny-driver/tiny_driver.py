"""A network family: what is road, and how far to turn the wheel, from one encoder."""

from __future__ import annotations

from collections.abc import Sequence

from steering_task import Steering
from torch import Tensor, nn

from edgemtl.data.preprocess import InputSpec
from edgemtl.models import MultiTaskNetwork, register_family
from edgemtl.models.layers import ConvNormAct
from edgemtl.tasks import Segmentation

CLASSES = ("road", "rest")


@register_family("tiny-driver")
class TinyDriver(MultiTaskNetwork):
    """Two convolutions, and a head for each task.

    Args:
        width: channels of the first convolution; the second has twice as many.
    """

    def __init__(self, width: int = 8) -> None:
        spec = InputSpec((32, 48), "rgb", mean=(127.5,) * 3, std=(64.0,) * 3, fill=114.0)
        tasks = [Segmentation("road", CLASSES), Steering("wheel")]
        super().__init__({"width": width}, tasks, spec)
        self.stem = ConvNormAct(3, width, 3, 2)
        self.body = ConvNormAct(width, 2 * width, 3, 2)
        self.road = nn.Conv2d(2 * width, len(CLASSES), 1)
        self.wheel = nn.Linear(2 * width, 1)

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, H, W) -> class scores (B, 2, H / 4, W / 4) and degrees (B, 1)."""
        features = self.body(self.stem(images))
        answers: dict[str, Tensor] = {}
        for task in self.requested(tasks):  # what nobody asked for is not computed
            if task.name == "road":
                answers[task.outputs[0]] = self.road(features)
            else:
                answers[task.outputs[0]] = self.wheel(features.mean(dim=(2, 3)))
        return answers
