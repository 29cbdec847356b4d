"""What removing masked channels does to every weight, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.errors import UsageError
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.held_numbers import number_at
from edgemtl.models.surgery import FORMAT


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
        before = number_at(modules[module], name)
        assert before is not None
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
