"""An output without meaning, held against what the uncompressed network answers.

An embedding, features for a program of your own, a map that nobody labels: compression may change
it only a little. Its label is the uncompressed network's own answer, so nobody has to label it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.preprocess import Part, View
from edgemtl.data.samples import Sample
from edgemtl.sinks import check_name
from edgemtl.tasks.base import Arrays, Metric, MetricResult, MetricSpec, Task, TaskSpec
from edgemtl.tasks.drawing import caption
from edgemtl.tasks.registry import register_task

#: signal over noise beyond which float32 tells no difference: 24 bits are 144 dB
MOST_DB = 150.0
#: an answer that nobody knows: the picture was changed after the network had answered
UNKNOWN = float("nan")


@register_task
class Raw(Task):
    """Numbers that mean nothing to EdgeMTL.

    Output: any shape with a batch axis in front.

    Args:
        name: task name.
        output: the network's name of it; by default ``<name>.values``.
    """

    kind = "raw"
    primary = MetricSpec("fidelity", "fidelity", "higher")
    secondary = (
        MetricSpec("snr_db", "SNR", "higher", "dB"),
        MetricSpec("cosine", "cosine", "higher"),
        MetricSpec("largest_error", "largest error", "lower"),
    )
    from_reference = True

    def __init__(self, name: str, output: str | None = None) -> None:
        super().__init__(name)
        self._output = f"{name}.values" if output is None else check_name(output, "an output")
        self.label_kind = f"{name}: the uncompressed network's answer"

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self._output,)

    def spec(self) -> TaskSpec:
        return TaskSpec(self.name, self.kind, {"output": self._output})

    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Tensor | None:
        """(B, ...) float32, NaN for a picture whose answer is not known; None where none is."""
        known = [label for label in labels if isinstance(label, np.ndarray)]
        if not known:
            return None
        unknown = np.full_like(known[0], np.nan)
        rows = [label if isinstance(label, np.ndarray) else unknown for label in labels]
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    def to_canvas(self, label: Any, view: View) -> Any:
        return label

    def mirror(self, label: Any, width: int) -> Any:
        return UNKNOWN

    def crop(self, label: Any, part: Part) -> Any:
        return UNKNOWN

    def loss_terms(
        self, outputs: Mapping[str, Tensor], targets: Tensor | None
    ) -> dict[str, Tensor]:
        """``noise``: power of the difference over the power of the known answers."""
        found = outputs[self._output].float()
        if targets is None:
            return {"noise": found.sum() * 0.0}
        known = targets.flatten(1).isfinite().all(dim=1)
        if not bool(known.any()):
            return {"noise": found.sum() * 0.0}
        wanted = targets[known]
        power = wanted.square().sum().clamp(min=1e-12)
        return {"noise": (found[known] - wanted).square().sum() / power}

    def decode(
        self, outputs: Arrays, view: View, decoded: Mapping[str, Any]
    ) -> NDArray[np.float32]:
        """The numbers as they are."""
        return np.asarray(outputs[self._output], np.float32)

    def new_metric(self) -> Metric:
        return Fidelity(self.name, self.label_kind)

    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Its shape, in the corner: there is nothing else to see."""
        shape = "x".join(map(str, decoded[self.name].shape)) or "one number"
        return caption(image, decoded, self.name, f"{self.name}: {shape}")

    def describe(self, decoded: Mapping[str, Any]) -> dict[str, Any]:
        """Shape, mean and standard deviation; the last two None where a number is not finite."""
        found = decoded[self.name].astype(np.float64)
        real = found.size > 0 and bool(np.isfinite(found).all())
        return {
            "shape": list(found.shape),
            "mean": float(found.mean()) if real else None,
            "standard_deviation": float(found.std()) if real else None,
        }


class Fidelity(Metric):
    """How much of the uncompressed network's answer is left, over all pictures.

    Noise is the difference, signal the uncompressed answer; the power of each is summed over all
    numbers of all pictures.

    - ``fidelity``: 1 - noise / signal, 1 for the same answer. It is the SNR as a share: 0.9 is
      10 dB, 0.99 is 20 dB.
    - ``snr_db``: 10 log10(signal / noise), at most 150, which is also said of the same answer:
      float32 tells no more.
    - ``cosine``: cosine of the angle between the two answers of a picture, mean over pictures.
    - ``largest_error``: largest absolute difference of a number, in the output's own measure.
    """

    found = ("_noise", "_signal", "_cosine", "_largest")

    def __init__(self, task: str, label_kind: str) -> None:
        self._task, self._label_kind = task, label_kind
        self._noise: list[float] = []
        self._signal: list[float] = []
        self._cosine: list[float] = []
        self._largest: list[float] = []

    def update(self, decoded: Mapping[str, Any], sample: Sample) -> None:
        label = sample.labels.get(self._label_kind)
        if not isinstance(label, np.ndarray):
            return
        wanted = label.astype(np.float64).ravel()
        found = np.asarray(decoded[self._task], np.float64).ravel()
        noise, signal = float(((found - wanted) ** 2).sum()), float((wanted**2).sum())
        both = math.sqrt(float((found**2).sum()) * signal)
        # Two answers of length zero are the same; one of them has no direction to compare.
        cosine = float(found @ wanted) / both if both else float(noise == 0)
        self._noise.append(noise)
        self._signal.append(signal)
        self._cosine.append(cosine)
        self._largest.append(float(np.abs(found - wanted).max(initial=0.0)))

    def result(self) -> MetricResult:
        count = len(self._noise)
        nothing: dict[str, float | None] = dict.fromkeys(
            ("fidelity", "snr_db", "cosine", "largest_error")
        )
        if count == 0:
            return MetricResult(nothing, 0, "no uncompressed network to compare with")
        noise, signal = sum(self._noise), sum(self._signal)
        if not (math.isfinite(noise) and math.isfinite(signal)):
            return MetricResult(nothing, count, "a number is not finite")
        rest = {
            "cosine": sum(self._cosine) / count,
            "largest_error": max(self._largest),
        }
        if noise == 0:
            return MetricResult({"fidelity": 1.0, "snr_db": MOST_DB, **rest}, count)
        if signal == 0:
            note = "the uncompressed network answers 0 everywhere"
            return MetricResult({"fidelity": None, "snr_db": None, **rest}, count, note)
        snr = min(10 * math.log10(signal / noise), MOST_DB)
        return MetricResult({"fidelity": 1 - noise / signal, "snr_db": snr, **rest}, count)
