"""How large the tensors that layers read become on real pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.quantize.results import Method
from edgemtl.compress.quantize.simulate import Images, simulation
from edgemtl.compress.quantize.weights import LEVELS

if TYPE_CHECKING:
    from onnx import ModelProto

#: bins of the histogram of magnitudes
BINS = 2048
#: share of a tensor's values that "percentile" keeps in range
KEPT_SHARE = 0.9999
#: width of the steps, in bins, between the thresholds that "entropy" tries
ENTROPY_STRIDE = 16
#: probability that an empty place in a distribution counts as
FLOOR = 1e-6

Counts = NDArray[np.float64]


def magnitudes(
    model: ModelProto, tensors: Sequence[str], images: Images, method: Method
) -> dict[str, float]:
    """The largest magnitude to represent, per tensor.

    Args:
        model: the float32 graph.
        tensors: names; the graph's input may be among them.
        images: calibration pictures.
        method: see :class:`QuantizeOptions`.
    """
    inputs = {value.name for value in model.graph.input}
    inner = [name for name in tensors if name not in inputs]
    run = simulation(model, inner) if inner else lambda image: {}

    def values(image: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        return run(image) | {name: image for name in tensors if name in inputs}

    largest = dict.fromkeys(tensors, 0.0)
    for image in images:
        for name, value in values(image).items():
            largest[name] = max(largest[name], float(np.abs(value).max(initial=0)))
    if method == "minmax":
        return largest
    counts = {name: np.zeros(BINS) for name in tensors}
    for image in images:
        for name, value in values(image).items():
            if largest[name] > 0:
                counts[name] += histogram(value, largest[name])
    choose: Callable[[Counts], float] = (
        entropy_share if method == "entropy" else lambda found: kept_share(found, KEPT_SHARE)
    )
    return {name: largest[name] * choose(counts[name]) for name in tensors}


def histogram(value: NDArray[np.float32], largest: float) -> Counts:
    """(BINS,) how many magnitudes lie in each bin of 0..largest; exact zeros are left out.

    Zero is represented exactly whatever the range, and after an activation half of all values are
    zero: counted, they would let every range shrink.
    """
    sizes = np.abs(value[value != 0])
    bins = np.minimum((sizes * (BINS / largest)).astype(np.int64), BINS - 1)
    return np.bincount(bins, minlength=BINS).astype(np.float64)


def kept_share(counts: Counts, share: float) -> float:
    """The smallest part of the range that holds this share of the values."""
    total = counts.sum()
    if total == 0:
        return 1.0
    return (int(np.argmax(np.cumsum(counts) >= share * total)) + 1) / BINS


def entropy_share(counts: Counts) -> float:
    """The part of the range whose 127 steps keep the distribution best.

    For each threshold the histogram, with what lies beyond added to its last bin, is compared with
    itself after merging its bins into 127 steps (Kullback-Leibler divergence; Migacz, 8-bit
    inference with TensorRT, GTC 2017).
    """
    best, least = 1.0, np.inf
    for bins in range(BINS, LEVELS, -ENTROPY_STRIDE):
        inside = counts[:bins]
        clipped = inside.copy()
        clipped[-1] += counts[bins:].sum()
        edges = np.linspace(0, bins, LEVELS + 1).astype(np.int64)
        occupied = np.add.reduceat((inside > 0).astype(np.float64), edges[:-1])
        sums = np.add.reduceat(inside, edges[:-1])
        mean = np.divide(sums, occupied, out=np.zeros_like(sums), where=occupied > 0)
        merged = np.repeat(mean, np.diff(edges)) * (inside > 0)
        divergence = _divergence(clipped, merged)
        if divergence < least:
            best, least = bins / BINS, divergence
    return best


def _divergence(wanted: Counts, found: Counts) -> float:
    if wanted.sum() == 0 or found.sum() == 0:
        return np.inf
    p = np.maximum(wanted / wanted.sum(), FLOOR)
    q = np.maximum(found / found.sum(), FLOOR)
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())
