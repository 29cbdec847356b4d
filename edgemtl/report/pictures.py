"""Drawn predictions, made small enough for a page."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from edgemtl.record.rundata import Picture

#: longer side in pixels of a picture on the page, and its quality as WebP
PICTURE_SIDE, PICTURE_QUALITY = 960, 86
#: no camera makes larger pictures; a file that claims to be is not decoded
MOST_PICTURE_SIDE = 16384


@dataclass(frozen=True)
class Side:
    """One picture: ``before`` or ``after``, its data URI, its size in pixels."""

    word: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Shown:
    """The sides of a pair that could be read, at least one."""

    name: str
    sides: tuple[Side, ...]


def shown_picture(picture: Picture) -> Shown | None:
    """Pack a pair; None when neither side can be shown."""
    sides = []
    for word, data in (("before", picture.before), ("after", picture.after)):
        packed = pack(data) if data is not None else None
        if packed:
            sides.append(Side(word, *packed))
    return Shown(picture.name, tuple(sides)) if sides else None


def pack(png: bytes) -> tuple[str, int, int] | None:
    """PNG -> data URI of a smaller WebP, its width and height; None when it does not decode."""
    import cv2
    import numpy as np

    # The header is looked at first: a few bytes can claim a picture that fills the memory.
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    if png[:8] != b"\x89PNG\r\n\x1a\n" or not 0 < max(width, height) <= MOST_PICTURE_SIDE:
        return None
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        return None
    scale = PICTURE_SIDE / max(width, height)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    done, packed = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, PICTURE_QUALITY])
    if not done:
        return None
    data = base64.b64encode(packed.tobytes()).decode()
    return f"data:image/webp;base64,{data}", picture.shape[1], picture.shape[0]
