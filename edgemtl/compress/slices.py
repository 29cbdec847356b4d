"""The pictures that pruning works with, none of them from an evaluation split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgemtl.data.samples import Dataset, Sample
from edgemtl.errors import UsageError


class Joined:
    """Several data sets as one, in order; training draws from each equally often.

    Attributes:
        parts: the data sets.
        problems: of all parts, as of the last iteration.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = tuple(parts)
        self.name = " + ".join(part.name for part in parts)
        self.problems: list[str] = []

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __iter__(self) -> Iterator[Sample]:
        for part in self.parts:
            yield from part
        self.problems = [problem for part in self.parts for problem in part.problems]

    def subset(self, indices: Sequence[int]) -> Joined:
        """The samples at these positions, in this order."""
        ends = np.cumsum([len(part) for part in self.parts])
        runs: list[tuple[int, list[int]]] = []
        for index in indices:
            which = int(np.searchsorted(ends, index, side="right"))
            local = int(index - (ends[which] - len(self.parts[which])))
            if not runs or runs[-1][0] != which:
                runs.append((which, []))
            runs[-1][1].append(local)
        return Joined([self.parts[which].subset(local) for which, local in runs])

    def fingerprint(self) -> str:
        """SHA-256 over the parts' fingerprints."""
        text = "\n".join(part.fingerprint() for part in self.parts)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class PruneData:
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
    ) -> PruneData:
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
        return PruneData(Joined(parts[0]), Joined(parts[1]), Joined(parts[2]))
