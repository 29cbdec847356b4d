"""Distillation at the places that compensation matched: what layers made of removed channels.

Compensation solves a layer that reads removed channels for the outputs it had in the dense network.
Those outputs are where the pruned network can be held against the dense one channel by channel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.distillation import SharedFeatures, feature_loss
from edgemtl.models.base import MultiTaskNetwork

#: of a map so many positions per side are compared; more would hold the whole network in memory
SIDE = 20
#: a channel that hardly varies says nothing
TINY = 1e-6

#: module -> which of the dense network's outputs its outputs are
Rows = Mapping[str, Tensor]


def matched_rows(
    network: MultiTaskNetwork,
    keep: Mapping[str, Tensor],
    groups: Sequence[ChannelGroup],
    weights: Iterable[str],
    before: Rows | None = None,
) -> dict[str, Tensor]:
    """Where a cut network can be held against the dense one, and which outputs are left there.

    Args:
        network: before the cut.
        keep: group -> mask.
        groups: of the network.
        weights: names of the weights that compensation solved.
        before: the same of the cuts before, that made ``network`` of the dense one; None if it is
            the dense one.

    Returns:
        module -> (outputs,) int64, indices of the dense network's outputs.
    """
    tagged = copy.deepcopy(network)
    modules = dict(tagged.named_modules())
    names = [
        name
        for name, _, parameter in (weight.rpartition(".") for weight in weights)
        if parameter == "weight" and isinstance(modules.get(name), nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        for name in names:
            weight = modules[name].weight
            assert isinstance(weight, Tensor)
            numbers = torch.arange(len(weight), dtype=weight.dtype)
            weight.copy_(numbers.view(-1, *[1] * (weight.dim() - 1)).expand_as(weight))
    smaller = dict(cut(tagged, keep, groups).named_modules())
    found: dict[str, Tensor] = {}
    for name in names:
        weight = smaller[name].weight
        assert isinstance(weight, Tensor)
        rows = weight.detach().flatten(1)[:, 0].round().long()
        if before is None:
            found[name] = rows
        elif name in before:
            found[name] = before[name][rows]
    return found


class FeatureMatch:
    """Holds the maps inside two networks against each other.

    Args:
        student, teacher: to compare.
        rows: see :func:`matched_rows`; where it is empty, what is compared is where the maps of
            larger parts are strong (:class:`~edgemtl.compress.distillation.SharedFeatures`).
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, rows: Rows) -> None:
        self._rows, self._handles = rows, []
        self._shared: list[SharedFeatures] = []
        if not rows:
            assert isinstance(student, MultiTaskNetwork) and isinstance(teacher, MultiTaskNetwork)
            self._shared = [SharedFeatures(student), SharedFeatures(teacher)]
        self._maps: list[dict[str, list[Tensor]]] = [{}, {}]
        for network, maps in zip((student, teacher), self._maps, strict=True):
            modules = dict(network.named_modules())
            for name in rows:
                hook = _recorder(name, maps)
                self._handles.append(modules[name].register_forward_hook(hook))
        own = dict(student.named_modules())
        self._centred = {name: getattr(own[name], "bias", None) is None for name in rows}
        self._linear = {name: isinstance(own[name], nn.Linear) for name in rows}

    def loss(self) -> Tensor:
        """Mean over the places of the squared difference over the variance; forgets the maps."""
        if self._shared:
            found = feature_loss(*(one.maps for one in self._shared))
        else:
            terms = [
                self._term(name, mine, theirs)
                for name, outputs in self._maps[0].items()
                for mine, theirs in zip(outputs, self._maps[1].get(name, []), strict=False)
            ]
            found = torch.stack(terms).mean() if terms else torch.zeros(())
        self.clear()
        return found

    def clear(self) -> None:
        """Forget the maps."""
        for one in self._shared:
            one.maps.clear()
        for maps in self._maps:
            maps.clear()

    def remove(self) -> None:
        """Take the hooks off."""
        for one in self._shared:
            one.remove()
        for handle in self._handles:
            handle.remove()
        self.clear()

    def _term(self, name: str, mine: Tensor, theirs: Tensor) -> Tensor:
        axis = -1 if self._linear[name] else 1
        theirs = theirs.index_select(axis, self._rows[name]).float().movedim(axis, 0).flatten(1)
        mine = mine.float().movedim(axis, 0).flatten(1)
        scale = theirs.var().clamp(min=TINY)
        if self._centred[name]:  # the constant went into the norm that follows
            mine = mine - mine.mean(dim=1, keepdim=True)
            theirs = theirs - theirs.mean(dim=1, keepdim=True)
        return (mine - theirs).pow(2).mean() / scale


def _recorder(name: str, maps: dict[str, list[Tensor]]) -> Callable[[nn.Module, Any, Any], None]:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            return
        if output.dim() == 4 and isinstance(module, nn.Conv2d):
            rows, columns = (max(1, -(-extent // SIDE)) for extent in output.shape[2:])
            output = output[:, :, ::rows, ::columns]
        # A layer may run several times in a pass, once per level of a pyramid for one.
        maps.setdefault(name, []).append(output)

    return record
