"""What an output of a network means: its tensors, loss, decoding, metric and drawing.

Everything per task in the product (budgets, gates, parity, report rows) is keyed by the task's
name and asks the :class:`Task` object, so a new kind of task never adds an ``if`` elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.data.dense import map_on_canvas
from edgemtl.data.preprocess import InputSpec, Part, View
from edgemtl.data.samples import Sample
from edgemtl.errors import InputRefused
from edgemtl.sinks import check_name
from edgemtl.tasks.metrics import Metric, MetricResult, MetricSpec

#: labels that say the same of a picture wherever it lies on a canvas
_PLACELESS = (bool, int, float, str, np.generic)

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class TaskSpec:
    """A task as plain data: what a checkpoint and a manifest store.

    Attributes:
        name: unique within the network; what the user writes in recipes and gates.
        kind: which :class:`Task` class reads it (``detection``, ``depth``, ...).
        options: arguments of that class, plain data only.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"name": self.name, "kind": self.kind, "options": dict(self.options)}


@dataclass(frozen=True)
class Placed:
    """A picture that a task has put onto a canvas at a scale and place that suit it.

    Attributes:
        image: (H, W, 3) uint8 BGR, the whole canvas.
        label: the task's label in canvas pixels.
        view: where the picture lies; it may hang over the canvas.
    """

    image: NDArray[np.uint8]
    label: Any
    view: View


