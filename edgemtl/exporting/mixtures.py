"""Mixtures of experts that save nothing: a router picks few, and every expert is computed."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from edgemtl.exporting.watch import Choice, Seen, watch
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.fast_path import without_fast_path


@dataclass(frozen=True)
class DenseMixture:
    """A mixture whose gate weighs the answers of all experts.

    Attributes:
        module: path of the module that picks.
        picked: how many it picks.
        of: out of how many.
        experts: path of the list of the experts.
    """

    module: str
    picked: int
    of: int
    experts: str


def dense_mixtures(network: MultiTaskNetwork) -> list[DenseMixture]:
    """Routers (top-k, the largest) that pick among as many modules as are all called all the same.

    Args:
        network: left as it is.

    Raises:
        InputRefused: its forward raises.
    """
    own = copy.deepcopy(network).eval()
    with without_fast_path():
        seen = watch(own, own.example_input(), None)
    lists = {
        path: module for path, module in own.named_modules() if isinstance(module, nn.ModuleList)
    }
    found = []
    for choice in seen.choices:
        path = _experts_of(choice, lists, seen)
        if path is not None:
            found.append(DenseMixture(choice.module, choice.picked, choice.of, path))
    return found


def _experts_of(choice: Choice, lists: dict[str, nn.ModuleList], seen: Seen) -> str | None:
    """The list of as many called modules that is nearest to a router: inside it, or beside it."""
    if choice.picked >= choice.of:
        return None
    for inside in (choice.module, choice.module.rpartition(".")[0]):
        for path, modules in lists.items():
            members = {f"{path}.{index}" for index in range(len(modules))}
            within = not inside or path.startswith(f"{inside}.")
            if len(modules) == choice.of and within and members <= seen.called:
                return path
    return None
