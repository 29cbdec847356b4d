"""All tasks' results on one picture: marks on the picture itself, dense maps beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgemtl.tasks.base import Task

#: panels next to each other before a new row begins
PANELS_PER_ROW = 3
#: pixels between panels, and their grey level
GAP, GREY = 8, 255
#: height of the line of text above a panel, in pixels
CAPTION = 22


def draw_results(
    picture: NDArray[np.uint8], tasks: Sequence[Task], decoded: Mapping[str, Any]
) -> NDArray[np.uint8]:
    """Draw what a network saw.

    Tasks that mark things (boxes, points, axes) share one copy of the picture. A task whose result
    is a map over all pixels would hide the others and gets a panel of its own, captioned with its
    name.

    Args:
        picture: (height, width, 3) uint8, BGR; left as it is.
        tasks: tasks to draw, in order; one without a result, or without the result of a task that
            it requires, is left out.
        decoded: task name -> decoded result, of these tasks and those they require.

    Returns:
        BGR picture: of the same size when no task is dense, else a grid of panels.
    """
    size = (picture.shape[0], picture.shape[1])
    found = [task for task in tasks if all(n in decoded for n in (task.name, *task.requires))]
    dense = [task for task in found if is_dense(decoded[task.name], size)]
    marked = picture.copy()
    for task in found:
        if task not in dense:
            marked = task.draw(marked, decoded)
    if not dense:
        return marked
    marks = [task.name for task in found if task not in dense]
    panels = [_captioned(marked, ", ".join(marks) or "picture")]
    panels += [_captioned(task.draw(picture.copy(), decoded), task.name) for task in dense]
    return _grid(panels)


def is_dense(result: Any, picture_size: tuple[int, int]) -> bool:
    """Whether a decoded result has a value for every pixel of the picture."""
    return isinstance(result, np.ndarray) and result.ndim >= 2 and result.shape[:2] == picture_size


def _captioned(panel: NDArray[np.uint8], words: str) -> NDArray[np.uint8]:
    strip = np.full((CAPTION, panel.shape[1], 3), GREY, np.uint8)
    # OpenCV's letters are ASCII only; it would draw question marks byte by byte.
    ascii_words = words.encode("ascii", "replace").decode()
    cv2.putText(
        strip, ascii_words, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA
    )
    return np.vstack([strip, panel])


def _grid(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    columns = min(len(panels), PANELS_PER_ROW)
    rows = -(-len(panels) // columns)
    height, width = panels[0].shape[:2]
    grid = np.full(
        (rows * height + (rows - 1) * GAP, columns * width + (columns - 1) * GAP, 3), GREY, np.uint8
    )
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        y, x = row * (height + GAP), column * (width + GAP)
        grid[y : y + height, x : x + width] = panel
    return grid
