"""Which rows of a detector's head answer for which labelled object, in training."""

from __future__ import annotations

import torch
from torch import Tensor

from edgemtl.tasks.object_head import ObjectHead

#: an anchor answers for an object that it overlaps so much
POSITIVE_IOU = 0.5
#: a cell answers for an object whose centre is so near, in strides (FCOS with centre sampling)
CENTRE_RADIUS = 1.5
#: cells of a stride answer for objects about so many strides large
OBJECT_STRIDES = 4.0
#: weights of class, distance and overlap when queries are matched (DETR, section 3.1)
CLASS_COST, DISTANCE_COST, OVERLAP_COST = 1.0, 5.0, 2.0


def assign(
    head: ObjectHead,
    boxes: Tensor,
    probabilities: Tensor,
    wanted: Tensor,
    classes: Tensor,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Rows that answer for an object, and which.

    Anchors by overlap, and the best anchor of every object; cells near an object's centre, in the
    stride that suits its size, the smaller object first; queries one to one, at least cost.

    Args:
        head: whose rows.
        boxes: (N, 4) found boxes of one picture, in canvas pixels.
        probabilities: (N, C) found.
        wanted: (m, 4) labelled boxes, at least one.
        classes: (m,) their classes.
        size: height and width of the canvas.

    Returns:
        (p,) rows and (p,) objects.
    """
    if head.kind == "queries":
        return _matched(boxes, probabilities, wanted, classes, size)
    places = head.places(size)
    centre, extent, stride = places[:, :2], places[:, 2:4], places[:, 4]
    if head.kind == "anchors":
        anchors = torch.cat([centre - extent / 2, centre + extent / 2], dim=1)
        overlap = pair_iou(anchors, wanted)
        best, which = overlap.max(dim=1)
        answers = best >= POSITIVE_IOU
        own = overlap.argmax(dim=0)
        answers[own] = True
        which[own] = torch.arange(len(wanted))
        rows = answers.nonzero()[:, 0]
        return rows, which[rows]
    extent = (wanted[:, 2:] - wanted[:, :2]).clamp(min=1e-3)
    area = extent.prod(dim=1)
    strides = torch.tensor(head.strides, dtype=torch.float32)
    suits = (area.sqrt()[:, None] / (OBJECT_STRIDES * strides)).log().abs().argmin(dim=1)
    apart = (centre[:, None] - (wanted[None, :, :2] + wanted[None, :, 2:]) / 2).abs()
    inside = (centre[:, None] > wanted[None, :, :2]) & (centre[:, None] < wanted[None, :, 2:])
    own_stride = stride[:, None] == strides[suits][None]
    near = (apart < CENTRE_RADIUS * stride[:, None, None]).all(dim=2)
    answers = near & inside.all(dim=2) & own_stride
    # an object smaller than a cell may hold no centre: the nearest cell of its stride answers
    distance = torch.where(own_stride, apart.sum(dim=2), torch.inf)
    alone = ~answers.any(dim=0)
    answers[distance.argmin(dim=0)[alone], alone.nonzero()[:, 0]] = True
    rows = answers.any(dim=1).nonzero()[:, 0]
    which = torch.where(answers, area[None], torch.inf).argmin(dim=1)
    return rows, which[rows]


def _matched(
    boxes: Tensor, probabilities: Tensor, wanted: Tensor, classes: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    from scipy.optimize import linear_sum_assignment

    canvas = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
    with torch.no_grad():
        distance = torch.cdist(boxes / canvas, wanted / canvas, p=1)
        cost = (
            DISTANCE_COST * distance
            - CLASS_COST * probabilities[:, classes]
            - OVERLAP_COST * pair_giou(boxes, wanted)
        )
        rows, which = linear_sum_assignment(cost.nan_to_num(1e6, 1e6, -1e6).numpy())
    return torch.from_numpy(rows), torch.from_numpy(which)


def pair_iou(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) intersection over union of boxes x1 y1 x2 y2."""
    both, union = _shared(a[:, None], b[None])
    return both / union


def pair_giou(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) generalised intersection over union, in -1..1."""
    return giou(a[:, None], b[None])


def giou(a: Tensor, b: Tensor) -> Tensor:
    """(...) generalised intersection over union of boxes (..., 4), differentiable.

    Overlap less the share of the box around both that neither covers (Rezatofighi et al. 2019).
    """
    both, union = _shared(a, b)
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    around = (high - low).clamp(min=0).prod(dim=-1).clamp(min=1e-6)
    return both / union - (around - union) / around


def _shared(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    both = (high - low).clamp(min=0).prod(dim=-1)
    own, other = ((one[..., 2:] - one[..., :2]).clamp(min=0).prod(dim=-1) for one in (a, b))
    return both, (own + other - both).clamp(min=1e-6)
