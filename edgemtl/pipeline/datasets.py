"""The labelled pictures of a recipe, opened in one way for every stage and verb."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemtl.data.calibration import embedded
from edgemtl.data.concat import concatenate, thinned
from edgemtl.data.open import layout_of, open_dataset
from edgemtl.data.preprocess import InputSpec, letterbox
from edgemtl.data.samples import Dataset
from edgemtl.errors import InputRefused
from edgemtl.recipes import DataSection
from edgemtl.tasks.base import Task


def labelled(
    folders: Sequence[Path],
    split: str,
    tasks: Sequence[Task],
    layout: str = "auto",
    limit: int | None = None,
) -> Dataset:
    """A split of these folders as one data set, or of the embedded synthetic set without any.

    Args:
        folders: of labelled pictures.
        split: of each.
        tasks: whose labels the embedded set has to have.
        layout: a format's name, or ``auto``.
        limit: use only so many pictures, evenly spread.

    Raises:
        InputRefused: a folder or its split is refused.
        UsageError: no embedded set fits the tasks, or an unknown layout.
    """
    if folders:
        dataset = concatenate([open_dataset(folder, split, layout) for folder in folders])
    else:
        maps = {task.label_kind for task in tasks if task.label_is_map}
        wanted = {task.label_kind for task in tasks if not task.from_reference}
        dataset = embedded(wanted, split, maps)
    return thinned(dataset, limit)


def layout_modules(folders: Sequence[Path], layout: str = "auto") -> list[str]:
    """Modules that read these folders, those of other packages among them."""
    found = [layout_of(folder, layout) for folder in folders]
    return sorted({known.module for known in found if known is not None})


def split_of(data: DataSection, split: str, tasks: Sequence[Task]) -> Dataset:
    """A split of what ``[data]`` names.

    Raises:
        InputRefused, UsageError: as :func:`labelled`.
    """
    return labelled(data.folders, split, tasks, data.format, data.limit)


def first_images(
    dataset: Dataset, spec: InputSpec, count: int, kind: str = ""
) -> NDArray[np.float32]:
    """(count, 3, H, W): the first pictures that decode, as the network sees them.

    ``kind`` says in an error what they are for ("calibration").

    Raises:
        InputRefused: none decodes.
    """
    images = [letterbox(sample.image, spec)[0] for sample in islice(dataset, count)]
    if not images:
        raise InputRefused(
            f"no {kind} picture could be read".replace("  ", " "), where=dataset.name
        )
    return np.stack(images)
