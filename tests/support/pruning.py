"""What tests of pruning share: networks with lively norms, random masks, a host for odd layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.data.preprocess import InputSpec
from edgemtl.models import MultiTaskNetwork
from edgemtl.models.mos.network import MOS
from edgemtl.tasks import Depth, Segmentation, Task
from support import dense_family, m3vit, vit_family

SIZE = (64, 64)


def liven(network: nn.Module, seed: int = 0) -> None:
    """Give norms, biases and offsets values that make a wrongly masked channel show.

    A batch norm's bias of 0 would hide a channel that is zeroed before the norm only.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith("running_var"):
                draw(tensor, 0.5, 1.5)
            elif name.endswith(("running_mean", "bias")):
                draw(tensor, -0.3, 0.3)
            elif name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
                draw(tensor, 0.7, 1.3)
            elif "offset_mask" in name:
                draw(tensor, -0.1, 0.1)


def networks() -> dict[str, MultiTaskNetwork]:
    """One network of each kind that has to be prunable, small pictures, lively, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        built: dict[str, MultiTaskNetwork] = {
            "mos-t": MOS(variant="mos-t", context="plain", size=SIZE),
            "mos-t-deformable": MOS(variant="mos-t", context="deformable", size=SIZE),
            "mos-m": MOS(variant="mos-m", context="plain", stitch="folded", size=SIZE),
            "mos-s": MOS(variant="mos-s", context="plain", stitch="none", size=SIZE),
            "tiny-dense": dense_family.build(),
            "tiny-vit": vit_family.build(),
            "m3vit": m3vit.tiny(),
        }
    for network in built.values():
        liven(network)
        network.eval()
    return built


class _Groups(dict[str, tuple[ChannelGroup, ...]]):
    """Channel groups of :data:`NETWORKS` by name, looked for when first asked for."""

    def __missing__(self, name: str) -> tuple[ChannelGroup, ...]:
        return self.setdefault(name, channel_groups(NETWORKS[name]))


#: made once for all files of a process: to be read, not changed
NETWORKS = networks()
GROUPS = _Groups()


def random_keep(groups: Sequence[ChannelGroup], seed: int, share: float = 0.5) -> dict[str, Tensor]:
    """Masks that keep about ``share`` of the units of each group, at least one."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for group in groups:
        mask = torch.rand(group.width, generator=generator) < share
        mask[int(torch.randint(group.width, (1,), generator=generator))] = True
        keep[group.name] = mask
    return keep


class Host(MultiTaskNetwork):
    """A body between a stem and two tasks' linear heads, to try one construction at a time.

    The stem writes ``width`` channels; segmentation reads the body's answer, depth the stem's.

    Args:
        body: (B, width, 8, 8) -> (B, outputs, H, W) with H and W 8 or 1.
        outputs: channels of the body's answer.
        width: channels of the stem.
    """

    family = "host"

    def __init__(self, body: nn.Module, outputs: int, width: int = 8) -> None:
        tasks: list[Task] = [Segmentation("parts", ("a", "b", "c")), Depth("distance")]
        spec = InputSpec((16, 16), "rgb", mean=(127.5,) * 3, std=(127.5,) * 3, fill=0.0)
        super().__init__({}, tasks, spec)
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.body = body
        self.parts = nn.Conv2d(outputs, 3, 1)
        self.distance = nn.Conv2d(width, 1, 1)
        liven(self)
        self.eval()

    def forward(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """(B, 3, 16, 16) -> raw outputs of the requested tasks."""
        x = self.stem(images)
        answers = {}
        for task in self.requested(tasks):
            if task.name == "distance":
                answers[task.outputs[0]] = self.distance(x)
            else:
                answers[task.outputs[0]] = self.parts(F.silu(self.body(x)))
        return answers
