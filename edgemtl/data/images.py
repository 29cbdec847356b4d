"""Decoding image files, which are untrusted: sizes are looked at before anything is decoded.

What comes out is defined for every kind of file: colours as 8-bit BGR, 16 bits scaled down,
transparency dropped, CMYK converted, and the turn that a camera notes (EXIF) applied. Labels speak
of the turned image.
"""

from __future__ import annotations

import io
import stat
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

#: images beyond this side are refused
LARGEST_SIDE = 16384
#: and beyond this many pixels: 400 MB decoded, twice that while it is converted
MOST_PIXELS = 1 << 27
#: no file of an image that may be decoded is larger
MOST_BYTES = 1 << 30


class ImageRefused(ValueError):
    """Why a file is not decoded, as the end of a sentence ("is a FIFO")."""


def image_bytes(path: Path) -> NDArray[np.uint8]:
    """The bytes of an image file whose announced size is in range.

    Raises:
        ImageRefused: missing, no regular file, of a kind that is not read, or too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageRefused("is not a regular file")
        if not 0 < status.st_size <= MOST_BYTES:
            raise ImageRefused("is empty" if status.st_size == 0 else "is larger than 1 GiB")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ImageRefused("is missing") from error
    except (OSError, ValueError) as error:
        raise (
            error if isinstance(error, ImageRefused) else ImageRefused("cannot be read")
        ) from error
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as header:  # decodes nothing
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = header.size
    except Image.DecompressionBombError as error:
        raise ImageRefused(f"has more than {MOST_PIXELS >> 20} million pixels") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, OverflowError) as error:
        raise ImageRefused("does not decode") from error
    if width * height > MOST_PIXELS or max(width, height) > LARGEST_SIDE:
        raise ImageRefused(
            f"is {width}x{height}; sides up to {LARGEST_SIDE} and {MOST_PIXELS >> 20} million "
            "pixels are read"
        )
    return np.frombuffer(data, np.uint8)


def decode_image(path: Path, flags: int) -> NDArray[Any]:
    """Decode an image file.

    Args:
        path: of the file.
        flags: of ``cv2.imdecode``.

    Returns:
        (h, w) or (h, w, channels), as ``flags`` say.

    Raises:
        ImageRefused: it is no image that can be decoded, or too large to try.
    """
    data = image_bytes(path)
    try:
        image = cv2.imdecode(data, flags)
    except cv2.error as error:
        raise ImageRefused("does not decode") from error
    if image is None:
        raise ImageRefused("does not decode")
    return np.asarray(image)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image to (h, w, 3) uint8 BGR, turned as its camera noted.

    Raises:
        ImageRefused: it is no image that can be decoded, or too large to try.
    """
    return np.asarray(decode_image(path, cv2.IMREAD_COLOR), np.uint8)


__all__ = ["ImageRefused", "decode_image", "image_bytes", "read_image"]
