"""The published MOS networks, from their description alone: key names, shapes and computation.

Nothing here uses the product's networks or importers (only its deformable convolution, which has
a test of its own), so that an importer that agrees with this agrees with the description: design
papers/mos.md, sections 1 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemtl.models.layers import deform_conv2d_portable

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]

#: MobileNetV2 per feature group: (expansion, channels, repeats, first stride)
V2 = {
    2: [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2)],
    4: [(6, 64, 4, 2), (6, 96, 3, 1)],
    6: [(6, 160, 3, 2), (6, 320, 1, 1)],
}
SHUFFLE = {2: (116, 4), 3: (232, 8), 4: (464, 4)}
CONTEXT = {
    "conv3X3": (64, 32),
    "conv5X5_1": (64, 16),
    "conv5X5_2": (16, 16),
    "conv7X7_2": (16, 16),
    "conv7x7_3": (16, 16),
}
UNITS = ("classhead", "bboxhead", "landmarkhead", "pose_y", "pose_p", "pose_r")
#: in the order in which the published network lists its streams: box before class
STITCHES = (
    "stitch_BboxHead",
    "stitch_classhead",
    "stitch_LandmarkHead",
    "stitch_PoseHead_y",
    "stitch_PoseHead_p",
    "stitch_PoseHead_r",
)
#: the head behind each unit, in the units' order, with its values per prior
HEADS = {
    "ClassHead": 2,
    "BboxHead": 4,
    "LandmarkHead": 10,
    "PoseHead_y": 66,
    "PoseHead_p": 66,
    "PoseHead_r": 66,
}


def _norm(name: str, channels: int) -> Shapes:
    shapes: Shapes = {f"{name}.num_batches_tracked": ()}
    for part in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"{name}.{part}"] = (channels,)
    return shapes


def _conv(name: str, outputs: int, inputs: int, kernel: int, bias: bool = False) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (outputs, inputs, kernel, kernel)}
    return {**shapes, f"{name}.bias": (outputs,)} if bias else shapes


def _conv_norm(conv: str, norm: str, outputs: int, inputs: int, kernel: int) -> Shapes:
    return {**_conv(conv, outputs, inputs, kernel), **_norm(norm, outputs)}


def _v2_body() -> Shapes:
    shapes = _conv_norm("body.feature_2.0.0", "body.feature_2.0.1", 32, 3, 3)
    channels = 32
    for group, layout in V2.items():
        index = 1 if group == 2 else 0
        for expansion, outputs, repeats, _ in layout:
            for _ in range(repeats):
                conv, hidden = f"body.feature_{group}.{index}.conv", channels * expansion
                position = 0
                if expansion != 1:
                    shapes |= _conv_norm(f"{conv}.0.0", f"{conv}.0.1", hidden, channels, 1)
                    position = 1
                depth = f"{conv}.{position}"
                shapes |= _conv_norm(f"{depth}.0", f"{depth}.1", hidden, 1, 3)
                project, norm = f"{conv}.{position + 1}", f"{conv}.{position + 2}"
                shapes |= _conv_norm(project, norm, outputs, hidden, 1)
                channels, index = outputs, index + 1
    return shapes


def _shuffle_body() -> Shapes:
    shapes = _conv_norm("body.conv1.0", "body.conv1.1", 24, 3, 3)
    channels = 24
    for stage, (outputs, units) in SHUFFLE.items():
        half = outputs // 2
        for unit in range(units):
            name = f"body.stage{stage}.{unit}"
            if unit == 0:
                shapes |= _conv_norm(f"{name}.branch1.0", f"{name}.branch1.1", channels, 1, 3)
                shapes |= _conv_norm(f"{name}.branch1.2", f"{name}.branch1.3", half, channels, 1)
            inputs = channels if unit == 0 else half
            shapes |= _conv_norm(f"{name}.branch2.0", f"{name}.branch2.1", half, inputs, 1)
            shapes |= _conv_norm(f"{name}.branch2.3", f"{name}.branch2.4", half, 1, 3)
            shapes |= _conv_norm(f"{name}.branch2.5", f"{name}.branch2.6", half, half, 1)
        channels = outputs
    return shapes


def _deformable(name: str, inputs: int, outputs: int) -> Shapes:
    return {
        **_conv(f"{name}.conv", outputs, inputs, 3, bias=True),
        **_conv(f"{name}.conv.conv_offset_mask", 27, inputs, 3, bias=True),
        **_norm(f"{name}.actf.0", outputs),
    }


def shapes(variant: str) -> Shapes:
    """Name -> shape of every tensor in the published state dict of ``mos-m`` or ``mos-s``."""
    found = _v2_body() if variant == "mos-m" else _shuffle_body()
    taps = (32, 96, 320) if variant == "mos-m" else (116, 232, 464)
    for level, width in enumerate(taps, 1):
        found |= _conv_norm(f"fpn.output{level}.0", f"fpn.output{level}.1", 64, width, 1)
        for name, (inputs, outputs) in CONTEXT.items():
            found |= _deformable(f"ssh{level}.{name}", inputs, outputs)
        for a in UNITS:
            for b in UNITS:
                found[f"cross_stitch.fpn{level}.cross_stitch_unit.{a}.{b}.param"] = (64,)
    for level in (1, 2):
        found |= _deformable(f"fpn.merge{level}", 64, 64)
    for level in range(3):
        for name in STITCHES:
            found |= _conv(f"{name}.{level}.conv1x1", 64, 64, 1, bias=True)
        for name, values in HEADS.items():
            pose = name.startswith("Pose")
            width = 128 if pose else 64
            found |= _conv(f"{name}.{level}.conv1x1", 2 * values, width, 1, bias=True)
            if pose:
                conv = f"{name}.{level}.Conv_pose"
                found |= _conv_norm(f"{conv}.0", f"{conv}.1", 128, 64, 3)
    return found | _conv_norm("Conv_pose.0", "Conv_pose.1", 128, 64, 3)


def random_state(variant: str, seed: int = 0) -> State:
    """Seeded values of these names and shapes, scaled so that signals neither die nor explode."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for name, shape in shapes(variant).items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1)
            continue
        value = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            value = 0.5 + value.abs()
        elif len(shape) == 4:
            value = value * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith("param"):
            value = 0.2 + 0.3 * value
        elif ".weight" in name:
            value = 1 + 0.2 * value
        else:
            value = 0.2 * value
        state[name] = value
    return state


