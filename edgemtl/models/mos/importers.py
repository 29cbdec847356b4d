"""Published checkpoints of the MOS family and of its ancestor RetinaFace.

Every published key is accounted for: mapped, or dropped by name with the reason. Whatever else
appears, or is missing, refuses the import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edgemtl.errors import InputRefused
from edgemtl.models.checkpoint import load_weights
from edgemtl.models.importing import Names, plain_state, rename
from edgemtl.models.mos.heads import CrossStitch, LevelHead
from edgemtl.models.mos.neck import NECK_WIDTH
from edgemtl.models.mos.network import MOS

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _conv_norm(ours: str, conv: str, norm: str) -> Names:
    names = {f"{conv}.weight": f"{ours}.conv.weight"}
    names.update({f"{norm}.{part}": f"{ours}.norm.{part}" for part in _NORM})
    return names


def _conv_bias(ours: str, theirs: str) -> Names:
    return {f"{theirs}.{part}": f"{ours}.{part}" for part in ("weight", "bias")}


def _deformable(ours: str, theirs: str) -> Names:
    names = {f"{theirs}.conv.{part}": f"{ours}.conv.{part}" for part in ("weight", "bias")}
    names.update(_conv_bias(f"{ours}.conv.offset_mask", f"{theirs}.conv.conv_offset_mask"))
    names.update({f"{theirs}.actf.0.{part}": f"{ours}.norm.{part}" for part in _NORM})
    return names


def _inverted_residual(ours: str, theirs: str, expands: bool) -> Names:
    if not expands:
        return {
            **_conv_norm(f"{ours}.depthwise", f"{theirs}.conv.0.0", f"{theirs}.conv.0.1"),
            **_conv_norm(f"{ours}.project", f"{theirs}.conv.1", f"{theirs}.conv.2"),
        }
    return {
        **_conv_norm(f"{ours}.expand", f"{theirs}.conv.0.0", f"{theirs}.conv.0.1"),
        **_conv_norm(f"{ours}.depthwise", f"{theirs}.conv.1.0", f"{theirs}.conv.1.1"),
        **_conv_norm(f"{ours}.project", f"{theirs}.conv.2", f"{theirs}.conv.3"),
    }


#: blocks per stage of MobileNetV2 up to strides 8, 16, 32
_V2_BLOCKS = (6, 7, 4)
_SHUFFLE_UNITS = (4, 8, 4)
_V1_BLOCKS = (5, 6, 2)


def mobilenet_v2_names() -> Names:
    """The usual ImageNet layout (``features.N``) -> backbone of mos-m, by position."""
    names = _conv_norm("backbone.stem", "features.0.0", "features.0.1")
    position = 1
    for stage, blocks in enumerate(_V2_BLOCKS):
        for block in range(blocks):
            names.update(
                _inverted_residual(
                    f"backbone.stages.{stage}.{block}", f"features.{position}", position > 1
                )
            )
            position += 1
    return names


def mobilenet_v1_names(prefix: str = "") -> Names:
    """RetinaFace's MobileNetV1 (``stage1``..``stage3``) -> backbone of mos-t."""
    names = _conv_norm("backbone.stem", f"{prefix}stage1.0.0", f"{prefix}stage1.0.1")
    for stage, blocks in enumerate(_V1_BLOCKS):
        for block in range(blocks):
            theirs = f"{prefix}stage{stage + 1}.{block + (stage == 0)}"
            ours = f"backbone.stages.{stage}.{block}"
            names.update(_conv_norm(f"{ours}.depthwise", f"{theirs}.0", f"{theirs}.1"))
            names.update(_conv_norm(f"{ours}.pointwise", f"{theirs}.3", f"{theirs}.4"))
    return names


def _mos_m_body() -> Names:
    names = _conv_norm("backbone.stem", "body.feature_2.0.0", "body.feature_2.0.1")
    for stage, (group, blocks) in enumerate(zip((2, 4, 6), _V2_BLOCKS, strict=True)):
        for block in range(blocks):
            theirs = f"body.feature_{group}.{block + (stage == 0)}"
            expands = not (stage == 0 and block == 0)
            ours = f"backbone.stages.{stage}.{block}"
            names.update(_inverted_residual(ours, theirs, expands))
    return names


