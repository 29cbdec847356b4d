"""Edges: boundaries as a probability per pixel; F-measure at the best threshold (odsF)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.preprocess import View
from edgemtl.data.samples import Sample
from edgemtl.tasks.base import (
    Arrays,
    Metric,
    MetricResult,
    MetricSpec,
    Task,
    TaskSpec,
    require_shape,
)
from edgemtl.tasks.dense_maps import balanced_cross_entropy, mirrored_map, probabilities, stack_maps
from edgemtl.tasks.registry import register_task
from edgemtl.tasks.thinning import thinned

#: weight of edge pixels in the loss, others have the rest (M3ViT, section 5)
POSITIVE_WEIGHT = 0.95
#: a pixel counts as edge from one of these probabilities on
THRESHOLDS = np.linspace(0.05, 0.95, 19)
#: an answered edge may lie this far off, as a share of the picture's diagonal
TOLERANCE = 0.0075


@register_task
class Edges(Task):
    """A probability for every pixel to lie on a boundary.

    Output: ``<name>.logits`` (1, h, w), of the canvas's resolution or a coarser one.
    Labels are (h, w) integers: 1 edge (thin lines), 0 none, -1 not labelled.

    Args:
        name: task name.
    """

    kind = "edges"
    label_kind = "edges"
    label_is_map = True
    primary = MetricSpec("ods_f", "odsF", "higher")

    @property
    def outputs(self) -> tuple[str, ...]:
        return (f"{self.name}.logits",)

    def spec(self) -> TaskSpec:
        return TaskSpec(self.name, self.kind)

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Tensor:
        """(B, H, W) int64 of (H, W) integer labels; -1 where a picture has none."""
        return torch.from_numpy(stack_maps(labels, canvas_size, np.int64(-1)))

    def mirror(self, label: NDArray[Any], width: int) -> NDArray[Any]:
        return mirrored_map(label)

    def check_outputs(
        self, shapes: Mapping[str, tuple[int, ...]], canvas_size: tuple[int, int]
    ) -> None:
        require_shape(self, self.outputs[0], shapes[self.outputs[0]], ("B", 1, "h", "w"))

    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """``bce``: cross-entropy with a weight of 0.95 on edges and 0.05 on the rest."""
        logits = outputs[self.outputs[0]].float()
        return {"bce": balanced_cross_entropy(logits, targets, logits.new_tensor(POSITIVE_WEIGHT))}

    def decode(
        self, outputs: Arrays, view: View, decoded: Mapping[str, Any]
    ) -> NDArray[np.float32]:
        """(h, w) float32 probabilities on the picture's pixels."""
        return probabilities(outputs[self.outputs[0]][0], view)

    def new_metric(self) -> Metric:
        return BoundaryF(self.name)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Edges in yellow over the darkened picture."""
        share = np.clip(np.nan_to_num(decoded[self.name]), 0, 1)[..., None]
        colour = np.array([0, 255, 255], np.float32)
        return np.asarray(image * 0.5 * (1 - share) + colour * share, np.uint8)

    def describe(self, decoded: Mapping[str, Any]) -> dict[str, float]:
        """Share of the picture's pixels on thinned edges of probability one half or more."""
        return {"edge_share": float(thinned(decoded[self.name] >= 0.5).mean())}


def matched(answer: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance: float) -> int:
    """How many pixels of two masks can be paired one to one, none farther apart than this.

    Args:
        answer, truth: (h, w).
        tolerance: in pixels.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching
    from scipy.spatial import cKDTree

    ours, theirs = np.argwhere(answer), np.argwhere(truth)
    if len(ours) == 0 or len(theirs) == 0:
        return 0
    near = cKDTree(ours).sparse_distance_matrix(
        cKDTree(theirs), tolerance, output_type="coo_matrix"
    )
    pairs = csr_matrix(
        (np.ones(near.nnz, np.int8), (near.row, near.col)), shape=(len(ours), len(theirs))
    )
    return int((maximum_bipartite_matching(pairs, perm_type="column") >= 0).sum())


class BoundaryF(Metric):
    """F-measure of boundaries at the best of 19 thresholds, the same for all pictures (odsF).

    As in the Berkeley benchmark answers are cut off at a threshold, thinned, and paired one to one
    with labelled edge pixels at most 0.0075 of the diagonal away; pairs, answers and labels are
    summed over pictures. Different from it: pairs are chosen to be as many as possible (there:
    cheapest assignment with outliers), thresholds are 19 instead of 99, thinning is Zhang-Suen's,
    and there is one labelling per picture. So values are close to published ones, not equal.
    """

    found = ("_found", "_labelled", "_images", "_broken")

    def __init__(self, task: str) -> None:
        self._task = task
        #: columns: pairs, answered pixels
        self._found = np.zeros((len(THRESHOLDS), 2), np.int64)
        self._labelled = 0
        self._images = 0
        self._broken = 0

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        label = sample.labels.get("edges")
        if label is None or not (label >= 0).any():
            return
        answer = np.where(label >= 0, decoded[self._task], 0)
        self._broken += int((~np.isfinite(answer)).sum())
        truth = label == 1
        self._images += 1
        self._labelled += int(truth.sum())
        tolerance = TOLERANCE * float(np.hypot(*label.shape))
        for index, threshold in enumerate(THRESHOLDS):
            thin = thinned(answer >= threshold)
            self._found[index] += (matched(thin, truth, tolerance), int(thin.sum()))

    def result(self) -> MetricResult:
        if self._labelled == 0:
            return MetricResult({"ods_f": None}, self._images, "no labelled edge")
        if self._broken:
            note = f"the network answered NaN or infinity at {self._broken} labelled pixels"
            return MetricResult({"ods_f": None}, self._images, note)
        # 2 P R / (P + R) with P = pairs / answered and R = pairs / labelled
        f = 2 * self._found[:, 0] / (self._found[:, 1] + self._labelled)
        return MetricResult({"ods_f": float(f.max())}, self._images)
