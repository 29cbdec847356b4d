"""One head close up, at any pose: what single photographs of faces have too little of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .background import make_background
from .head import FaceLabel, Placement, render_head
from .identity import sample_identity
from .scene import photograph
from .shade import sample_light

SIDE = 352
"""Side of the square frame, pixels."""
YAW, PITCH, ROLL = 75.0, 62.0, 45.0
"""Largest angles, degrees: drawn evenly, so that no range of them is rare."""


def render_closeup(
    rng: np.random.Generator, smallest: float = 110.0, largest: float = 300.0
) -> tuple[NDArray[np.uint8], FaceLabel]:
    """Render one head of which the face box has a mean side of ``smallest`` to ``largest`` px.

    Returns:
        The image, (352, 352, 3) uint8 BGR, and its label. Everything random comes from ``rng``.
    """
    image = make_background(rng, SIDE, SIDE)
    side = float(rng.uniform(smallest, largest))
    yaw, pitch = float(rng.uniform(-YAW, YAW)), float(rng.uniform(-PITCH, PITCH))
    # Tilted heads are rarer in photographs, and a turn of the whole image adds to them anyway.
    roll = float(np.clip(rng.normal(0, ROLL / 3), -ROLL, ROLL))
    slack = max(SIDE / 2 - 0.5 * side, 12.0)
    x, y = (float(rng.uniform(SIDE / 2 - slack, SIDE / 2 + slack)) for _ in range(2))
    body = (0.3 * pitch * float(rng.random()), 0.4 * yaw + float(rng.normal(0, 12)), 0.1 * roll)
    place = Placement(x, y, side, pitch, yaw, roll, float(rng.uniform(45, 200)), body)
    layer = render_head(sample_identity(rng), place, sample_light(rng), (SIDE, SIDE), rng)
    part = image[layer.window]
    part *= 1 - layer.alpha[..., None]
    part += layer.colour
    return photograph(rng, image), layer.label
