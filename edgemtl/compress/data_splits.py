"""The pictures that pruning works with, none of them from an evaluation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgemtl.data.concat import Concatenated
from edgemtl.data.groups import groups_of, hold_out, outside
from edgemtl.data.samples import Dataset
from edgemtl.errors import UsageError

#: share of a data set that held-out groups may take away from training for the sake of variety
MOST_TAKEN = 0.1


@dataclass(frozen=True)
class DataSplits:
    """Slices of training data without a picture in common.

    Attributes:
        oracle: held out: the search and the recovery judge by its losses and metrics. Nothing that
            is alike (a person, a stretch of a video: ``edgemtl.data.groups``) is in the others.
        calibration: for saliency and batch statistics.
        recovery: to train on; None when there is no recovery.
    """

    oracle: Dataset
    calibration: Dataset
    recovery: Dataset | None = None

    @staticmethod
    def split(
        datasets: Sequence[Dataset], oracle: int = 128, calibration: int = 56, seed: int = 0
    ) -> DataSplits:
        """Cut training data into the three slices, taking equally from each data set.

        What is left of a held-out group is in none of them.

        Args:
            datasets: training splits, never the one that accuracy is reported on.
            oracle: pictures to hold out in all.
            calibration: pictures for saliency and statistics in all.
            seed: of the choice.

        Raises:
            UsageError: a data set is too small to give its share, or has too few groups.
        """
        parts: tuple[list[Dataset], list[Dataset], list[Dataset]] = ([], [], [])
        for number, dataset in enumerate(datasets):
            shares = [count // len(datasets) for count in (oracle, calibration)]
            if len(dataset) <= sum(shares):
                raise UsageError(
                    f"'{dataset.name}' has {len(dataset)} pictures, {sum(shares) + 1} are needed",
                    hint="lower oracle_images and calibration_images",
                )
            order = np.random.default_rng([seed, number]).permutation(len(dataset)).tolist()
            groups = groups_of(dataset)
            spare = len(dataset) - int(MOST_TAKEN * len(dataset))
            held_out = hold_out(groups, order, shares[0], spare, shares[1] + 1)
            if len(held_out) < shares[0]:
                raise UsageError(
                    f"the {len(dataset)} pictures of '{dataset.name}' show {len(set(groups))} "
                    "group(s) (people, stretches of a video); a group is held out whole, which "
                    f"gives {len(held_out)} pictures to judge by, {shares[0]} are needed",
                    hint="lower oracle_images and calibration_images, or add pictures of others",
                )
            others = outside(groups, held_out, order)
            cuts = (held_out, others[: shares[1]], sorted(others[shares[1] :]))
            for part, indices in zip(parts, cuts, strict=True):
                part.append(dataset.subset(indices))
        return DataSplits(*(Concatenated(part) for part in parts))
