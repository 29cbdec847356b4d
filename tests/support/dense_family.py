"""A network that has nothing to do with faces: segmentation and depth from one small encoder.

It exists to keep the product general. Its input is not square, its colours are RGB with a standard
deviation, its outputs are dense maps at two different strides, and a decoder whose task is not
requested is not computed. It joins both ways a user's network can: as the registered family
``tiny-dense`` and by ``--factory support.dense_family:build`` (with ``tests`` on the path).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.data.preprocess import InputSpec
from edgemtl.models import MultiTaskNetwork, register_family
from edgemtl.models.layers import ConvNormAct
from edgemtl.tasks import Depth, Segmentation, Task
from support.norms import enliven

CLASSES = ("ground", "block", "ball", "sky")
SIZE = (64, 96)


class Decoder(nn.Module):
    """Two 3x3 convolutions with a skip from the finer map, then 1x1 to the output's channels."""

    def __init__(self, coarse: int, fine: int, outputs: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(coarse, fine, 3)
        self.refine = ConvNormAct(fine, fine, 3)
        self.out = nn.Conv2d(fine, outputs, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Maps at strides 8 and 4 -> (B, outputs, H / 4, W / 4)."""
        size = (fine.shape[2], fine.shape[3])
        up = F.interpolate(self.reduce(coarse), size=size, mode="nearest")
        out: Tensor = self.out(self.refine(up + fine))
        return out


@register_family("tiny-dense")
class TinyDense(MultiTaskNetwork):
    """Segmentation at stride 4 and depth at stride 2.

    Args:
        width: channels of the first stage, doubled once.
        classes: names of the segmentation classes.
        size: height and width of the input, multiples of 8.
    """

    def __init__(
        self,
        width: int = 16,
        classes: Sequence[str] = CLASSES,
        size: Sequence[int] = SIZE,
    ) -> None:
        tasks: list[Task] = [Segmentation("parts", classes), Depth("distance")]
        super().__init__(
            {"width": width, "classes": list(classes), "size": list(size)},
            tasks,
            InputSpec(
                (int(size[0]), int(size[1])),
                "rgb",
                mean=(123.675, 116.28, 103.53),
                std=(58.395, 57.12, 57.375),
                fill=114.0,
            ),
        )
        self.stem = ConvNormAct(3, width, 3, 2)
        self.fine = ConvNormAct(width, width, 3, 2)
        self.coarse = ConvNormAct(width, 2 * width, 3, 2)
        self.decoders = nn.ModuleDict(
            {
                "parts": Decoder(2 * width, width, len(classes)),
                "distance": Decoder(2 * width, width, 4),
            }
        )

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, H, W) -> logits (B, C, H / 4, W / 4) and depth (B, 1, H / 2, W / 2)."""
        fine = self.fine(self.stem(images))
        coarse = self.coarse(fine)
        answers: dict[str, Tensor] = {}
        for task in self.requested(tasks):
            out = self.decoders[task.name](coarse, fine)
            if task.name == "distance":
                out = F.softplus(F.pixel_shuffle(out, 2))
            answers[task.outputs[0]] = out
        return answers


def build(seed: int = 0) -> TinyDense:
    """A seeded network in eval mode.

    Its batch norms are not the identity, so that a wrong fold shows; its answers differ over the
    picture, so that a wrong parity or a damaged channel shows.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TinyDense()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                enliven(module)
        for decoder in network.decoders.values():
            assert isinstance(decoder, Decoder) and decoder.out.bias is not None
            nn.init.normal_(decoder.out.weight, 0.0, 1.0)
            nn.init.zeros_(decoder.out.bias)
    return network.eval()
