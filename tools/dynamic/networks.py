"""The paper's kinds of networks for 32x32 pictures, narrow enough to train on one core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgemtl.data.preprocess import InputSpec, View
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.layers import ConvNormAct
from edgemtl.tasks.base import Arrays, Metric, MetricSpec, Task, TaskSpec

TASK = "parts"
SPEC = InputSpec((32, 32), "rgb", mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4), fill=114.0)
#: convolutions of VGG16 per stage, in sixty-fourths of the first width
_VGG = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))


class Classification(Task):
    """One class per picture; only what training and groups need."""

    kind: ClassVar[str] = "classification"
    label_kind: ClassVar[str] = "class"
    primary: ClassVar[MetricSpec] = MetricSpec("accuracy", "accuracy", "higher")

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.logits",)

    def spec(self) -> TaskSpec:
        return TaskSpec(self.name, self.kind)

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Tensor:
        return torch.tensor(labels)

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Any) -> dict[str, Tensor]:
        return {"class": F.cross_entropy(outputs[self.outputs[0]], targets)}

    def decode(self, outputs: Arrays, view: View, decoded: Mapping[str, Any]) -> int:
        return int(outputs[self.outputs[0]].argmax())

    def new_metric(self) -> Metric:
        raise NotImplementedError("these pictures come from no data set of the product")

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        return image


class _Classifier(MultiTaskNetwork):
    """Features, global mean, one linear layer."""

    def __init__(self, features: nn.Module, width: int, classes: int) -> None:
        super().__init__({}, [Classification(TASK)], SPEC)
        self.features = features
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, 32, 32) -> logits (B, classes)."""
        return {f"{TASK}.logits": self.classifier(self.features(images).mean(dim=(2, 3)))}


class _Basic(nn.Module):
    """Basic residual block of the CIFAR ResNets; a strided shortcut is subsampled and padded."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNormAct(inputs, outputs, 3, stride)
        self.second = ConvNormAct(outputs, outputs, 3, activation="none")
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        short = x[:, :, :: self.stride, :: self.stride]
        if self.extra:
            short = F.pad(short, (0, 0, 0, 0, 0, self.extra))
        return F.relu(short + self.second(self.first(x)))


class _Projected(nn.Module):
    """Basic residual block; where the shape changes the shortcut is a strided 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNormAct(inputs, outputs, 3, stride)
        self.second = ConvNormAct(outputs, outputs, 3, activation="none")
        same = stride == 1 and inputs == outputs
        self.short = (
            nn.Identity() if same else ConvNormAct(inputs, outputs, 1, stride, activation="none")
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return F.relu(self.short(x) + self.second(self.first(x)))


class ResNet18(MultiTaskNetwork):
    """The layout of ResNet-18 (7x7 stem, four stages of two blocks) in parts that have names.

    Its weights are random: for times, which do not depend on them, and for nothing else.

    Args:
        size: height and width of the input.
        classes: of the one output.
    """

    STAGES: ClassVar[tuple[int, ...]] = (64, 128, 256, 512)

    def __init__(self, size: int = 224, classes: int = 1000) -> None:
        super().__init__({}, [Classification(TASK)], replace(SPEC, size=(size, size)))
        self.stem = ConvNormAct(3, self.STAGES[0], 7, 2)
        stages, channels = [], self.STAGES[0]
        for index, width in enumerate(self.STAGES):
            blocks = [_Projected(channels, width, 2 if index else 1), _Projected(width, width, 1)]
            stages.append(nn.Sequential(*blocks))
            channels = width
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, H, W) -> logits (B, classes)."""
        x = F.max_pool2d(self.stem(images), 3, 2, 1)
        for stage in self.stages:
            x = stage(x)
        return {f"{TASK}.logits": self.classifier(x.mean(dim=(2, 3)))}


class _Separable(nn.Module):
    """Depthwise 3x3, then 1x1."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = ConvNormAct(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


def vgg16(classes: int, width: int = 16) -> MultiTaskNetwork:
    """VGG16-BN for 32x32 pictures, first width 16 in place of 64: 13 convolutions, 20 MMAC."""
    layers: list[nn.Module] = []
    channels = 3
    for stage in _VGG:
        for factor in stage:
            layers.append(ConvNormAct(channels, factor * width, 3))
            channels = factor * width
        layers.append(nn.MaxPool2d(2))
    return _Classifier(nn.Sequential(*layers[:-1]), channels, classes)


def resnet20(classes: int, width: int = 16) -> MultiTaskNetwork:
    """The paper's ResNet-56 with three blocks a stage in place of nine: 41 MMAC."""
    blocks: list[nn.Module] = [ConvNormAct(3, width, 3)]
    channels = width
    for stage in range(3):
        for block in range(3):
            outputs = width * 2**stage
            blocks.append(_Basic(channels, outputs, 2 if stage and not block else 1))
            channels = outputs
    return _Classifier(nn.Sequential(*blocks), channels, classes)


def mobilenetv1(classes: int, width: int = 16) -> MultiTaskNetwork:
    """MobileNetV1 x0.5 for 32x32 pictures: 13 separable blocks, strides as the CIFAR form has."""
    layout = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1))
    blocks: list[nn.Module] = [ConvNormAct(3, width, 3)]
    channels = width
    for factor, stride in layout:
        blocks.append(_Separable(channels, factor * width, stride))
        channels = factor * width
    return _Classifier(nn.Sequential(*blocks), channels, classes)


NETWORKS = {"vgg16-bn": vgg16, "resnet20": resnet20, "mobilenetv1": mobilenetv1}