def _mos_s_body() -> Names:
    names = _conv_norm("backbone.stem", "body.conv1.0", "body.conv1.1")
    for stage, units in enumerate(_SHUFFLE_UNITS):
        for unit in range(units):
            theirs, ours = f"body.stage{stage + 2}.{unit}", f"backbone.stages.{stage}.{unit}"
            if unit == 0:
                for index, start in enumerate((0, 2)):
                    names.update(
                        _conv_norm(
                            f"{ours}.shortcut.{index}",
                            f"{theirs}.branch1.{start}",
                            f"{theirs}.branch1.{start + 1}",
                        )
                    )
            for index, start in enumerate((0, 3, 5)):
                names.update(
                    _conv_norm(
                        f"{ours}.branch.{index}",
                        f"{theirs}.branch2.{start}",
                        f"{theirs}.branch2.{start + 1}",
                    )
                )
    return names


#: our context modules -> published spelling, which mixes case
_CONTEXT = {
    "conv3": "conv3X3",
    "conv5_1": "conv5X5_1",
    "conv5_2": "conv5X5_2",
    "conv7_2": "conv7X7_2",
    "conv7_3": "conv7x7_3",
}
#: our stream -> the published stitch convolution that feeds it. Class and box are swapped: the
#: published network lists its streams as [box, class, ...] but labels them [class, box, ...], so
#: the convolution named after the box head is the one that learned to feed the class head.
_STITCH_CONV = {
    "class": "stitch_BboxHead",
    "box": "stitch_classhead",
    "landmark": "stitch_LandmarkHead",
    "yaw": "stitch_PoseHead_y",
    "pitch": "stitch_PoseHead_p",
    "roll": "stitch_PoseHead_r",
}
_STITCH_UNIT = {
    "class": "classhead",
    "box": "bboxhead",
    "landmark": "landmarkhead",
    "yaw": "pose_y",
    "pitch": "pose_p",
    "roll": "pose_r",
}
_LINEAR_HEAD = {"class": "ClassHead", "box": "BboxHead", "landmark": "LandmarkHead"}
_ANGLE_HEAD = {"yaw": "PoseHead_y", "pitch": "PoseHead_p", "roll": "PoseHead_r"}


def _mos_head_names(level: int) -> Names:
    ours = f"levels.{level}"
    names: Names = {}
    for stream, theirs in _STITCH_CONV.items():
        names.update(_conv_bias(f"{ours}.stitch.convs.{stream}", f"{theirs}.{level}.conv1x1"))
    for stream, theirs in _LINEAR_HEAD.items():
        names.update(_conv_bias(f"{ours}.heads.{stream}", f"{theirs}.{level}.conv1x1"))
    for stream, theirs in _ANGLE_HEAD.items():
        head = f"{ours}.heads.{stream}"
        names.update(
            _conv_norm(
                f"{head}.hidden",
                f"{theirs}.{level}.Conv_pose.0",
                f"{theirs}.{level}.Conv_pose.1",
            )
        )
        names.update(_conv_bias(f"{head}.out", f"{theirs}.{level}.conv1x1"))
    return names


def _neck_names(context: Callable[[str, str], Names]) -> Names:
    names: Names = {}
    for level in range(3):
        names.update(
            _conv_norm(
                f"fpn.lateral.{level}", f"fpn.output{level + 1}.0", f"fpn.output{level + 1}.1"
            )
        )
        for ours, theirs in _CONTEXT.items():
            names.update(context(f"context.{level}.{ours}", f"ssh{level + 1}.{theirs}"))
    for level in range(2):
        names.update(context(f"fpn.merge.{level}", f"fpn.merge{level + 1}"))
    return names


