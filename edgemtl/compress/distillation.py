"""What the pruned network learns from the dense one: its answers, and where it looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.models.base import MultiTaskNetwork
from edgemtl.tasks.base import Task
from edgemtl.tasks.detection import Detection
from edgemtl.tasks.landmarks import Landmarks
from edgemtl.tasks.pose import HeadPose

Outputs = Mapping[str, Tensor]
#: a prior takes part in the distillation of boxes when the teacher is at least this sure of a face
SURE = 0.3


def answer_loss(task: Task, student: Outputs, teacher: Outputs, targets: Any) -> Tensor:
    """How far the student's answers are from the teacher's, for one task; about 0 to 1.

    A face task's answers mean something only at priors that answer for a face; there the teacher
    also speaks about faces whose landmarks or pose nobody labelled.
    """
    if isinstance(task, Detection):
        return _detection(task, student, teacher, targets)
    if isinstance(task, Landmarks):
        return _landmarks(task, student, teacher, targets)
    if isinstance(task, HeadPose):
        return _pose(task, student, teacher, targets)
    terms = [_normalised(student[name].float(), teacher[name].float()) for name in task.outputs]
    return torch.stack(terms).mean()


def _normalised(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference relative to the teacher's variance."""
    return F.mse_loss(student, teacher) / teacher.var().clamp(min=1e-6)


def _detection(task: Detection, student: Outputs, teacher: Outputs, targets: Any) -> Tensor:
    scores, boxes = task.outputs
    wanted = teacher[scores].float().softmax(dim=-1)
    found = student[scores].float().log_softmax(dim=-1)
    divergence = (wanted * (wanted.clamp(min=1e-8).log() - found)).sum(dim=-1)
    sure = wanted[..., 1] > SURE
    count = sure.sum().clamp(min=1)
    loss = divergence.sum() / count
    if bool(sure.any()):
        difference = F.smooth_l1_loss(
            student[boxes].float()[sure], teacher[boxes].float()[sure], reduction="sum"
        )
        loss = loss + difference / count
    return loss


def _landmarks(task: Landmarks, student: Outputs, teacher: Outputs, targets: Any) -> Tensor:
    match = targets.match(task.anchors)
    found = student[task.outputs[0]].float()
    if len(match.prior) == 0:
        return found.sum() * 0.0
    wanted = teacher[task.outputs[0]].float()
    loss: Tensor = F.smooth_l1_loss(
        found[match.image, match.prior], wanted[match.image, match.prior], reduction="sum"
    ) / len(match.prior)
    return loss


def _pose(task: HeadPose, student: Outputs, teacher: Outputs, targets: Any) -> Tensor:
    match = targets.match(task.anchors)
    terms = []
    for name in task.outputs:
        found = student[name].float()
        if len(match.prior) == 0:
            return found.sum() * 0.0
        wanted = teacher[name].float()[match.image, match.prior].softmax(dim=-1)
        mine = found[match.image, match.prior].log_softmax(dim=-1)
        bins = torch.arange(wanted.shape[-1], dtype=torch.float32)
        terms.append(F.kl_div(mine, wanted, reduction="batchmean"))
        # The expected angle is what the metric reads; a tenth of its squared error in bins, as in
        # the task's own loss.
        terms.append(0.1 * F.mse_loss(mine.exp() @ bins, wanted @ bins))
    return torch.stack(terms).sum()


class SharedFeatures:
    """Records the maps that a network's larger parts hand on, to compare two networks by.

    The two have different widths, so what is compared is where the maps are strong: the mean of
    the squares over channels (attention transfer, Zagoruyko and Komodakis, ICLR 2017).
    """

    #: names of modules at most this deep are recorded
    DEPTH = 2

    def __init__(self, network: MultiTaskNetwork) -> None:
        self.maps: dict[str, Tensor] = {}
        self._handles = [
            module.register_forward_hook(self._hook(name))
            for name, module in network.named_modules()
            if name and name.count(".") < self.DEPTH and any(True for _ in module.children())
        ]

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            parts = output if isinstance(output, list | tuple) else [output]
            for index, part in enumerate(parts):
                if isinstance(part, Tensor) and part.dim() == 4 and part.shape[2] > 1:
                    self.maps[f"{name}:{index}"] = part

        return record

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self.maps.clear()


def feature_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """Mean of 1 - cosine similarity of the maps' strengths, in 0..1."""
    terms = []
    for name, mine in student.items():
        theirs = teacher.get(name)
        if theirs is None or theirs.shape[2:] != mine.shape[2:]:
            continue
        a = mine.float().pow(2).mean(dim=1).flatten(1)
        b = theirs.float().pow(2).mean(dim=1).flatten(1)
        terms.append((1 - F.cosine_similarity(a, b, dim=1)).mean())
    return torch.stack(terms).mean() if terms else torch.zeros(())
