"""``import``: published weights to a safe checkpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemtl.errors import InputRefused, UsageError
from edgemtl.models import checkpoint
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.m3vit.importers import import_encoder, import_published
from edgemtl.models.mos.importers import (
    RETINAFACE_PRESETS,
    import_published_mos,
    import_retinaface,
)
from edgemtl.models.mos.network import MOS

FAMILIES = ("mos-m", "mos-s", "retinaface", "m3vit")
#: side of the square input where a file does not tell and nothing is said
USUAL_SIDE = 640
#: limits of a side of the input in pixels
SIDES = (32, 4096)
#: ``--preset`` of an M3ViT encoder without decoders -> tasks: name, kind, classes (0: has none)
ENCODER_PRESETS = {
    "imagenet-nyud": ((480, 640), (("semseg", "segmentation", 40), ("depth", "depth", 0))),
    "imagenet-pascal-context": (
        (512, 512),
        (
            ("semseg", "segmentation", 21),
            ("human_parts", "parts", 7),
            ("sal", "saliency", 0),
            ("normals", "normals", 0),
            ("edge", "edges", 0),
        ),
    ),
}


@dataclass(frozen=True)
class ImportOptions:
    """What a published file does not say about itself.

    Attributes:
        preset: for families whose files do not say how they were trained.
        size: height and width of the input in pixels; what is usual by default.
        top_k: experts per token (m3vit).
        heads: attention heads (m3vit); those of the variant of this width by default.
    """

    preset: str | None = None
    size: tuple[int, int] | None = None
    top_k: int = 4
    heads: int | None = None


def parse_size(text: str) -> tuple[int, int]:
    """``640`` or ``480x640`` (height x width) in pixels.

    Raises:
        UsageError: something else, or out of range.
    """
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip())
    sides = [int(side) for side in found.groups() if side is not None] if found else []
    if not sides or not all(SIDES[0] <= side <= SIDES[1] for side in sides):
        raise UsageError(
            f"'{text}' is not a size",
            where="--size",
            hint=f"one side, or HEIGHTxWIDTH, in pixels from {SIDES[0]} to {SIDES[1]}",
        )
    return sides[0], sides[-1]


def import_file(
    source: Path, family: str, output: Path, options: ImportOptions | None = None
) -> dict[str, Any]:
    """Read published weights, account for every key, write a checkpoint.

    Args:
        source: file with a state dict; for m3vit also a folder of ranks.
        family: one of :data:`FAMILIES`.
        output: checkpoint to write.
        options: what the file does not say.

    Raises:
        UsageError: unknown family, or a preset is needed or does not exist.
        InputRefused: the file is unsafe, corrupt or of another layout.
    """
    asked = options or ImportOptions()
    _check(family, asked)
    try:
        network = _read(source, family, asked)
    except InputRefused as error:
        error.where = error.where or str(source)
        raise
    except ValueError as error:  # sizes and counts that a network cannot have
        raise InputRefused(str(error), where=str(source)) from error
    meta = {"imported_from": source.name, "family": family, "preset": asked.preset or ""}
    checkpoint.save(checkpoint.from_network(network, meta), output)
    notes = []
    if asked.preset in ENCODER_PRESETS:
        notes.append("only the encoder is trained: its decoders start from random weights")
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "tasks": [task.name for task in network.tasks],
        "notes": notes,
    }


def _check(family: str, asked: ImportOptions) -> None:
    if family not in FAMILIES:
        raise UsageError(f"unknown family '{family}'", hint=f"known: {', '.join(FAMILIES)}")
    if family == "retinaface" and asked.preset not in RETINAFACE_PRESETS:
        raise UsageError(
            "RetinaFace files do not say their colour order, activation and anchors, and a wrong "
            "choice loads but halves the accuracy",
            where="--preset",
            hint=f"one of {', '.join(RETINAFACE_PRESETS)}; then check it with 'edgemtl eval'",
        )
    known = {"retinaface": tuple(RETINAFACE_PRESETS), "m3vit": tuple(ENCODER_PRESETS)}
    if asked.preset is not None and asked.preset not in known.get(family, ()):
        raise UsageError(
            f"family '{family}' has no presets"
            if family not in known
            else f"family '{family}' has no preset '{asked.preset}'",
            where="--preset",
            hint=f"presets: {', '.join(known[family])}" if family in known else None,
        )


def _read(source: Path, family: str, asked: ImportOptions) -> MultiTaskNetwork:
    if family == "m3vit":
        if asked.preset is None:
            return import_published(source, size=asked.size, top_k=asked.top_k, heads=asked.heads)
        size, kinds = ENCODER_PRESETS[asked.preset]
        tasks = [
            {"name": name, "kind": kind, "options": _classes(count)} for name, kind, count in kinds
        ]
        return import_encoder(
            source, tasks, size=asked.size or size, top_k=asked.top_k, heads=asked.heads
        )
    payload = checkpoint.load_tensors(source)
    height, width = asked.size or (USUAL_SIDE, USUAL_SIDE)
    if family == "retinaface":
        return import_retinaface(payload, str(asked.preset), (height, width))
    return _resized(import_published_mos(payload, family), (height, width))


def _classes(count: int) -> dict[str, Any]:
    return {"classes": [f"class_{index}" for index in range(count)]} if count else {}


def _resized(network: MOS, size: tuple[int, int]) -> MOS:
    """The same weights for another input size: the network is fully convolutional."""
    other = MOS(**{**network.arguments, "size": list(size)})
    other.load_state_dict(network.state_dict())
    return other.eval()