def import_published_mos(payload: Any, variant: str) -> MOS:
    """A published MOS-M or MOS-S state dict (717 or 741 keys) as a network.

    ``Conv_pose`` (top level) is dropped: the published network stores it and never runs it.

    Raises:
        InputRefused: the keys are not those of the variant.
    """
    state = plain_state(payload)
    names = _mos_m_body() if variant == "mos-m" else _mos_s_body()
    names |= _neck_names(_deformable)
    for level in range(3):
        names |= _mos_head_names(level)
    units = {
        f"cross_stitch.fpn{level + 1}.cross_stitch_unit.{i}.{j}.param": (level, a, b)
        for level in range(3)
        for a, i in _STITCH_UNIT.items()
        for b, j in _STITCH_UNIT.items()
    }
    bad = [key for key in units if key not in state or state[key].numel() != NECK_WIDTH]
    if bad:
        raise InputRefused(
            f"the file lacks {len(bad)} cross-stitch units of {NECK_WIDTH} values, '{bad[0]}'"
        )
    rest = {key: value for key, value in state.items() if key not in units}
    network = MOS(variant=variant, context="deformable")
    ours = _with_counters(network, rename(rest, names, dropped=("Conv_pose.",)))
    for level, head in enumerate(network.levels):
        assert isinstance(head, LevelHead) and isinstance(head.stitch, CrossStitch)
        mix = head.stitch.mix.detach().clone()
        order = head.stitch.streams
        for key, (where, a, b) in units.items():
            if where == level:
                mix[order.index(a), order.index(b)] = state[key].reshape(-1)
        ours[f"levels.{level}.stitch.mix"] = mix
    load_weights(network, ours)
    return network.eval()


def _with_counters(network: MOS, state: dict[str, Tensor]) -> dict[str, Tensor]:
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, value)
    return state


@dataclass(frozen=True)
class RetinaFacePreset:
    """What a RetinaFace file does not say about itself.

    All pairings load without an error; a wrong one halves the average precision.
    """

    channel_order: str
    activation: str
    sizes: tuple[tuple[int, int], ...]


RETINAFACE_PRESETS = {
    "retinaface-rgb-leaky": RetinaFacePreset(
        "rgb", "leaky_relu", ((16, 32), (64, 128), (256, 512))
    ),
    "retinaface-bgr-relu": RetinaFacePreset("bgr", "relu", ((10, 20), (32, 64), (128, 256))),
}


def retinaface_names() -> Names:
    """RetinaFace MobileNetV1 x0.25 -> mos-t without stitching and pose."""

    def context(ours: str, theirs: str) -> Names:
        return _conv_norm(ours, f"{theirs}.0", f"{theirs}.1")

    names = mobilenet_v1_names("body.") | _neck_names(context)
    # RetinaFace spells the last SSH convolution like MOS does; only its FPN merges are plain.
    for level in range(3):
        for stream, theirs in _LINEAR_HEAD.items():
            names.update(_conv_bias(f"levels.{level}.heads.{stream}", f"{theirs}.{level}.conv1x1"))
    return names


def import_retinaface(payload: Any, preset: str, size: tuple[int, int] = (320, 320)) -> MOS:
    """A RetinaFace MobileNetV1 x0.25 state dict as a ``mos-t`` with detection and landmarks.

    Args:
        payload: what the file holds.
        preset: key of :data:`RETINAFACE_PRESETS`.
        size: input height and width for the new checkpoint.

    Raises:
        InputRefused: unknown preset or keys that are not RetinaFace's.
    """
    if preset not in RETINAFACE_PRESETS:
        raise InputRefused(
            f"unknown preset '{preset}'", hint=f"presets: {', '.join(RETINAFACE_PRESETS)}"
        )
    chosen = RETINAFACE_PRESETS[preset]
    network = MOS(
        variant="mos-t",
        context="plain",
        tasks=("detection", "landmarks"),
        stitch="none",
        activation=chosen.activation,
        size=size,
        channel_order=chosen.channel_order,
        anchors={
            "strides": [8, 16, 32],
            "sizes": [list(level) for level in chosen.sizes],
            "variances": [0.1, 0.2],
        },
    )
    state = plain_state(payload)
    load_weights(network, _with_counters(network, rename(state, retinaface_names())))
    return network.eval()


def imagenet_backbone(network: MOS, payload: Any) -> None:
    """Load ImageNet weights into the backbone of ``mos-m`` or ``mos-t``, in place.

    The classifier and, for MobileNetV2, the last 1x1 convolution have no counterpart.

    Raises:
        InputRefused: the file's layout is not that backbone's.
    """
    state = plain_state(payload)
    dropped: tuple[str, ...]
    if network.arguments["variant"] == "mos-m":
        names, dropped = mobilenet_v2_names(), ("features.18.", "classifier.")
    else:
        names, dropped = mobilenet_v1_names(), ("fc.",)
    ours = network.state_dict() | rename(state, names, dropped)
    load_weights(network, ours)
