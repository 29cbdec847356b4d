"""Outputs by which a network tells that its answers are not to be trusted for a picture.

They belong to no task: (B, 1), 0 where all is well, counted by accuracy and told by ``run``. A
network names them in ``output_names`` and declares in its module what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

#: counts, per picture, the choices of experts that found no room (lowering "static") or are not
#: there; of a layer that any family may have, and here because a bundle is measured without one
OVERFLOW = "experts.overflow"
_MEANINGS = {OVERFLOW: "chose an expert that was dropped or full"}


def declare(output: str, meaning: str) -> str:
    """Make an output known as a diagnostic.

    Args:
        output: its name; returned.
        meaning: what a picture did whose value is not 0: "chose an expert that was full".
    """
    _MEANINGS[output] = meaning
    return output


def raised(outputs: Mapping[str, NDArray[np.float32]]) -> dict[str, float]:
    """Diagnostics among these outputs that are not 0, with the sum of their values."""
    found = {name: outputs[name] for name in _MEANINGS if name in outputs}
    return {name: float(value.sum()) for name, value in found.items() if value.any()}


def meaning(output: str | None = None) -> str:
    """What a picture did for which a diagnostic is not 0: this one, or any."""
    return " or ".join(_MEANINGS.values()) if output is None else _MEANINGS[output]
