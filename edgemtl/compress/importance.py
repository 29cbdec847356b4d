"""How important channels are to the baselines: our own L1 norm, and the scores of Torch-Pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.models.base import MultiTaskNetwork


def l1_importance(
    network: MultiTaskNetwork,
    group: ChannelGroup,
    weights: Mapping[str, Tensor] | None = None,
) -> NDArray[np.float64]:
    """(width,) sum over the layers that write the group of each unit's mean |weight|.

    Args:
        network: whose weights are read.
        group: one of its groups.
        weights: weights to read instead, by name (masked ones, say).
    """
    total = np.zeros(group.width)
    for member in group.with_role("producer"):
        weight = (weights or {}).get(member.tensor, network.get_parameter(member.tensor)).detach()
        if weight.dim() < 2:
            continue
        other = [axis for axis in range(weight.dim()) if axis != member.dim]
        size = weight.abs().mean(dim=other).double().numpy()
        total += size[np.array(member.positions)].reshape(group.width, -1).sum(axis=1)
    return total


def library_importance(
    network: MultiTaskNetwork,
    groups: Sequence[ChannelGroup],
    importance: Callable[[Any], Tensor],
) -> tuple[dict[str, NDArray[np.float64]], tuple[str, ...]]:
    """Torch-Pruning's score of every unit, from its own dependency graph.

    Args:
        network: with gradients in place when the score reads them; parameters require gradients.
        groups: the network's groups.
        importance: one of Torch-Pruning's importance criteria.

    Returns:
        group -> (width,) scores, and the names of the groups for which the library has none (it
        does not know every kind of layer): these carry our L1 norm.
    """
    import torch_pruning

    modules = dict(network.named_modules())
    try:
        graph = torch_pruning.DependencyGraph().build_dependency(
            network, network.example_input(1).to(memory_format=torch.channels_last)
        )
    except Exception:  # the library raises many kinds for what it cannot trace
        graph = None
    found, missing = {}, []
    for group in groups:
        member = group.with_role("producer")[0]
        values = None if graph is None else _score(graph, modules, member.tensor, importance)
        if values is None or len(values) <= max(member.positions):
            missing.append(group.name)
            found[group.name] = l1_importance(network, group)
        else:
            picked = values[np.array(member.positions)]
            found[group.name] = picked.reshape(group.width, -1).sum(axis=1)
    return found, tuple(missing)


def _score(
    graph: Any, modules: Mapping[str, Any], tensor: str, importance: Callable[[Any], Tensor]
) -> NDArray[np.float64] | None:
    """The library's score per output channel of the layer that owns ``tensor``."""
    layer = modules[tensor.rpartition(".")[0]]
    try:
        cut = graph.get_pruner_of_module(layer).prune_out_channels
        channels = list(range(layer.weight.shape[0]))
        values = importance(graph.get_pruning_group(layer, cut, idxs=channels))
    except Exception:  # as above
        return None
    return None if values is None else values.detach().double().numpy()
