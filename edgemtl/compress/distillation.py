"""What the pruned network learns from the dense one: where it looks.

How far its answers are from the dense one's is each task's to say (``Task.distil``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.models.base import MultiTaskNetwork


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
