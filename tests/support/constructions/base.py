"""What a construction is, and the few pieces that many are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from support.bodies import Body
from support.pruning import Host


@dataclass(frozen=True)
class Construction:
    """One way to connect layers, and what is right about its channels.

    Attributes:
        name: in the field's words.
        body: builds what stands between the stem (8 channels, 8x8) and the segmentation head.
        outputs: channels of the body's answer.
        groups: every group that is right to find: path of the module that first writes its
            channels, ``#1`` behind it for a second group of the same module -> units.
        whole: path of a module whose output channels stay, or some of them -> why.
        refused: what the export's refusal names; empty where it exports.
    """

    name: str
    body: Callable[[], nn.Module]
    outputs: int
    groups: Mapping[str, int]
    whole: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""

    def build(self) -> Host:
        """The two-task network, seeded, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Host(self.body(), self.outputs)


def lam(run: Callable[..., Tensor], **layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A builder of a :class:`Body`; the layers are built when it is called."""
    return lambda: Body(run, **{name: make() for name, make in layers.items()})


def seq(*layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A builder of an ``nn.Sequential``."""
    return lambda: nn.Sequential(*(make() for make in layers))


def conv(
    inputs: int, outputs: int, kernel: int = 1, groups: int = 1, **more: object
) -> Callable[[], nn.Module]:
    """A builder of a convolution that keeps the size of the map."""
    more.setdefault("padding", kernel // 2)
    return lambda: nn.Conv2d(inputs, outputs, kernel, groups=groups, **more)  # type: ignore[arg-type]


def linear(inputs: int, outputs: int, bias: bool = True) -> Callable[[], nn.Module]:
    """A builder of a linear layer."""
    return lambda: nn.Linear(inputs, outputs, bias)


def make(kind: Callable[..., nn.Module], *args: object, **named: object) -> Callable[[], nn.Module]:
    """A builder of any module."""
    return lambda: kind(*args, **named)
