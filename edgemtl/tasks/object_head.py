"""What the numbers of an object detector's head mean, as data: places, box code, scores.

Sources: anchors and their offsets from SSD (section 2.2) and Faster R-CNN; distances to the four
sides from FCOS (section 3.2); a distribution over bins from Generalized Focal Loss (section 3.2);
centre and size in a cell from YOLOX (section 2); queries from DETR (section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

#: box code -> numbers per box (times bins), and whether it speaks of anchors, cells or queries
CODES = {
    "offsets": (4, "anchors"),
    "sides": (4, "cells"),
    "bins": (4, "cells"),
    "cell": (4, "cells"),
    "shares": (4, "queries"),
}
ACTIVATIONS = ("sigmoid", "softmax", "none")
BACKGROUNDS = ("none", "first", "last")


@dataclass(frozen=True)
class ObjectHead:
    """A head as plain data.

    The rows of the outputs are the places of the first stride, then of the next one: row by row of
    the picture, in each cell anchor by anchor. Cells of stride s have their centres at s / 2,
    3 s / 2, ...; there are ``ceil(side / s)`` of them on each side of the canvas.

    Attributes:
        code: what the numbers of a box are.
            ``offsets``: from an anchor: centre by ``variances[0]`` times its size, logarithm of the
            size by ``variances[1]``. ``sides``: distances from the cell's centre to left, top,
            right, bottom, in strides. ``bins``: the same, each as logits over ``bins`` distances
            0, 1, 2, ..., of which the mean is taken. ``cell``: centre from the cell's corner, in
            strides, and logarithm of width and height in strides. ``shares``: centre, width and
            height as shares of the canvas, of ``queries`` boxes at no place of their own.
        strides: pixels of the canvas per cell.
        anchors: per stride, width and height in pixels of each anchor.
        variances: of ``offsets``.
        bins: of ``bins``.
        queries: of ``shares``.
        scores: ``sigmoid`` or ``softmax`` over the classes of logits, or ``none`` for
            probabilities.
        background: where a class for "nothing" stands among the scores; needed for ``softmax``.
        objectness: whether a logit of its own says that there is an object; its sigmoid multiplies.
        nms: overlap from which the weaker of two boxes of a class is dropped; None for none.
        least_score: boxes below are no candidates.
        most: boxes that are kept of a picture.
    """

    code: str
    strides: tuple[int, ...] = ()
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    variances: tuple[float, float] = (0.1, 0.2)
    bins: int = 16
    queries: int = 0
    scores: str = "sigmoid"
    background: str = "none"
    objectness: bool = False
    nms: float | None = 0.6
    least_score: float = 0.01
    most: int = 100

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> ObjectHead:
        """Read plain data.

        Raises:
            ValueError, TypeError: unknown keys, or a head that makes no sense.
        """
        unknown = set(data) - {field.name for field in fields(ObjectHead)}
        if unknown:
            raise ValueError(f"a head has no {', '.join(sorted(map(str, unknown)))}")
        given = dict(data)
        for name in ("strides", "variances"):
            if name in given:
                given[name] = tuple(given[name])
        if "anchors" in given:
            given["anchors"] = tuple(
                tuple((float(w), float(h)) for w, h in level) for level in given["anchors"]
            )
        head = ObjectHead(**given)
        head.check()
        return head

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: says what.
        """
        if self.code not in CODES:
            raise ValueError(f"'code' is one of {', '.join(CODES)}")
        if self.scores not in ACTIVATIONS or self.background not in BACKGROUNDS:
            raise ValueError("'scores' or 'background' is unknown")
        if self.scores == "softmax" and self.background == "none":
            raise ValueError("'softmax' needs a 'background': without it something is everywhere")
        if any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in self.strides):
            raise ValueError("'strides' are whole numbers of pixels")
        kind = CODES[self.code][1]
        if kind == "queries":
            if self.strides or self.anchors or not 0 < self.queries <= 100_000:
                raise ValueError("'shares' needs 'queries', and neither strides nor anchors")
        elif not self.strides or self.queries:
            raise ValueError(f"'{self.code}' needs 'strides' and no 'queries'")
        sizes = [side for level in self.anchors for size in level for side in size]
        if kind == "anchors":
            if len(self.anchors) != len(self.strides) or not all(self.anchors):
                raise ValueError("'offsets' needs one or more anchors for each stride")
        elif self.anchors:
            raise ValueError(f"'{self.code}' has no anchors")
        positive = [*sizes, *self.variances, self.bins - 1, self.most]
        if len(self.variances) != 2 or not all(0 < value < math.inf for value in positive):
            raise ValueError("anchors, variances, bins and 'most' are numbers above 0")
        if not 0 <= self.least_score < 1 or (self.nms is not None and not 0 < self.nms <= 1):
            raise ValueError("'least_score' and 'nms' are shares")

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what is as by default is left out."""
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "code" or value != field.default:
                found[field.name] = value
        for name in ("strides", "variances"):
            if name in found:
                found[name] = list(found[name])
        if "anchors" in found:
            found["anchors"] = [[list(size) for size in level] for level in self.anchors]
        return found

    @property
    def kind(self) -> str:
        """What a row speaks of: ``anchors``, ``cells`` or ``queries``."""
        return CODES[self.code][1]

    @property
    def numbers(self) -> int:
        """Numbers per box."""
        return CODES[self.code][0] * (self.bins if self.code == "bins" else 1)

    def columns(self, classes: int) -> int:
        """Scores per row."""
        return classes + (self.background != "none")

    def places(self, size: tuple[int, int]) -> Tensor:
        """(N, 5) float32 of every row: centre x, y, width, height in canvas pixels, stride.

        Of cells width and height are the stride; of queries all are 0.
        """
        if self.kind == "queries":
            return torch.zeros(self.queries, 5)
        found = []
        for level, stride in enumerate(self.strides):
            rows, columns = (-(-side // stride) for side in size)
            y, x = torch.meshgrid(
                torch.arange(rows, dtype=torch.float32),
                torch.arange(columns, dtype=torch.float32),
                indexing="ij",
            )
            centre = (torch.stack([x, y], dim=-1).reshape(-1, 1, 2) + 0.5) * stride
            own = self.anchors[level] if self.anchors else ((float(stride), float(stride)),)
            extent = torch.tensor(own, dtype=torch.float32)[None].expand(len(centre), -1, -1)
            level_of = torch.full((len(centre), len(own), 1), float(stride))
            centre = centre.expand(-1, len(own), -1)
            found.append(torch.cat([centre, extent, level_of], dim=-1).reshape(-1, 5))
        return torch.cat(found)

    def boxes(self, raw: Tensor, size: tuple[int, int]) -> Tensor:
        """(..., N, numbers) -> (..., N, 4) x1 y1 x2 y2 in canvas pixels; differentiable."""
        raw = raw.float()
        places = self.places(size)
        centre, extent, stride = places[:, :2], places[:, 2:4], places[:, 4:]
        if self.code in ("sides", "bins"):
            sides = raw
            if self.code == "bins":
                shares = raw.reshape(*raw.shape[:-1], 4, self.bins).softmax(dim=-1)
                sides = shares @ torch.arange(self.bins, dtype=torch.float32)
            reach = sides * stride
            return torch.cat([centre - reach[..., :2], centre + reach[..., 2:]], dim=-1)
        # a damaged network can ask for any size; e^10 times the anchor is beyond every canvas
        if self.code == "offsets":
            middle = centre + raw[..., :2] * self.variances[0] * extent
            half = extent * (raw[..., 2:] * self.variances[1]).clamp(max=10).exp() / 2
        elif self.code == "cell":
            middle = centre + (raw[..., :2] - 0.5) * stride
            half = stride * raw[..., 2:].clamp(max=10).exp() / 2
        else:
            canvas = torch.tensor([size[1], size[0]], dtype=torch.float32)
            middle, half = raw[..., :2] * canvas, raw[..., 2:] * canvas / 2
        return torch.cat([middle - half, middle + half], dim=-1)

    def probabilities(self, scores: Tensor, objectness: Tensor | None) -> Tensor:
        """(..., N, columns) and (..., N, 1) -> (..., N, classes) in 0..1, without background."""
        scores = scores.float()
        if self.scores == "sigmoid":
            scores = scores.sigmoid()
        elif self.scores == "softmax":
            scores = scores.softmax(dim=-1)
        if self.background == "first":
            scores = scores[..., 1:]
        elif self.background == "last":
            scores = scores[..., :-1]
        return scores if objectness is None else scores * objectness.float().sigmoid()