class Task(ABC):
    """One task of a network.

    What happens to a picture in training happens to its label by :meth:`to_canvas`, :meth:`mirror`,
    :meth:`crop` and :meth:`placed`. As they stand they serve maps of the picture, (h, w) or
    (h, w, c) arrays, and numbers and words about the picture as a whole; a kind whose labels are
    something else (boxes, points) overrides them.

    Attributes set by each kind, of the class or of each task:
        kind: the registered name; always of the class.
        label_kind: which entry of ``Sample.labels`` it learns from.
        label_is_map: whether that is an array over the image's pixels; then the embedded rooms
            serve for calibration.
        primary: the figure that gates and budgets judge.
    """

    kind: ClassVar[str]
    label_kind: str
    label_is_map: ClassVar[bool] = False
    primary: MetricSpec
    #: secondary figures that tables may show; keys of ``MetricResult.values``
    secondary: tuple[MetricSpec, ...] = ()
    #: the figure of each class in ``MetricResult.classes``; None for kinds without classes
    class_figure: MetricSpec | None = None
    #: whether its label is what the uncompressed network answers, so that nobody labels anything:
    #: who judges runs that network too and gives its decoded result as the label
    from_reference: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        self.name = check_name(name, "the name of a task")

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the network outputs this task owns, in export order."""

    @property
    def requires(self) -> tuple[str, ...]:
        """Names of tasks whose decoded result this task's decoding reads (may be empty)."""
        return ()

    @abstractmethod
    def spec(self) -> TaskSpec:
        """This task as plain data; ``tasks.build(task.spec())`` gives an equal task."""

    @abstractmethod
    def collate(self, labels: Sequence[Any], canvas_size: tuple[int, int]) -> Any:
        """Batch labels that are already in canvas pixels into what :meth:`loss_terms` takes.

        ``labels[i]`` is ``Sample.labels[label_kind]`` of image i, or None when it has none.
        """

    def to_canvas(self, label: Any, view: View) -> Any:
        """The label of a picture that lies on a canvas, in pixels of the canvas.

        Maps move with the picture (nearest pixel; the border is -1 in maps of integers, NaN in
        others); numbers and words stay as they are.

        Raises:
            InputRefused: another label, which this kind of task has to move itself.
        """
        if _is_map(label, view.image_size):
            return map_on_canvas(label, view)
        if label is None or isinstance(label, _PLACELESS):
            return label
        raise InputRefused(
            f"task '{self.name}' has a label that is no map of the picture and no number "
            f"({type(label).__name__}), and does not say how it moves with the picture",
            hint=f"override to_canvas in {type(self).__module__}.{type(self).__qualname__}",
        )

    def mirror(self, label: Any, width: int) -> Any | None:
        """The label of the picture with left and right exchanged, or None where it has none.

        None, which every label gets here, keeps the picture as it is: to flip a map is right for
        depth and wrong for a left hand. Kinds that mirror well say so.

        Args:
            label: in pixels of the picture.
            width: of the picture, in pixels.
        """
        return None

    def crop(self, label: Any, part: Part) -> Any | None:
        """The label of a part of the picture, in pixels of the part, or None where it has none.

        None, which all but maps get here, keeps the picture whole: what is said of a picture may
        not hold for a part of it.
        """
        return part.of(label) if _is_map(label, part.image_size) else None

    def placed(
        self, sample: Sample, spec: InputSpec, rng: np.random.Generator, focus: float
    ) -> Placed | None:
        """The picture at a random scale and place from which this task learns well.

        None, as here, leaves it to a random part of the picture (:meth:`crop`), letterboxed.

        Args:
            sample: with a label of this task.
            spec: the canvas.
            rng: draws everything random; not used where the answer is None.
            focus: how often, in 0..1, the scale is drawn to suit one of the labelled objects.
        """
        return None

    def check_outputs(
        self, shapes: Mapping[str, tuple[int, ...]], canvas_size: tuple[int, int]
    ) -> None:
        """Say that the network's outputs are not what this task decodes; asked before any work.

        Args:
            shapes: output name -> shape with the batch axis, for every name in :attr:`outputs`.
            canvas_size: height and width of the network's input.

        Raises:
            InputRefused: a shape that loss and decoding cannot read.
        """
        return

    @abstractmethod
    def loss_terms(self, outputs: Mapping[str, Tensor], targets: Any) -> dict[str, Tensor]:
        """Named scalar loss terms of a batch (means over what is labelled; 0 where nothing is)."""

    def loss(self, outputs: Mapping[str, Tensor], targets: Any) -> Tensor:
        """Sum of the loss terms: the task's one loss for search and sensitivity."""
        terms = list(self.loss_terms(outputs, targets).values())
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def distil(
        self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], targets: Any
    ) -> Tensor:
        """How far a student's answers are from its teacher's; a scalar, about 0 to 1.

        Here the mean squared difference relative to the teacher's variance, mean over the outputs;
        relative to its square where an output is a single number, which does not vary.

        Args:
            student, teacher: output name -> (B, ...); gradients flow to the student.
            targets: what :meth:`collate` gave, for kinds that answer at labelled places only.
        """
        terms = [
            relative_error(student[name].float(), teacher[name].float()) for name in self.outputs
        ]
        return torch.stack(terms).mean()

    def read(self, outputs: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """What decoding reads off the outputs, differentiable, and how much each element matters.

        It tells how far two networks' answers are apart where nobody labelled anything. By default
        that is the outputs as they are, all elements alike.

        Args:
            outputs: of all tasks, (B, ...) each.

        Returns:
            name -> values (B, ...), and weights of 0 or more that broadcast against them.
        """
        return {name: (outputs[name], outputs[name].new_ones(())) for name in self.outputs}

    @abstractmethod
    def decode(self, outputs: Arrays, view: View, decoded: Mapping[str, Any]) -> Any:
        """Turn one picture's raw outputs (no batch axis) into results in picture pixels.

        Args:
            outputs: output name -> array for one picture.
            view: where the picture lies on the canvas.
            decoded: results of the tasks named in :attr:`requires`.
        """

    @abstractmethod
    def new_metric(self) -> Metric:
        """A fresh accumulator."""

    @abstractmethod
    def draw(self, image: NDArray[np.uint8], decoded: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Draw this task's result onto a BGR picture (or return a new picture of the same size).

        ``decoded`` holds the results of all evaluated tasks, by name.
        """

    def describe(self, decoded: Mapping[str, Any]) -> Any:
        """This task's result as plain JSON data (a summary where the result is a dense map).

        ``decoded`` holds the results of all evaluated tasks, by name.
        """
        return None


def _is_map(label: Any, image_size: tuple[int, int]) -> bool:
    return isinstance(label, np.ndarray) and label.ndim >= 2 and label.shape[:2] == image_size


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference relative to the teacher's variance."""
    scale = teacher.var() if teacher.numel() > 1 else teacher.square().sum()
    return F.mse_loss(student, teacher) / scale.clamp(min=1e-6)


def require_shape(
    task: Task, output: str, shape: tuple[int, ...], wanted: tuple[int | str, ...]
) -> None:
    """Refuse an output of another shape.

    Args:
        task: whose output it is.
        output: its name.
        shape: that the network gives.
        wanted: an integer for an extent that is fixed, a letter for one that is free.

    Raises:
        InputRefused: another number of axes, or another extent.
    """
    fits = len(shape) == len(wanted) and all(
        isinstance(want, str) or have == want for have, want in zip(shape, wanted, strict=True)
    )
    if not fits:
        raise InputRefused(
            f"output '{output}' is {shape}, task '{task.name}' reads "
            f"({', '.join(map(str, wanted))})",
            hint="the network and the options of its task do not fit each other",
        )


__all__ = [
    "Arrays",
    "Metric",
    "MetricResult",
    "MetricSpec",
    "Placed",
    "Task",
    "TaskSpec",
    "relative_error",
    "require_shape",
]
