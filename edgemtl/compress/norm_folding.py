"""Batch norms taken into the convolutions before them, in copies that only compute.

In eval mode a batch norm is an affine map of a convolution's outputs. A copy without them answers
the same in a third less time; what is cut, stored and exported keeps its norms.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgemtl.models.base import MultiTaskNetwork

#: most that an answer may differ by, relative to the output's range
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Fold:
    """One norm that went into the convolution before it.

    Attributes:
        norm: its name.
        factor: (O,) what it multiplies the convolution's outputs by.
        had_bias: whether the convolution had a bias before.
    """

    norm: str
    factor: Tensor
    had_bias: bool


@torch.no_grad()
def fold_norms(
    network: MultiTaskNetwork, images: Tensor
) -> tuple[MultiTaskNetwork, dict[str, Fold]]:
    """A copy without the batch norms that follow a convolution.

    Which norm reads which convolution is seen in one pass. That nothing else reads it too is not
    seen, so the copy's answers are held against the network's; where they differ, nothing is
    folded.

    Args:
        network: in eval mode; left as it is.
        images: (B, 3, H, W) to look with; the first one is.

    Returns:
        The copy, and convolution's name -> what went into it.
    """
    pairs, before = _followed(network, images[:1])
    if not pairs:
        return copy.deepcopy(network), {}
    found = copy.deepcopy(network)
    folds = {}
    for name, norm_name in pairs.items():
        convolution, norm = found.get_submodule(name), found.get_submodule(norm_name)
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        assert norm.running_var is not None
        factor = (norm.running_var + norm.eps).rsqrt()
        factor = factor if norm.weight is None else factor * norm.weight
        folds[name] = Fold(norm_name, factor.detach().clone(), convolution.bias is not None)
        found.set_submodule(name, fuse_conv_bn_eval(convolution, norm))
        found.set_submodule(norm_name, nn.Identity())
    after = found(images[:1])
    for name, value in before.items():
        span = (value.amax() - value.amin()).clamp(min=1e-12)
        if not bool((after[name] - value).abs().amax() <= TOLERANCE * span):
            return copy.deepcopy(network), {}
    return found, folds


def _followed(
    network: MultiTaskNetwork, images: Tensor
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Convolution -> the batch norm that reads its output, and the network's answers."""
    made: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept, so that no id comes twice
    calls: dict[str, int] = {}
    pairs: dict[str, str] = {}
    handles = []

    def wrote(name: str) -> Callable[..., None]:
        def see(module: nn.Module, given: Any, output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            made[id(output)] = name, output

        return see

    def read(name: str) -> Callable[..., None]:
        def see(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            if given and id(given[0]) in made:
                pairs[made[id(given[0])][0]] = name

        return see

    uses: dict[int, int] = {}
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    for name, module in network.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:  # may compute the weight anew
            continue
        if type(module) is nn.Conv2d and uses[id(module.weight)] == 1:
            handles.append(module.register_forward_hook(wrote(name)))
        elif type(module) is nn.BatchNorm2d and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(read(name)))
    try:
        answers = network(images)
    finally:
        for handle in handles:
            handle.remove()
    readers = list(pairs.values())
    alone = {
        name: norm
        for name, norm in pairs.items()
        if calls[name] == calls[norm] == 1 and readers.count(norm) == 1
    }
    return alone, answers
