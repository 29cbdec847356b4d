"""Where a network can be masked per picture, found from its channel groups.

A channel that is off must not reach whoever sums over it, whatever lies between (a batch norm's
bias, a depthwise convolution). So a picture's mask multiplies the inputs of the layers that *read*
the group, which equals cutting the channel; and the layer that writes the group is where the mask
has to be known. Groups that several layers write are streams of residual networks: they stay dense,
as the sum of the stream is hardly ever zero (papers' accounting that masks them saves nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.layers import DeformableConv2d


@dataclass(frozen=True)
class Reader:
    """A layer that sums over a group.

    Attributes:
        module: its path.
        positions: its input channels (features) of unit 0, then of unit 1, ...
        per_unit: of them per unit.
    """

    module: str
    positions: tuple[int, ...]
    per_unit: int


@dataclass(frozen=True)
class Site:
    """A group of channels that can be on or off per picture.

    Attributes:
        name: of the group.
        width: its units.
        inputs: channels that the writing layer reads, which the prediction is made from.
        writer: path of the convolution that writes the group.
        readers: the layers that read it.
        tasks: tasks that depend on it.
    """

    name: str
    width: int
    inputs: int
    writer: str
    readers: tuple[Reader, ...]
    tasks: tuple[str, ...]


def mask_sites(network: MultiTaskNetwork, groups: Sequence[ChannelGroup]) -> tuple[Site, ...]:
    """The groups that one convolution writes and that convolutions or linear layers read.

    Args:
        network: whose modules are looked up.
        groups: its channel groups.
    """
    modules = dict(network.named_modules())
    found = []
    for group in groups:
        writers, members = group.with_role("producer"), group.with_role("consumer")
        if len(writers) != 1:
            continue
        path, _, kind = writers[0].tensor.rpartition(".")
        writer = modules[path]
        if kind != "weight" or not isinstance(writer, nn.Conv2d | DeformableConv2d):
            continue
        readers = []
        for member in members:
            owner, _, attribute = member.tensor.rpartition(".")
            module = modules[owner]
            known = isinstance(module, nn.Conv2d | nn.Linear | DeformableConv2d)
            if known and attribute == "weight" and member.dim == 1:
                readers.append(Reader(owner, member.positions, member.per_unit))
        if len(readers) < len(members):
            continue
        inputs = writer.weight.shape[1]
        if isinstance(writer, nn.Conv2d):
            inputs *= writer.groups
        found.append(Site(group.name, group.width, inputs, path, tuple(readers), group.tasks))
    return tuple(found)
