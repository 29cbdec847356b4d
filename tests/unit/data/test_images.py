"""Image files of every kind come out as defined, and none is decoded that is too large."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from edgemtl.data.images import ImageRefused, read_image

#: BGR of the left and the right half of the test image
LEFT, RIGHT = (10, 60, 200), (220, 120, 30)


def halves(height: int = 8, width: int = 16) -> Image.Image:
    """Left half one colour, right half another, as Pillow has it (RGB)."""
    drawn = np.zeros((height, width, 3), np.uint8)
    drawn[:, : width // 2] = LEFT[::-1]
    drawn[:, width // 2 :] = RIGHT[::-1]
    return Image.fromarray(drawn)


def close(pixel: object, wanted: tuple[int, int, int], tolerance: int = 8) -> bool:
    return bool(np.abs(np.asarray(pixel, int) - wanted).max() <= tolerance)


def header_of(width: int, height: int) -> bytes:
    """A PNG that announces its sides and holds no pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = b"IEND"
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            *(
                struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
                for part in (body, end)
            ),
        ]
    )


@pytest.mark.parametrize(("width", "height"), [(16385, 1), (1, 16385), (16384, 16384)])
def test_announced_sides_are_looked_at_before_decoding(
    width: int, height: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "large.png"
    place.write_bytes(header_of(width, height))

    def never(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(cv2, "imdecode", never)
    with pytest.raises(ImageRefused, match=f"{width}x{height}|million pixels"):
        read_image(place)


def test_one_pixel_is_an_image(tmp_path: Path) -> None:
    for size in ((1, 1), (1, 40), (40, 1)):
        Image.new("RGB", size, RIGHT[::-1]).save(tmp_path / "thin.png")
        image = read_image(tmp_path / "thin.png")
        assert image.shape == (size[1], size[0], 3)
        assert close(image[0, 0], RIGHT, 0)


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path) -> None:
    deep = np.asarray(halves())[..., ::-1].astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    image = read_image(tmp_path / "deep.png")
    assert image.dtype == np.uint8
    assert close(image[0, 0], LEFT, 0)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    drawn = halves()
    drawn.putalpha(3)
    drawn.save(tmp_path / "clear.png")
    image = read_image(tmp_path / "clear.png")
    assert image.shape[2] == 3
    assert close(image[0, 0], LEFT, 0)


def test_grey_has_three_equal_channels(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 77).save(tmp_path / "grey.png")
    assert (read_image(tmp_path / "grey.png") == 77).all()


def test_cmyk_becomes_colours(tmp_path: Path) -> None:
    halves(64, 128).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    image = read_image(tmp_path / "print.jpg")
    assert image.shape == (64, 128, 3)
    assert close(image[32, 16], LEFT)
    assert close(image[32, 112], RIGHT)


def test_the_turn_of_the_camera_is_applied(tmp_path: Path) -> None:
    drawn = halves(64, 128)
    exif = drawn.getexif()
    exif[0x0112] = 6  # the camera was held on its side: turn clockwise to look at it
    drawn.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    image = read_image(tmp_path / "turned.jpg")
    assert image.shape == (128, 64, 3)
    assert close(image[16, 32], LEFT)
    assert close(image[112, 32], RIGHT)


def test_what_is_no_image_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for place, why in (
        (tmp_path / "pipe.png", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "absent.png", "is missing"),
    ):
        with pytest.raises(ImageRefused, match=why):
            read_image(place)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello", "utf-8")
    halves().save(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:40])
    for name, why in (("empty", "is empty"), ("text", "does not decode"), ("cut", "not decode")):
        with pytest.raises(ImageRefused, match=why):
            read_image(tmp_path / f"{name}.png")
