"""Cut masked channels out for good, and prove that nothing but speed has changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edgemtl.compress.groups import ChannelGroup, channel_groups
from edgemtl.errors import ParityFailed, UsageError
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.surgery import FORMAT, apply_record

#: largest allowed difference between masked and cut, relative to an output's range
TOLERANCE = 1e-5


def cut(
    network: MultiTaskNetwork,
    keep: Mapping[str, Tensor],
    groups: Sequence[ChannelGroup] | None = None,
) -> MultiTaskNetwork:
    """A physically smaller copy; its ``pruning`` has one record more (none if nothing goes).

    Args:
        network: left as it is; its ``arguments`` stay those of the architecture it was built as.
        keep: group name -> (width,) bool, True where a unit stays; groups not named stay whole.
        groups: of this very network, when they are known already.

    Raises:
        UsageError: a group the network does not have, a mask of the wrong width, or one that keeps
            nothing.
    """
    found = channel_groups(network) if groups is None else groups
    smaller = copy.deepcopy(network)
    record = build_record(network, found, keep)
    if record["groups"]:
        apply_record(smaller, record)
        smaller.pruning.append(record)
    return smaller


def build_record(
    network: MultiTaskNetwork, groups: Sequence[ChannelGroup], keep: Mapping[str, Tensor]
) -> dict[str, Any]:
    """What :mod:`edgemtl.models.surgery` needs to cut these masks, as plain data."""
    by_name = {group.name: group for group in groups}
    gone: dict[tuple[str, int], set[int]] = {}
    numbers: dict[tuple[str, str], int] = {}
    listed = []
    for name, mask in keep.items():
        group, stays = by_name.get(name), check_mask(by_name, name, mask)
        assert group is not None
        removed = [unit for unit, kept in enumerate(stays) if not kept]
        if not removed:
            continue
        units = [unit for unit, kept in enumerate(stays) if kept]
        listed.append({"name": name, "width": group.width, "keep": units})
        for member in group.members:
            places = gone.setdefault((member.tensor, member.dim), set())
            places.update(position for unit in removed for position in member.of(unit))
        for attribute in group.attributes:
            key = (attribute.module, attribute.name)
            numbers[key] = numbers.get(key, 0) + len(removed) * attribute.per_unit
    held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    tensors = []
    for (name, dim), places in gone.items():
        size = held[name].shape[dim]
        left = [position for position in range(size) if position not in places]
        tensors.append({"name": name, "dim": dim, "size": size, "keep": left})
    modules = dict(network.named_modules())
    attributes = []
    for (module, name), less in numbers.items():
        before = int(getattr(modules[module], name))
        attributes.append(
            {"module": module, "name": name, "before": before, "after": before - less}
        )
    return {"format": FORMAT, "groups": listed, "tensors": tensors, "attributes": attributes}


def check_mask(groups: Mapping[str, ChannelGroup], name: str, mask: Tensor) -> list[bool]:
    """The mask as a list.

    Raises:
        UsageError: no such group, wrong width or type, or nothing is kept.
    """
    if name not in groups:
        raise UsageError(f"the network has no prunable group '{name}'")
    width = groups[name].width
    if tuple(mask.shape) != (width,) or mask.dtype is not torch.bool:
        raise UsageError(
            f"the mask of '{name}' is {mask.dtype} {tuple(mask.shape)}, it has to be torch.bool "
            f"({width},)"
        )
    if not bool(mask.any()):
        raise UsageError(f"the mask of '{name}' keeps nothing")
    return [bool(value) for value in mask.tolist()]


def check_cut(
    network: MultiTaskNetwork,
    keep: Mapping[str, Tensor],
    cut_network: MultiTaskNetwork,
    images: Tensor,
    groups: Sequence[ChannelGroup] | None = None,
) -> dict[str, float]:
    """Prove that cutting did what masking promised.

    Args:
        network: before the cut.
        keep: the masks.
        cut_network: what :func:`cut` made of them.
        images: (B, 3, H, W) to compare on.
        groups: of ``network``, when they are known already.

    Returns:
        output name -> largest difference, relative to the output's range.

    Raises:
        ParityFailed: an output differs by more than 1e-5 of its range, or in its shape.
    """
    found = channel_groups(network) if groups is None else groups
    result = differences(network, keep, cut_network, images, found)
    worst = max(result, key=lambda name: (result[name] != result[name], result[name]))
    if not result[worst] <= TOLERANCE:
        raise ParityFailed(
            f"output '{worst}' of the cut network differs from the masked one by "
            f"{result[worst]:.2g} of its range (allowed {TOLERANCE:g})",
            where="cut",
        )
    return result


@torch.no_grad()
def differences(
    network: MultiTaskNetwork,
    keep: Mapping[str, Tensor],
    cut_network: MultiTaskNetwork,
    images: Tensor,
    groups: Sequence[ChannelGroup],
) -> dict[str, float]:
    """Output name -> largest difference between masked and cut, relative to the output's range.

    Infinite where the shapes differ; arguments as in :func:`check_cut`.
    """
    from edgemtl.compress.masking import MaskedNetwork

    masked = MaskedNetwork(network, groups)
    for name, mask in keep.items():
        masked.set_mask(name, mask)
    training = network.training, cut_network.training
    try:
        network.eval()
        expected, answers = masked(images), cut_network.eval()(images)
    finally:
        network.train(training[0])
        cut_network.train(training[1])
    result = {}
    for name, value in expected.items():
        if answers[name].shape != value.shape:
            result[name] = math.inf
            continue
        span = float(value.max() - value.min())
        error = float((value - answers[name]).abs().max())
        result[name] = error / span if span > 0 else error
    return result
