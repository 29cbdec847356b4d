"""Four networks that nothing in the package knows, with two or three dense tasks each.

They stand for what users bring: a ResNet-18, a MobileNetV3 with squeeze-and-excitation, a ViT-tiny
and a small feature pyramid, written here from their papers' tables. Their widths are the papers'
(the pyramid's are ours); their input is small, so that minutes of training tell something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.data.preprocess import InputSpec
from edgemtl.data.published_dense import BODY_PARTS
from edgemtl.models import MultiTaskNetwork, register_family
from edgemtl.tasks.registry import build as build_task
from edgemtl.tasks.registry import spec_from_dict

SIZE = (128, 128)
TASKS = {
    "parts": {"name": "parts", "kind": "parts", "options": {"classes": list(BODY_PARTS)}},
    "saliency": {"name": "saliency", "kind": "saliency"},
    "depth": {"name": "depth", "kind": "depth"},
}
CHANNELS = {"parts": len(BODY_PARTS), "saliency": 2, "depth": 1}
#: metres: what an untrained depth head answers
TYPICAL_DEPTH = 2.0


def conv(inside: int, outside: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the place."""
    return nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)


class Stranger(MultiTaskNetwork):
    """A backbone with a dense head per task.

    Args:
        tasks: names among :data:`TASKS`.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        spec = InputSpec(
            SIZE, "rgb", mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4), fill=114.0
        )
        chosen = [build_task(spec_from_dict(TASKS[name])) for name in tasks]
        super().__init__({"tasks": list(tasks)}, chosen, spec)

    def features(self, images: Tensor) -> Tensor:
        """Shared features that every head reads."""
        raise NotImplementedError

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, 128, 128) -> a map per task at the features' stride."""
        shared = self.features(images)
        heads: nn.ModuleDict = self.heads  # type: ignore[assignment]
        found = {}
        for task in self.requested(tasks):
            out = heads[task.name](shared)
            found[task.outputs[0]] = F.softplus(out) if task.name == "depth" else out
        return found

    def forward_training(self, images: Tensor, tasks: Sequence[str]) -> SimpleNamespace:
        """What the trainer asks for; there are no experts to balance."""
        return SimpleNamespace(outputs=self(images, tasks), balance=torch.zeros(()))

    def make_heads(self, width: int, inner: int) -> None:
        """A 3x3 convolution, a norm and a 1x1 convolution per task."""
        self.heads = nn.ModuleDict(
            {
                task.name: nn.Sequential(
                    conv(width, inner),
                    nn.BatchNorm2d(inner),
                    nn.ReLU(),
                    nn.Conv2d(inner, CHANNELS[task.name], 1),
                )
                for task in self.tasks
            }
        )
        if "depth" in self.heads:
            nn.init.constant_(self.heads["depth"][-1].bias, TYPICAL_DEPTH)  # type: ignore[index, arg-type]


class Basic(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, figure 5 left)."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inside, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width), nn.BatchNorm2d(width)
        self.down: nn.Module | None = None
        if stride != 1 or inside != width:
            self.down = nn.Sequential(conv(inside, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) -> (B, width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.down is None else self.down(x)))


