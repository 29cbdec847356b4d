"""PASCAL-Context's labels in MATLAB files: body parts of PASCAL-Part, edges of the label maps.

Both are read as data (MATLAB 5 containers hold numbers and names; nothing in them is executed).

- parts: ``anno.objects``, each with ``class_ind`` and ``parts``, each with ``part_name`` and a mask
  over the whole picture. Persons' parts are joined to the six that multi-task research uses.
- edges: ``LabelMap``, a class per pixel; where two neighbours differ there is an edge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.data.derive import boundaries

#: a picture's masks take well under a megabyte
LARGEST_FILE_BYTES = 64_000_000
#: number of the class "person" among PASCAL's twenty
PERSON = 15
#: names of the classes of parts, in class order
HUMAN_PARTS = ("background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg")
_JOINED = {
    "head": "head hair lear rear lebrow rebrow leye reye mouth nose",
    "torso": "torso neck",
    "upper arm": "luarm ruarm",
    "lower arm": "llarm rlarm lhand rhand",
    "upper leg": "luleg ruleg",
    "lower leg": "llleg rlleg lfoot rfoot",
}
_CLASS_OF = {
    part: HUMAN_PARTS.index(name) for name, parts in _JOINED.items() for part in parts.split()
}


def _loaded(path: Path, key: str) -> Any:
    """The variable of this name, or None when the file is not of this kind."""
    from scipy.io import loadmat

    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            return None
        # The named variable only: what else the file holds is skipped, not built.
        found = loadmat(
            str(path),
            variable_names=[key],
            appendmat=False,
            squeeze_me=True,
            struct_as_record=False,
        )
    except Exception:  # the parser meets broken bytes with exceptions of many kinds
        return None
    return found.get(key)


def _structs(value: Any) -> list[Any]:
    """A MATLAB struct array as a list: one struct alone comes without the array."""
    return [item for item in np.atleast_1d(np.asarray(value, object)) if hasattr(item, "__dict__")]


def read_human_parts(path: Path) -> NDArray[np.int64] | None:
    """(h, w) int64 of :data:`HUMAN_PARTS`, all background where no person is; None for other files.

    Parts that are smaller are drawn over those they lie on (an eye over the head): both are of the
    same class, so the order only matters where persons overlap, and there the later one counts.
    """
    found = _loaded(path, "anno")
    if not hasattr(found, "objects"):
        return None
    labels: NDArray[np.int64] | None = None
    for thing in _structs(found.objects):
        mask = np.asarray(getattr(thing, "mask", np.zeros(0)))
        if mask.ndim != 2:
            return None
        if labels is None:
            labels = np.zeros(mask.shape, np.int64)
        if int(getattr(thing, "class_ind", 0)) != PERSON:
            continue
        for part in _structs(getattr(thing, "parts", [])):
            drawn = np.asarray(part.mask)
            kind = _CLASS_OF.get(str(part.part_name))
            if drawn.shape != labels.shape:
                return None
            if kind is not None:
                labels[drawn > 0] = kind
    return labels


def read_label_map_edges(path: Path) -> NDArray[np.int64] | None:
    """(h, w) int64: 1 where the right or lower neighbour is of another class; None otherwise."""
    classes = _loaded(path, "LabelMap")
    if not isinstance(classes, np.ndarray) or classes.ndim != 2 or classes.dtype.kind not in "uif":
        return None
    return boundaries(classes.astype(np.int64))
