"""``import``: published weights to a safe checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemtl.errors import InputRefused, UsageError
from edgemtl.models import checkpoint
from edgemtl.models.mos.importers import (
    RETINAFACE_PRESETS,
    import_published_mos,
    import_retinaface,
)
from edgemtl.models.mos.network import MOS

FAMILIES = ("mos-m", "mos-s", "retinaface")


def import_file(
    source: Path, family: str, preset: str | None, size: int, output: Path
) -> dict[str, Any]:
    """Read published weights, account for every key, write a checkpoint.

    Args:
        source: file with a state dict.
        family: one of :data:`FAMILIES`.
        preset: for families whose files do not say how they were trained.
        size: side of the square input in pixels.
        output: checkpoint to write.

    Raises:
        UsageError: unknown family, or a preset is needed or does not exist.
        InputRefused: the file is unsafe, corrupt or of another layout.
    """
    if family not in FAMILIES:
        raise UsageError(f"unknown family '{family}'", hint=f"known: {', '.join(FAMILIES)}")
    if family == "retinaface" and preset not in RETINAFACE_PRESETS:
        raise UsageError(
            "RetinaFace files do not say their colour order, activation and anchors, and a wrong "
            "choice loads but halves the accuracy",
            where="--preset",
            hint=f"one of {', '.join(RETINAFACE_PRESETS)}; then check it with 'edgemtl eval'",
        )
    if family != "retinaface" and preset is not None:
        raise UsageError(f"family '{family}' has no presets", where="--preset")
    payload = checkpoint.load_tensors(source)
    try:
        network = (
            import_retinaface(payload, str(preset), (size, size))
            if family == "retinaface"
            else _resized(import_published_mos(payload, family), size)
        )
    except InputRefused as error:
        error.where = error.where or str(source)
        raise
    meta = {"imported_from": source.name, "family": family, "preset": preset or ""}
    checkpoint.save(checkpoint.from_network(network, meta), output)
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "tasks": [task.name for task in network.tasks],
    }


def _resized(network: MOS, size: int) -> MOS:
    """The same weights for another input size: the network is fully convolutional."""
    other = MOS(**{**network.arguments, "size": [size, size]})
    other.load_state_dict(network.state_dict())
    return other.eval()
