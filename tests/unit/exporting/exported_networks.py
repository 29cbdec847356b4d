"""Seeded networks whose every layer matters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from support.dense_family import SIZE, TinyDense
from support.norms import enliven
from torch import nn

from edgemtl.exporting.onnx_export import ExportResult
from edgemtl.exporting.simplify import SimplifyResult
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.layers import ContextConv, DeformableConv2d
from edgemtl.models.mos.network import MOS

MakeMos = Callable[..., MOS]


def randomise(network: MultiTaskNetwork, shift: float = 0.7) -> None:
    """Random norms and sampling offsets of about ``shift`` pixels: a wrong fold or sample shows."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            enliven(module)
        if isinstance(module, DeformableConv2d):
            assert module.offset_mask.bias is not None
            nn.init.normal_(module.offset_mask.weight, 0.0, 0.02)
            nn.init.normal_(module.offset_mask.bias, 0.0, shift)


def make_mos(variant: str, context: str = "plain", size: int = 64, seed: int = 0) -> MOS:
    """A randomised MOS in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MOS(variant=variant, context=context, size=(size, size))  # type: ignore[arg-type]
        randomise(network)
    return network.eval()


class DeformableDense(TinyDense):
    """The two-task dense network with a deformable convolution on its coarsest map."""

    def __init__(self, size: Sequence[int] = SIZE) -> None:
        super().__init__(size=size)
        width = self.arguments["width"]
        context = ContextConv(2 * width, 2 * width, "deformable")
        self.coarse = nn.Sequential(self.coarse, context)  # type: ignore[assignment]


def make_deformable(
    size: Sequence[int] = SIZE, shift: float = 0.7, seed: int = 0
) -> DeformableDense:
    """A randomised :class:`DeformableDense` in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DeformableDense(size)
        randomise(network, shift)
    return network.eval()


@dataclass(frozen=True)
class Exported:
    """A network with its graph before and after simplification."""

    network: MultiTaskNetwork
    exported: ExportResult
    simplified: SimplifyResult