@register_family("stranger-resnet18")
class ResNet18(Stranger):
    """ResNet-18 (He et al. 2016, table 1), its last stage brought back to stride 8."""

    def __init__(self, tasks: Sequence[str] = ("parts", "saliency", "depth")) -> None:
        super().__init__(tasks)
        self.stem = nn.Sequential(conv(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU())
        stages, inside = [], 64
        for index, width in enumerate((64, 128, 256, 512)):
            first = Basic(inside, width, 1 if index == 0 else 2)
            stages.append(nn.Sequential(first, Basic(width, width, 1)))
            inside = width
        self.stages = nn.ModuleList(stages)
        self.lateral, self.merge = nn.Conv2d(128, 128, 1), nn.Conv2d(512, 128, 1)
        self.make_heads(128, 64)

    def features(self, images: Tensor) -> Tensor:
        """(B, 128, 16, 16)."""
        x = F.max_pool2d(self.stem(images), 3, 2, 1)
        kept = []
        for stage in self.stages:
            x = stage(x)
            kept.append(x)
        up = F.interpolate(self.merge(kept[3]), size=kept[1].shape[2:], mode="nearest")
        return F.relu(up + self.lateral(kept[1]))


class Squeeze(nn.Module):
    """Squeeze-and-excitation with a hard sigmoid (Howard et al. 2019, section 5.3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(8, width // 4)
        self.down, self.up = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel by what all of them hold."""
        gate = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(gate)


class Inverted(nn.Module):
    """Expand, depthwise, squeeze, project (Howard et al. 2019, figure 4)."""

    def __init__(
        self, inside: int, width: int, middle: int, kernel: int, stride: int, se: bool, hard: bool
    ) -> None:
        super().__init__()
        act: Callable[[], nn.Module] = nn.Hardswish if hard else nn.ReLU
        self.body = nn.Sequential(
            conv(inside, middle, 1),
            nn.BatchNorm2d(middle),
            act(),
            conv(middle, middle, kernel, stride, middle),
            nn.BatchNorm2d(middle),
            act(),
            Squeeze(middle) if se else nn.Identity(),
            conv(middle, width, 1),
            nn.BatchNorm2d(width),
        )
        self.shortcut = stride == 1 and inside == width

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) -> (B, width, H / stride, W / stride)."""
        y: Tensor = self.body(x)
        return x + y if self.shortcut else y


#: kernel, middle, width, squeeze, hard swish, stride: MobileNetV3-Small, table 2
_SMALL = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


@register_family("stranger-mobilenetv3")
class MobileNetV3(Stranger):
    """MobileNetV3-Small (Howard et al. 2019, table 2) with a lateral path to stride 8."""

    def __init__(self, tasks: Sequence[str] = ("parts", "saliency")) -> None:
        super().__init__(tasks)
        self.stem = nn.Sequential(conv(3, 16, 3, 2), nn.BatchNorm2d(16), nn.Hardswish())
        blocks, inside = [], 16
        for kernel, middle, width, se, hard, stride in _SMALL:
            blocks.append(Inverted(inside, width, middle, kernel, stride, se, hard))
            inside = width
        self.blocks = nn.ModuleList(blocks)
        self.lateral, self.merge = nn.Conv2d(24, 64, 1), nn.Conv2d(96, 64, 1)
        self.make_heads(64, 48)

    def features(self, images: Tensor) -> Tensor:
        """(B, 64, 16, 16)."""
        x = self.stem(images)
        fine = x
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == 2:
                fine = x
        up = F.interpolate(self.merge(x), size=fine.shape[2:], mode="nearest")
        return F.relu(up + self.lateral(fine))


class ViTBlock(nn.Module):
    """Pre-norm attention and MLP (Dosovitskiy et al. 2021, equations 2 and 3)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        b, n, _ = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv.unbind(0))
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, -1))
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return out


@register_family("stranger-vit-tiny")
class ViTTiny(Stranger):
    """ViT-tiny (Touvron et al. 2021, table 1: width 192, 3 heads, 12 blocks), patches of 8."""

    def __init__(self, tasks: Sequence[str] = ("parts", "saliency", "depth")) -> None:
        super().__init__(tasks)
        self.patch = nn.Conv2d(3, 192, 8, 8)
        self.position = nn.Parameter(0.02 * torch.randn(1, 256, 192))
        self.blocks = nn.ModuleList(ViTBlock(192, 3) for _ in range(12))
        self.norm = nn.LayerNorm(192)
        self.make_heads(192, 64)

    def features(self, images: Tensor) -> Tensor:
        """(B, 192, 16, 16)."""
        x = self.patch(images).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x).transpose(1, 2).unflatten(2, (16, 16))
        return out


@register_family("stranger-fpn")
class SmallFpn(Stranger):
    """Four stages and a feature pyramid (Lin et al. 2017, section 3), sums all the way down."""

    def __init__(self, tasks: Sequence[str] = ("saliency", "depth")) -> None:
        super().__init__(tasks)
        stages, inside = [], 3
        for width in (24, 48, 96, 160):
            stages.append(
                nn.Sequential(
                    conv(inside, width, 3, 2),
                    nn.BatchNorm2d(width),
                    nn.SiLU(),
                    conv(width, width),
                    nn.BatchNorm2d(width),
                    nn.SiLU(),
                )
            )
            inside = width
        self.stages = nn.ModuleList(stages)
        self.laterals = nn.ModuleList(nn.Conv2d(width, 64, 1) for width in (48, 96, 160))
        self.smooth = nn.Sequential(conv(64, 64), nn.BatchNorm2d(64), nn.SiLU())
        self.make_heads(64, 48)

    def features(self, images: Tensor) -> Tensor:
        """(B, 64, 32, 32)."""
        kept, x = [], images
        for stage in self.stages:
            x = stage(x)
            kept.append(x)
        sides = [lateral(k) for lateral, k in zip(self.laterals, kept[1:], strict=True)]
        top = sides[2]
        for side in (sides[1], sides[0]):
            top = side + F.interpolate(top, size=side.shape[2:], mode="nearest")
        out: Tensor = self.smooth(top)
        return out


STRANGERS: dict[str, type[Stranger]] = {
    "resnet18": ResNet18,
    "mobilenetv3": MobileNetV3,
    "vit_tiny": ViTTiny,
    "fpn": SmallFpn,
}


def build(name: str, seed: int = 0) -> Stranger:
    """An untrained one.

    Args:
        name: key of :data:`STRANGERS`.
        seed: of its weights.
    """
    torch.manual_seed(seed)
    return STRANGERS[name]()
