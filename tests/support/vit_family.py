"""A small vision transformer with two dense tasks: proof that nothing is made for convolutions.

Pre-norm blocks with a fused query-key-value layer, a class token, learned positions and a
convolutional decoder per task. Attention is written out in odd blocks and fused in even ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.data.preprocess import InputSpec
from edgemtl.models import MultiTaskNetwork, register_family
from edgemtl.tasks import Depth, Segmentation, Task

CLASSES = ("ground", "block", "sky")


class Attention(nn.Module):
    """Multi-head self-attention whose heads may be fewer than ``dim / width``."""

    def __init__(self, dim: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads = heads
        self.width = dim // heads
        self.fused = fused
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = (q @ k.transpose(-2, -1) * self.width**-0.5).softmax(dim=-1) @ v
        joined: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return joined


class Block(nn.Module):
    """Attention and MLP, each after a layer norm and around a shortcut."""

    def __init__(self, dim: int, heads: int, hidden: int, fused: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, fused)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


@register_family("tiny-vit")
class TinyViT(MultiTaskNetwork):
    """Segmentation at stride 4 and depth at stride 2 from tokens of 8 x 8 pixels.

    Args:
        dim: width of a token.
        heads: attention heads.
        depth: blocks.
        size: height and width of the input, multiples of 8.
    """

    def __init__(
        self, dim: int = 24, heads: int = 4, depth: int = 2, size: Sequence[int] = (32, 48)
    ) -> None:
        tasks: list[Task] = [Segmentation("parts", CLASSES), Depth("distance")]
        height, width = int(size[0]), int(size[1])
        super().__init__(
            {"dim": dim, "heads": heads, "depth": depth, "size": [height, width]},
            tasks,
            InputSpec((height, width), "rgb", mean=(127.5,) * 3, std=(127.5,) * 3, fill=114.0),
        )
        self.grid = (height // 8, width // 8)
        self.patch = nn.Conv2d(3, dim, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.position = nn.Parameter(torch.randn(1, 1 + self.grid[0] * self.grid[1], dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, 3 * dim, fused=index % 2 == 0) for index in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.decoders = nn.ModuleDict(
            {
                "parts": nn.Sequential(
                    nn.ConvTranspose2d(dim, 16, 2, 2),
                    nn.BatchNorm2d(16),
                    nn.ReLU(),
                    nn.Conv2d(16, len(CLASSES), 1),
                ),
                "distance": nn.Sequential(
                    nn.Conv2d(dim, 48, 3, padding=1),
                    nn.GELU(),
                    nn.PixelShuffle(4),
                    nn.Conv2d(3, 1, 3, padding=1),
                    nn.Softplus(),
                ),
            }
        )

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, H, W) -> logits (B, C, H / 4, W / 4) and depth (B, 1, H / 2, W / 2)."""
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)[:, 1:].transpose(1, 2).unflatten(2, self.grid)
        return {task.outputs[0]: self.decoders[task.name](x) for task in self.requested(tasks)}


def build(seed: int = 0) -> TinyViT:
    """A seeded network in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyViT().eval()
