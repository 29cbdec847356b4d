"""The training mixture of the MOS networks: crowds, single faces on large canvases, renderings.

Four sources, each with its own weakness: crowd pictures have many small, masked faces but no
landmark or pose labels; single-face crops have all labels but always one large face that fills the
picture, and a pose that another network guessed; rendered scenes have exact labels but are not
photographs, and rendered close-ups have every pose evenly, which photographs do not. The mixture
makes up for each by placing single faces and close-ups on canvases at many scales, turned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgemtl.data.augment import (
    degrade,
    faces_of,
    jitter_colours,
    merge_faces,
    mirror,
    mosaic,
    place,
    rotate,
    square_crop,
)
from edgemtl.data.samples import Faces, Sample


@dataclass
class FaceMixture:
    """Draws training pictures of a fixed square size.

    Attributes:
        crowds: pictures with several faces.
        singles: pictures with one large face.
        rendered: synthetic pictures.
        backgrounds: pictures without any face.
        side: output side in pixels.
        shares: how often each source is drawn (crowds, singles, rendered, backgrounds).
        closeups: synthetic pictures of one large head at any pose; they are treated as singles are.
        closeup_share: how many of the singles that are drawn are close-ups.
        tilt: standard deviation in degrees of the turn that half of the singles get.
        single_faces: smallest and largest side in pixels that a single face is brought to, drawn
            evenly on a logarithmic scale. A large face has few priors, all on the coarsest level,
            so a mixture even in this scale still trains that level least.
    """

    crowds: Sequence[Sample]
    singles: Sequence[Sample]
    rendered: Sequence[Sample]
    backgrounds: Sequence[NDArray[np.uint8]]
    side: int
    shares: tuple[float, float, float, float] = (0.42, 0.42, 0.12, 0.04)
    single_faces: tuple[float, float] = (18.0, 180.0)
    closeups: Sequence[Sample] = ()
    closeup_share: float = 0.0
    tilt: float = 12.0

    def draw(self, rng: np.random.Generator, small: bool) -> Sample:
        """One picture; with ``small`` a mosaic of four (online feedback sampling)."""
        sample = mosaic([self._one(rng) for _ in range(4)]) if small else self._one(rng)
        if rng.random() < 0.5:
            sample = mirror(sample)
        image = degrade(jitter_colours(sample.image, rng), rng)
        return Sample(sample.name, image, sample.labels)

    def _one(self, rng: np.random.Generator) -> Sample:
        shares = np.array(self.shares) * [
            len(self.crowds) > 0,
            len(self.singles) > 0,
            len(self.rendered) > 0,
            len(self.backgrounds) > 0,
        ]
        source = int(rng.choice(4, p=shares / shares.sum()))
        if source == 0:
            return self._crowd(rng)
        if source == 1:
            return self._single(rng)
        if source == 2:
            return square_crop(_pick(self.rendered, rng), self.side, rng, (0.5, 1.3))
        return Sample("background", self._background(rng), {"faces": Faces.empty()})

    def _crowd(self, rng: np.random.Generator) -> Sample:
        sample = _pick(self.crowds, rng)
        # Relative to the whole letterboxed picture of an evaluation: half to one and a half times.
        longer = max(sample.image.shape[:2]) / min(sample.image.shape[:2])
        return square_crop(sample, self.side, rng, (0.35, longer * 1.15))

    def _single(self, rng: np.random.Generator) -> Sample:
        close = bool(self.closeups) and rng.random() < self.closeup_share
        sample = _pick(self.closeups if close else self.singles, rng)
        if rng.random() < 0.5:
            sample = rotate(sample, float(rng.normal(0, self.tilt)))
        box = faces_of(sample).boxes[0]
        face = float(np.sqrt(np.prod(box[2:] - box[:2])))
        wanted = float(np.exp(rng.uniform(*np.log(self.single_faces))))
        scale = wanted / face
        centre = (box[:2] + box[2:]) / 2 * scale
        reach = min(wanted * 0.7, self.side * 0.45)
        aim = rng.uniform(reach, self.side - reach, size=2)
        left, top = (round(float(v)) for v in aim - centre)
        canvas = self._background(rng)
        placed = place(sample, canvas, scale, left, top)
        if wanted < self.side * 0.3 and rng.random() < 0.7:
            placed = self._add_second(placed, rng)
        return placed

    def _add_second(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Paste another face where it hides none that is there already."""
        other = _pick(self.singles, rng)
        box = faces_of(other).boxes[0]
        face = float(np.sqrt(np.prod(box[2:] - box[:2])))
        scale = float(rng.uniform(18, self.side * 0.3)) / face
        height, width = other.image.shape[0] * scale, other.image.shape[1] * scale
        for _ in range(8):
            # A picture much larger than its face can be wider than the canvas: then it hangs over.
            left = round(rng.uniform(*sorted((-0.2 * width, self.side - 0.8 * width))))
            top = round(rng.uniform(*sorted((-0.2 * height, self.side - 0.8 * height))))
            boxes = faces_of(sample).boxes
            free = (
                (boxes[:, 2] < left)
                | (boxes[:, 0] > left + width)
                | (boxes[:, 3] < top)
                | (boxes[:, 1] > top + height)
            )
            if free.all():
                placed = place(other, sample.image, scale, left, top)
                faces = merge_faces([faces_of(sample), faces_of(placed)])
                return Sample(sample.name, placed.image, {"faces": faces})
        return sample

    def _background(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        kind = rng.random()
        if kind < 0.6 and self.backgrounds:
            image = self.backgrounds[int(rng.integers(len(self.backgrounds)))]
            crop = int(min(image.shape[:2]) * rng.uniform(0.3, 1.0))
            y = int(rng.integers(0, image.shape[0] - crop + 1))
            x = int(rng.integers(0, image.shape[1] - crop + 1))
            square = image[y : y + crop, x : x + crop]
            return np.asarray(cv2.resize(square, (self.side, self.side)), np.uint8)
        if kind < 0.8:
            coarse = rng.integers(0, 256, (int(rng.integers(2, 12)),) * 2 + (3,), dtype=np.uint8)
            return np.asarray(
                cv2.resize(coarse, (self.side, self.side), interpolation=cv2.INTER_CUBIC), np.uint8
            )
        plain = np.empty((self.side, self.side, 3), np.uint8)
        plain[:] = rng.integers(0, 256, 3, dtype=np.uint8) if kind < 0.9 else (104, 117, 123)
        return plain


def _pick(samples: Sequence[Sample], rng: np.random.Generator) -> Sample:
    return samples[int(rng.integers(len(samples)))]
