"""COCO's average precision, for boxes and key points alike.

The protocol is that of COCO's evaluation: the best 100 answers of a picture, best first, each take
the labelled object that they overlap most among those still free; ten thresholds of overlap from
0.50 to 0.95; precision interpolated at 101 recalls. What overlaps an ignored object only counts
neither way. tests/unit/tasks/test_coco_protocol.py holds it against pycocotools.

It is written here and not taken from there because every metric of ours can be measured in parts,
on several machines, to the last bit, and because classes and budgets need figures while a network
is being searched; COCO's evaluator wants all pictures at once, in files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
#: answers of a picture that count, per class
MOST_ANSWERS = 100
#: what became of an answer: it found an object, it is a false alarm, it counts neither way
HIT, MISS, IGNORED = 1, 0, -1


def outcomes(
    overlap: NDArray[np.floating], ignored: NDArray[np.bool_], crowd: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """What becomes of the answers of one picture and class.

    Args:
        overlap: (answers, objects) in 0..1, answers best first.
        ignored: (objects,) which count neither way.
        crowd: (objects,) which may be taken by several answers.

    Returns:
        (thresholds, answers) of :data:`HIT`, :data:`MISS`, :data:`IGNORED`.
    """
    order = np.argsort(ignored, kind="stable")  # an object that counts is taken first
    overlap, ignored, crowd = overlap[:, order], ignored[order], crowd[order]
    found = np.full((len(THRESHOLDS), len(overlap)), MISS, np.int8)
    for row, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(ignored), bool)
        for answer in range(len(overlap)):
            best, at = min(float(threshold), 1 - 1e-10), -1
            for index in range(len(ignored)):
                if taken[index] and not crowd[index]:
                    continue
                if at >= 0 and not ignored[at] and ignored[index]:
                    break
                if overlap[answer, index] >= best:  # NaN, of a damaged network, is no overlap
                    best, at = float(overlap[answer, index]), index
            if at >= 0:
                taken[at] = True
                found[row, answer] = IGNORED if ignored[at] else HIT
    return found


def interpolated_precision(
    scores: NDArray[np.floating], found: NDArray[np.integer], objects: int
) -> float:
    """Mean over 101 recalls of the best precision at that recall or a higher one; in 0..1.

    Args:
        scores: (n,) of all answers of the data set.
        found: (n,) what became of each at one threshold.
        objects: that count, at least 1.
    """
    order = np.argsort(-scores, kind="mergesort")
    found = found[order]
    found = found[found != IGNORED]
    if len(found) == 0:
        return 0.0
    hits = np.cumsum(found == HIT)
    recall = hits / objects
    precision = hits / (np.arange(1, len(found) + 1) + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    reached = places < len(envelope)
    return float(np.where(reached, envelope[np.minimum(places, len(envelope) - 1)], 0.0).mean())


def average_over_thresholds(
    scores: NDArray[np.floating], found: NDArray[np.integer], objects: int
) -> NDArray[np.float64]:
    """(thresholds,) :func:`interpolated_precision` at each.

    Args:
        scores: (n,).
        found: (thresholds, n).
        objects: that count, at least 1.
    """
    return np.array([interpolated_precision(scores, row, objects) for row in found])


def box_overlap(
    found: NDArray[np.float32], wanted: NDArray[np.float32], crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(n, m) intersection over union of boxes x1 y1 x2 y2; over the found box for a crowd."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    own, other = (np.prod(one[:, 2:] - one[:, :2], axis=1) for one in (a, b))
    union = np.where(crowd[None], own[:, None], own[:, None] + other[None] - both)
    return np.asarray(both / np.maximum(union, 1e-12), np.float64)


def point_similarity(
    found: NDArray[np.float32],
    wanted: NDArray[np.float32],
    area: float,
    sigmas: NDArray[np.float64],
) -> float:
    """Object key point similarity (OKS), in 0..1: how near the points are for an object's size.

    The mean over labelled points of exp(-d^2 / (2 area (2 sigma)^2)).

    Args:
        found: (K, 2).
        wanted: (K, 2), NaN where not labelled; at least one is.
        area: of the object in square pixels.
        sigmas: (K,) how far people who label put each point apart, for an object of area 1.
    """
    known = np.isfinite(wanted).all(axis=1)
    square = ((found[known].astype(np.float64) - wanted[known]) ** 2).sum(axis=1)
    spread = 2 * (2 * sigmas[known]) ** 2 * (area + np.spacing(1))
    return float(np.exp(-square / spread).mean())
