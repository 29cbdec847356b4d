"""Where Torch-Pruning can trace a network, its dependency groups and ours are the same.

Torch-Pruning follows autograd's graph and knows layers; ours follows operators and knows weights.
Two ways that share nothing are compared unit by unit.
"""

from __future__ import annotations

import re
import warnings

import pytest
import torch_pruning as tp
from support.pruning import networks
from torch import nn

from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.models import MultiTaskNetwork
from edgemtl.models.mos.network import MOS

Place = tuple[str, int, int]  # weight, dimension, position


def theirs(
    graph: tp.DependencyGraph, names: dict[nn.Module, str], layer: nn.Module, channel: int
) -> set[Place]:
    """Where Torch-Pruning would cut to remove one output channel of a convolution."""
    found: set[Place] = set()
    for dependency, channels in graph.get_pruning_group(
        layer, tp.prune_conv_out_channels, [channel]
    ):
        module = dependency.target.module
        if module not in names:
            continue  # an element-wise operation, a concatenation
        reads = dependency.handler.__name__ == "prune_in_channels"
        reads &= not isinstance(module, nn.BatchNorm2d)
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            reads = False  # depthwise: the one dimension is both
        for local, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.dim() > 0 and (local == "weight" or not reads):
                found |= {(f"{names[module]}.{local}", int(reads), int(c)) for c in channels}
    return found


def ours(group: ChannelGroup, unit: int) -> set[Place]:
    return {(m.tensor, m.dim, place) for m in group.members for place in m.of(unit)}


@pytest.mark.parametrize("name", ["tiny-dense", "mos-t without stitches", "mos-m"])
def test_every_unit_is_the_same(name: str) -> None:
    network: MultiTaskNetwork = (
        MOS(variant="mos-t", context="plain", stitch="none", size=(64, 64))
        if name.startswith("mos-t")
        else networks()[name]
    )
    network.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(network, network.example_input())
    names = {module: path for path, module in network.named_modules() if not [*module.children()]}
    layers = dict(network.named_modules())
    groups = channel_groups(network)
    assert groups
    for group in groups:
        first = group.with_role("producer")[0]
        for unit in (0, group.width // 2, group.width - 1):
            (channel,) = first.of(unit)
            layer = layers[first.tensor.rpartition(".")[0]]
            assert theirs(graph, names, layer, channel) == ours(group, unit), group.name
    # And nothing is missed: every convolution that is no output's writes a group's channels.
    written = {m.tensor.rpartition(".")[0] for g in groups for m in g.with_role("producer")}
    written |= {m.tensor.rpartition(".")[0] for g in groups for m in g.with_role("follower")}
    convolutions = {path for path, m in layers.items() if isinstance(m, nn.Conv2d)}
    outputs = re.compile(
        r"decoders\.\w+\.out|levels\.\d\.heads\.(class|box|landmark|(yaw|pitch|roll)\.out)"
    )
    assert convolutions - written == {path for path in convolutions if outputs.fullmatch(path)}
