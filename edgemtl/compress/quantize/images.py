"""The pictures that quantisation looks at: some to calibrate on, others to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.batches import Prepared, prepare
from edgemtl.data.groups import groups_of, hold_out, outside
from edgemtl.data.preprocess import InputSpec
from edgemtl.data.samples import Dataset
from edgemtl.errors import InputRefused
from edgemtl.tasks.base import Task


class Canvases(Sequence[NDArray[np.float32]]):
    """Prepared pictures, one by one as a network is fed them: (1, 3, H, W) float32 when asked for.

    Attributes:
        prepared: the pictures with their labels.
    """

    def __init__(self, prepared: Sequence[Prepared]) -> None:
        self.prepared = prepared

    def __len__(self) -> int:
        return len(self.prepared)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[NDArray[np.float32]]: ...

    def __getitem__(
        self, index: int | slice
    ) -> NDArray[np.float32] | Sequence[NDArray[np.float32]]:
        if isinstance(index, slice):
            return Canvases(self.prepared[index])
        return self.prepared[index].canvas.astype(np.float32)[None]


def canvases(dataset: Dataset, spec: InputSpec, tasks: Sequence[Task] = ()) -> Canvases:
    """All pictures of a data set, on the network's canvas.

    Args:
        dataset: the pictures.
        spec: the canvas.
        tasks: whose labels are kept; none where only the pictures are looked at.

    Raises:
        InputRefused: none of them decodes, or a task does not know how its labels move.
    """
    prepared = [prepare(sample, tasks, spec) for sample in dataset]
    if not prepared:
        found = "; ".join(dataset.problems[:3])
        raise InputRefused(f"no picture could be read ({found})", where=dataset.name)
    return Canvases(prepared)


def split(
    dataset: Dataset, calibrate: int, judge: int, seed: int, more: int = 0
) -> tuple[Dataset, Dataset, Dataset]:
    """Choices of pictures; where there are too few, the first two get half of them each.

    What is judged by has nothing that is alike in the others (``edgemtl.data.groups``).

    Args:
        dataset: training data.
        calibrate: pictures for the first.
        judge: pictures for the second; 0 when nothing is judged.
        seed: of the choice.
        more: pictures for the third: the first's, and so many that are in neither.

    Raises:
        InputRefused: there is no picture for one of them.
    """
    order = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    if not judge:
        first, second, third = order[:calibrate], [], order[: calibrate + more]
    else:
        groups = groups_of(dataset)
        count = min(calibrate, len(order) // 2)
        # the judges come after the first in the order of choice, and choose their groups first
        turned = [*order[count:], *order[:count]]
        wanted = min(judge, len(order) - count)
        second = hold_out(groups, turned, wanted, min(count + more, len(order) - wanted), count)
        others = outside(groups, second, order)
        first, third = others[:count], others[: count + more]
    if not first or (judge and not second):
        kinds = len(set(groups_of(dataset)))
        raise InputRefused(
            f"{len(order)} picture(s) show {kinds} group(s) (people, stretches of a video): too "
            "few to calibrate on some and judge by others",
            where=dataset.name,
            hint="add pictures of others",
        )
    return dataset.subset(sorted(first)), dataset.subset(second), dataset.subset(sorted(third))
