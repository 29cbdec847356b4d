"""Leave out experts that a network's tasks never use (M3ViT with some of its tasks).

The gate stays whole: it scores all E experts and its softmax runs over all, so the weights of those
that are kept do not change. What it chooses is looked up among those that are there. A picture that
chooses one that is not there is not answered as the whole network would answer it; the output
``experts.overflow`` counts such choices.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from edgemtl.models.m3vit.network import M3ViT


def keep_experts(network: M3ViT, kept: Sequence[Sequence[int]]) -> M3ViT:
    """An equal network as long as only these experts are chosen.

    Args:
        network: left as it is.
        kept: per layer with experts, numbers of those to keep among all E, ascending.

    Raises:
        ValueError: not one list per layer, an empty one, or an expert that is not there.
    """
    other = copy.deepcopy(network)
    mixtures = other.backbone.mixtures()
    if len(kept) != len(mixtures):
        raise ValueError(f"there are {len(mixtures)} layers with experts, not {len(kept)}")
    for mixture, numbers in zip(mixtures, kept, strict=True):
        experts = mixture.experts
        absent = sorted(set(numbers) - set(experts.kept))
        if absent or not numbers or list(numbers) != sorted(set(numbers)):
            raise ValueError(f"{list(numbers)} cannot be kept of {list(experts.kept)}")
        places = [experts.kept.index(number) for number in numbers]
        for name, parameter in list(experts.named_parameters(recurse=False)):
            setattr(experts, name, nn.Parameter(parameter.detach()[places].clone()))
        experts.name_kept(numbers)
    other.arguments["kept_experts"] = [list(numbers) for numbers in kept]
    return other
