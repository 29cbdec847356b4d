"""The pictures that pruning works with, none of them from an evaluation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgemtl.data.concat import Concatenated
from edgemtl.data.samples import Dataset
from edgemtl.errors import UsageError


@dataclass(frozen=True)
class DataSplits:
    """Disjoint slices of training data.

    Attributes:
        oracle: held out: the search and the recovery judge by its losses and metrics.
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

        Args:
            datasets: training splits, never the one that accuracy is reported on.
            oracle: pictures to hold out in all.
            calibration: pictures for saliency and statistics in all.
            seed: of the choice.

        Raises:
            UsageError: a data set is too small to give its share.
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
            ends = [shares[0], sum(shares)]
            cuts = (order[: ends[0]], order[ends[0] : ends[1]], sorted(order[ends[1] :]))
            for part, indices in zip(parts, cuts, strict=True):
                part.append(dataset.subset(indices))
        return DataSplits(*(Concatenated(part) for part in parts))