class Published:
    """The published forward pass, read off the key names.

    Args:
        state: as :func:`random_state`.
        variant: ``mos-m`` or ``mos-s``.
    """

    def __init__(self, state: State, variant: str) -> None:
        self.state = state
        self.variant = variant

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, bias, stride, weight.shape[2] // 2, groups=groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{part}"] for part in parts), eps=1e-5)

    def unit(self, x: Tensor, name: str, act: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """A deformable unit: DCNv2, norm, activation."""
        predicted = self.conv(x, f"{name}.conv.conv_offset_mask")
        weight, bias = self.state[f"{name}.conv.weight"], self.state[f"{name}.conv.bias"]
        mask = predicted[:, 18:].sigmoid()
        out = deform_conv2d_portable(x, predicted[:, :18], mask, weight, bias, 1)
        out = self.norm(out, f"{name}.actf.0")
        return act(out) if act else out

    def body(self, x: Tensor) -> list[Tensor]:
        """Maps at strides 8, 16, 32."""
        return self._v2(x) if self.variant == "mos-m" else self._shuffle(x)

    def _v2(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self.norm(self.conv(x, "body.feature_2.0.0", 2), "body.feature_2.0.1"))
        taps = []
        for group, layout in V2.items():
            index = 1 if group == 2 else 0
            for expansion, outputs, repeats, first in layout:
                for repeat in range(repeats):
                    conv, stride = f"body.feature_{group}.{index}.conv", first if repeat == 0 else 1
                    y, position = x, 0
                    if expansion != 1:
                        y = F.relu6(self.norm(self.conv(y, f"{conv}.0.0"), f"{conv}.0.1"))
                        position = 1
                    depth = f"{conv}.{position}"
                    y = F.relu6(self.norm(self.conv(y, f"{depth}.0", stride), f"{depth}.1"))
                    y = self.conv(y, f"{conv}.{position + 1}")
                    y = self.norm(y, f"{conv}.{position + 2}")
                    x = x + y if stride == 1 and x.shape[1] == outputs else y
                    index += 1
            taps.append(x)
        return taps

    def _shuffle(self, x: Tensor) -> list[Tensor]:
        x = F.relu(self.norm(self.conv(x, "body.conv1.0", 2), "body.conv1.1"))
        x = F.max_pool2d(x, 3, 2, 1)
        taps = []
        for stage, (_, units) in SHUFFLE.items():
            for index in range(units):
                name, stride = f"body.stage{stage}.{index}", 2 if index == 0 else 1
                one, two = (x, x) if index == 0 else x.chunk(2, dim=1)
                if index == 0:
                    b1 = f"{name}.branch1"
                    one = self.norm(self.conv(one, f"{b1}.0", 2), f"{b1}.1")
                    one = F.relu(self.norm(self.conv(one, f"{b1}.2"), f"{b1}.3"))
                b2 = f"{name}.branch2"
                two = F.relu(self.norm(self.conv(two, f"{b2}.0"), f"{b2}.1"))
                two = self.norm(self.conv(two, f"{b2}.3", stride), f"{b2}.4")
                two = F.relu(self.norm(self.conv(two, f"{b2}.5"), f"{b2}.6"))
                # Two groups of channels, interleaved.
                x = torch.stack([one, two], dim=2).flatten(1, 2)
            taps.append(x)
        return taps

    def pyramid(self, taps: list[Tensor]) -> list[Tensor]:
        """Three maps of 64 channels, after the context modules."""
        lateral = [
            F.leaky_relu(self.norm(self.conv(x, f"fpn.output{i}.0"), f"fpn.output{i}.1"), 0.1)
            for i, x in enumerate(taps, 1)
        ]
        p5 = lateral[2]
        p4 = lateral[1] + F.interpolate(p5, size=lateral[1].shape[2:], mode="nearest")
        p4 = self.unit(p4, "fpn.merge2", F.relu)
        p3 = lateral[0] + F.interpolate(p4, size=lateral[0].shape[2:], mode="nearest")
        p3 = self.unit(p3, "fpn.merge1", F.relu)
        maps = []
        for level, x in enumerate((p3, p4, p5), 1):
            a = self.unit(x, f"ssh{level}.conv3X3")
            b = self.unit(x, f"ssh{level}.conv5X5_1", F.relu)
            c = self.unit(b, f"ssh{level}.conv5X5_2")
            d = self.unit(b, f"ssh{level}.conv7X7_2", F.relu)
            e = self.unit(d, f"ssh{level}.conv7x7_3")
            maps.append(F.relu(torch.cat([a, c, e], dim=1)))
        return maps

    def heads(self, x: Tensor, level: int) -> dict[str, Tensor]:
        """Head name -> (B, H * W * 2, values) of one level, 0 to 2."""
        # The list begins with box, the names it is labelled with begin with class: the swap.
        streams = dict(
            zip(UNITS, (self.conv(x, f"{s}.{level}.conv1x1") for s in STITCHES), strict=True)
        )
        answers = {}
        for unit, (head, values) in zip(UNITS, HEADS.items(), strict=True):
            prefix = f"cross_stitch.fpn{level + 1}.cross_stitch_unit.{unit}"
            y = torch.zeros_like(x)
            for source, stream in streams.items():
                y = y + self.state[f"{prefix}.{source}.param"].view(1, -1, 1, 1) * stream
            if head.startswith("Pose"):
                hidden = f"{head}.{level}.Conv_pose"
                y = F.relu(self.norm(self.conv(y, f"{hidden}.0"), f"{hidden}.1"))
            y = self.conv(y, f"{head}.{level}.conv1x1").permute(0, 2, 3, 1)
            answers[head] = y.reshape(len(x), -1, values)
        return answers

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Head name -> (B, N, values) over all levels."""
        levels = [self.heads(x, i) for i, x in enumerate(self.pyramid(self.body(images)))]
        return {head: torch.cat([level[head] for level in levels], dim=1) for head in HEADS}
