"""What a network sees in a picture, drawn into it: what the pictures stage and ``run`` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgemtl.data.preprocess import InputSpec, letterbox
from edgemtl.errors import StageFailed
from edgemtl.files import write_atomically
from edgemtl.measure.accuracy import Run, decode_all
from edgemtl.report.drawing import draw_results
from edgemtl.tasks.base import Task


@dataclass(frozen=True)
class Prediction:
    """One picture's answers.

    Attributes:
        outputs: output name -> raw values, without the batch.
        decoded: task name -> what they mean, in the picture's pixels.
        drawn: (H, W, 3) uint8 BGR, the picture with them.
    """

    outputs: Mapping[str, NDArray[np.float32]]
    decoded: Mapping[str, Any]
    drawn: NDArray[np.uint8]

    def write(self, path: Path) -> None:
        """As PNG.

        Raises:
            StageFailed: it cannot be encoded or written.
        """
        good, encoded = cv2.imencode(".png", self.drawn)
        if not good:
            raise StageFailed("the picture could not be encoded", where=str(path))
        write_atomically(path, lambda stream: stream.write(encoded.tobytes()))


def predict(
    image: NDArray[np.uint8], tasks: Sequence[Task], spec: InputSpec, run: Run
) -> Prediction:
    """Run a network on a picture, decode and draw.

    Args:
        image: (H, W, 3) uint8 BGR.
        tasks: whose outputs are decoded.
        spec: how the picture becomes the input.
        run: (1, 3, h, w) float32 -> output name -> (1, ...).
    """
    canvas, view = letterbox(image, spec)
    outputs = {name: value[0] for name, value in run(canvas[None]).items()}
    decoded = decode_all(tasks, outputs, view)
    return Prediction(outputs, decoded, draw_results(image, tasks, decoded))
