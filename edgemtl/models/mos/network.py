"""MOS: one-stage face detection, landmarks and head pose (arXiv 2110.10953, design section 1)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import UsageError
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.layers import ContextKind
from edgemtl.models.mos.backbones import MobileNetV1Quarter, MobileNetV2, ShuffleNetV2
from edgemtl.models.mos.heads import LevelHead, StitchKind
from edgemtl.models.mos.neck import ContextModule, FeaturePyramid
from edgemtl.models.registry import register_family
from edgemtl.tasks.anchors import AnchorSpec
from edgemtl.tasks.base import Task
from edgemtl.tasks.detection import Detection
from edgemtl.tasks.landmarks import Landmarks
from edgemtl.tasks.pose import HeadPose

#: kind of task -> its streams, in the order of the task's outputs
TASK_STREAMS: dict[str, tuple[str, ...]] = {
    "detection": ("class", "box"),
    "landmarks": ("landmark",),
    "pose": ("yaw", "pitch", "roll"),
}
_TASK_KINDS: dict[str, type[Detection] | type[Landmarks] | type[HeadPose]] = {
    "detection": Detection,
    "landmarks": Landmarks,
    "pose": HeadPose,
}
#: ImageNet channel means as MOS and RetinaFace use them, in BGR order, 0..255
_MEAN_BGR = (104.0, 117.0, 123.0)


def _backbone(variant: str, activation: str) -> nn.Module:
    makers: dict[str, Callable[[], nn.Module]] = {
        "mos-m": MobileNetV2,
        "mos-s": ShuffleNetV2,
        "mos-t": lambda: MobileNetV1Quarter(activation),
    }
    if variant not in makers:
        raise ValueError(f"unknown variant '{variant}' (known: {', '.join(makers)})")
    return makers[variant]()


@register_family("mos")
class MOS(MultiTaskNetwork):
    """Backbone, feature pyramid, SSH context, cross-stitched heads on three levels.

    Args:
        variant: ``mos-m`` (MobileNetV2), ``mos-s`` (ShuffleNetV2) or ``mos-t`` (MobileNetV1 x0.25
            in RetinaFace's layout).
        context: ``deformable`` (as published) or ``plain`` 3x3 convolutions in pyramid and SSH.
        tasks: which of ``detection``, ``landmarks``, ``pose`` the network has.
        stitch: ``cross``, ``folded`` (equal at inference, cheaper) or ``none``.
        activation: of backbone and neck of ``mos-t`` (``leaky_relu`` or ``relu``); the published
            choice for the others.
        size: height and width of the input in pixels.
        channel_order: ``bgr`` or ``rgb``.
        anchors: :class:`AnchorSpec` as plain data; the published one by default.
    """

    def __init__(
        self,
        variant: str = "mos-m",
        context: ContextKind = "deformable",
        tasks: Sequence[str] = ("detection", "landmarks", "pose"),
        stitch: StitchKind = "cross",
        activation: str = "leaky_relu",
        size: Sequence[int] = (640, 640),
        channel_order: str = "bgr",
        anchors: Mapping[str, Any] | None = None,
    ) -> None:
        if context not in ("deformable", "plain") or stitch not in ("cross", "folded", "none"):
            raise ValueError(f"context '{context}' or stitch '{stitch}' is not known")
        if activation not in ("relu", "leaky_relu") or channel_order not in ("bgr", "rgb"):
            raise ValueError(f"activation '{activation}' or order '{channel_order}' is not known")
        spec = AnchorSpec() if anchors is None else AnchorSpec.from_dict(anchors)
        mean = _MEAN_BGR if channel_order == "bgr" else _MEAN_BGR[::-1]
        built: list[Task] = [_TASK_KINDS[name](name=name, anchors=spec.to_dict()) for name in tasks]
        super().__init__(
            {
                "variant": variant,
                "context": context,
                "tasks": list(tasks),
                "stitch": stitch,
                "activation": activation,
                "size": [int(size[0]), int(size[1])],
                "channel_order": channel_order,
                "anchors": spec.to_dict(),
            },
            built,
            InputSpec.from_dict(
                {
                    "size": size,
                    "channel_order": channel_order,
                    "mean": mean,
                    "std": (1.0, 1.0, 1.0),
                }
            ),
        )
        small = variant == "mos-t"
        self.backbone = _backbone(variant, activation)
        widths: tuple[int, ...] = self.backbone.widths  # type: ignore[assignment]
        self.fpn = FeaturePyramid(
            widths,
            context,
            lateral=activation if small else "leaky_relu",
            merge=activation if small else "relu",
        )
        self.context = nn.ModuleList(
            ContextModule(context, activation if small else "relu") for _ in widths
        )
        streams = [stream for name in tasks for stream in TASK_STREAMS[name]]
        self.levels = nn.ModuleList(LevelHead(streams, spec.per_cell, stitch) for _ in widths)

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, H, W) -> per output (B, N, values); see :class:`MultiTaskNetwork`."""
        wanted = self.requested(tasks)
        streams = [stream for task in wanted for stream in TASK_STREAMS[task.kind]]
        pyramid = self.fpn(self.backbone(images))
        levels = [
            level(context(x), streams)
            for level, context, x in zip(self.levels, self.context, pyramid, strict=True)
        ]
        return {
            output: torch.cat([level[stream] for level in levels], dim=1)
            for task in wanted
            for output, stream in zip(task.outputs, TASK_STREAMS[task.kind], strict=True)
        }

    def folded(self) -> MOS:
        """An equal network with every cross-stitch folded away (a copy; this one is unchanged).

        A plain copy when there is nothing to fold. The folded form of a pruned network is for
        running and exporting: its pruning record speaks of the unfolded layers, so it is the
        unfolded network that a checkpoint keeps.
        """
        other = copy.deepcopy(self)
        if self.arguments["stitch"] == "cross":
            other.arguments["stitch"] = "folded"
            for index, level in enumerate(self.levels):
                assert isinstance(level, LevelHead)
                other.levels[index] = level.folded()
        return other

    def restricted(self, names: Sequence[str]) -> MOS:
        """An equal network with these tasks only (and those they require); others' heads go.

        A cross-stitch mixes the streams of all tasks, so it is folded first: what a task took from
        the others' streams stays in its own. A pruned network cannot be restricted, since its
        record speaks of the layers that would go.

        Raises:
            UsageError: an unknown task, or a pruned network.
        """
        kept = [task.name for task in self.selected(names)]
        if len(kept) == len(self.tasks):
            return copy.deepcopy(self)
        if self.pruning:
            raise UsageError(
                "a network that was pruned cannot leave out tasks",
                hint="leave them out when it is pruned for the first time",
            )
        other = self.folded()
        streams = [s for task in self.selected(names) for s in TASK_STREAMS[task.kind]]
        for level in other.levels:
            assert isinstance(level, LevelHead)
            level.streams = tuple(streams)
            level.heads = nn.ModuleDict({name: level.heads[name] for name in streams})
        other.arguments["tasks"] = kept
        other.tasks = tuple(task for task in other.tasks if task.name in kept)
        return other
