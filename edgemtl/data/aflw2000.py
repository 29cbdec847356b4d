"""Reader of AFLW2000-3D: one face per picture with 68 points and head pose.

A folder of ``NAME.jpg`` with ``NAME.mat`` beside each, which holds ``Pose_Para`` (pitch, yaw, roll
in radians, then more) and ``pt3d_68`` (3 x 68: x, y in pixels and a depth).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemtl.data.faces import FARTHEST_PX, FaceFolder, LabelledImage
from edgemtl.data.samples import Faces
from edgemtl.errors import InputRefused

#: faces turned further are left out, as everyone who reports on this set does (MOS, section 6)
LARGEST_ANGLE_DEG = 99.0
#: the published files have some 10 to 100 kB; a label file of this size is something else
LARGEST_FILE_BYTES = 4 << 20
IMAGE_SUFFIX = ".jpg"

#: which of the 68 points make up each of the five, in the order of ``Faces.landmarks``: mean of
#: the six around each eye, tip of the nose, mouth corners
_FIVE = (tuple(range(36, 42)), tuple(range(42, 48)), (30,), (48,), (54,))


def looks_like_aflw2000(root: Path) -> bool:
    """Whether at least one picture has its .mat file beside it."""
    if not root.is_dir():
        return False
    return any(path.with_suffix(".mat").is_file() for path in root.glob(f"*{IMAGE_SUFFIX}"))


def open_aflw2000(root: Path) -> FaceFolder:
    """Open the folder, sorted by name.

    The box is the extent of the 68 points (eyebrows to chin). Pictures with an angle beyond 99
    degrees, without a label file, or with one that cannot be read are left out and named in
    ``problems``.

    Raises:
        InputRefused: the folder is not there or holds no usable picture.
    """
    images = sorted(root.glob(f"*{IMAGE_SUFFIX}")) if root.is_dir() else []
    entries: list[LabelledImage] = []
    problems: list[str] = []
    for path in images:
        label = path.with_suffix(".mat")
        try:
            entries.append(LabelledImage(path.name, path, read_label(label)))
        except InputRefused as error:
            problems.append(f"{label.name}: {error.message}")
    if not entries:
        found = f"; {problems[0]}" if problems else ""
        raise InputRefused(
            f"there is no labelled picture{found}",
            where=str(root),
            hint="expected NAME.jpg with NAME.mat beside it, as AFLW2000-3D is published",
        )
    return FaceFolder(root.name, entries, problems)


def read_label(path: Path) -> Faces:
    """The one face of a label file.

    Raises:
        InputRefused: the file is missing, not a MATLAB file, lacks a field, or its face is turned
            further than 99 degrees.
    """
    fields = _load(path)
    pose, points = fields.get("Pose_Para"), fields.get("pt3d_68")
    if pose is None or pose.size < 3:
        raise InputRefused("no Pose_Para with three angles", where=str(path))
    if points is None or points.ndim != 2 or points.shape[0] < 2 or points.shape[1] != 68:
        raise InputRefused("no pt3d_68 of 68 points", where=str(path))
    pitch, yaw, roll = np.rad2deg(pose.reshape(-1)[:3])
    angles = np.array([[yaw, pitch, roll]])
    if not (np.abs(angles) <= LARGEST_ANGLE_DEG).all():
        raise InputRefused(
            f"yaw {yaw:.0f}, pitch {pitch:.0f}, roll {roll:.0f} degrees are beyond "
            f"{LARGEST_ANGLE_DEG:.0f}, left out",
            where=str(path),
        )
    flat = points[:2].T
    if not (np.abs(flat) < FARTHEST_PX).all():
        raise InputRefused("points far outside any picture", where=str(path))
    box = np.concatenate([flat.min(axis=0), flat.max(axis=0)])
    if not (box[2:] > box[:2]).all():
        raise InputRefused("points without extent", where=str(path))
    five = np.stack([flat[list(group)].mean(axis=0) for group in _FIVE])
    return Faces(
        box[None].astype(np.float32), five[None].astype(np.float32), angles.astype(np.float32)
    )


def _load(path: Path) -> dict[str, NDArray[np.float64]]:
    from scipy.io import loadmat

    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise InputRefused("too large for a label file", where=str(path))
        # Named variables only: what else the file holds is skipped, not built.
        found = loadmat(str(path), variable_names=["Pose_Para", "pt3d_68"], appendmat=False)
    except FileNotFoundError:
        raise InputRefused("there is no such label file", where=str(path)) from None
    except InputRefused:
        raise
    except Exception as error:  # the parser meets broken bytes with exceptions of many kinds
        raise InputRefused(f"not a readable MATLAB file: {error}", where=str(path)) from error
    numeric = {}
    for name in ("Pose_Para", "pt3d_68"):
        value = found.get(name)
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            numeric[name] = value.astype(np.float64)
    return numeric
