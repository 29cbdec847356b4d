"""Several data sets as one: tasks are often labelled in different places."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Hashable, Iterator, Sequence
from itertools import accumulate

from edgemtl.data.groups import groups_of
from edgemtl.data.samples import Dataset, Sample


class Concatenated:
    """The samples of all parts, one part after the other.

    A picture carries the labels that its own part has; a metric skips pictures without its label.

    Args:
        parts: at least one data set.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self.parts = tuple(parts)
        self.name = " + ".join(part.name for part in parts)

    @property
    def problems(self) -> list[str]:
        """What could not be used so far, of all parts."""
        return [line for part in self.parts for line in part.problems]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __iter__(self) -> Iterator[Sample]:
        for part in self.parts:
            yield from part

    def subset(self, indices: Sequence[int]) -> Concatenated:
        """The samples at these positions, in this order."""
        ends = list(accumulate(len(part) for part in self.parts))
        runs: list[tuple[int, list[int]]] = []
        for index in indices:
            which = bisect_right(ends, index)
            inside = index - (ends[which] - len(self.parts[which]))
            if not runs or runs[-1][0] != which:
                runs.append((which, []))
            runs[-1][1].append(inside)
        return Concatenated([self.parts[which].subset(inside) for which, inside in runs])

    def groups(self) -> tuple[Hashable, ...]:
        """The parts' groups; pictures of two parts are never alike."""
        return tuple(
            (which, group) for which, part in enumerate(self.parts) for group in groups_of(part)
        )

    def fingerprint(self) -> str:
        """SHA-256 over the parts' fingerprints, in order."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(part.fingerprint().encode())
        return digest.hexdigest()


def concatenate(parts: Sequence[Dataset]) -> Dataset:
    """One data set of all; a single part is handed back as it is."""
    return parts[0] if len(parts) == 1 else Concatenated(parts)


def thinned(dataset: Dataset, limit: int | None) -> Dataset:
    """At most ``limit`` samples, evenly spread over the data set; all of it for None."""
    total = len(dataset)
    if limit is None or limit >= total:
        return dataset
    return dataset.subset([position * total // limit for position in range(limit)])
