"""Switch channels off without touching the network.

A channel that is cut stops mattering where it is summed over: in the weights that read it. So that
is where it is masked. Multiplying a reader's weight by 0 along the channel's position equals
cutting the channel exactly, whatever lies between writer and reader (a batch norm's bias, an
activation with f(0) other than 0, a depthwise convolution), and costs one product per weight
instead of one per activation. The masked weights stand in for the network's own during one call
(``torch.func.functional_call``); hooks of the network's modules run as always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.channels.record import check_mask
from edgemtl.models.base import MultiTaskNetwork


class MaskedNetwork:
    """A network some of whose channels are switched off; masked equals cut.

    Args:
        network: never changed; its weights may be trained or moved meanwhile.
        groups: of this network.
    """

    def __init__(self, network: MultiTaskNetwork, groups: Sequence[ChannelGroup]) -> None:
        self.network = network
        self.groups: dict[str, ChannelGroup] = {group.name: group for group in groups}
        self._masks: dict[str, Tensor] = {}
        self._gates: dict[str, Tensor] = {}
        #: reader's weight -> (group, dimension, its positions there, unit of each position)
        self._readers: dict[str, list[tuple[str, int, Tensor, Tensor]]] = {}
        for group in groups:
            for member in group.with_role("consumer"):
                units = torch.arange(group.width).repeat_interleave(member.per_unit)
                entry = (group.name, member.dim, torch.tensor(member.positions), units)
                self._readers.setdefault(member.tensor, []).append(entry)

    def __call__(self, images: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The network's outputs with the masked channels off; see its ``forward``."""
        answers: dict[str, Tensor] = functional_call(
            self.network, self.overrides(), (images, tasks)
        )
        return answers

    def set_mask(self, name: str, keep: Tensor) -> None:
        """Keep the units of group ``name`` where ``keep`` (width,) bool is True.

        Raises:
            UsageError: no such group, wrong width or type, or nothing is kept.
        """
        check_mask(self.groups, name, keep)
        self._masks[name] = keep.detach().to("cpu").clone()

    def masks(self) -> dict[str, Tensor]:
        """group name -> (width,) bool, for every group."""
        return {
            name: self._masks[name].clone()
            if name in self._masks
            else torch.ones(group.width, dtype=torch.bool)
            for name, group in self.groups.items()
        }

    def clear(self, name: str | None = None) -> None:
        """Forget one mask, or all."""
        if name is None:
            self._masks.clear()
        else:
            self._masks.pop(name, None)

    def gates(self, enabled: bool) -> Mapping[str, Tensor]:
        """Put a gate of 1 on every unit, or take the gates away.

        The gradient of a loss with respect to a gate is the first-order Taylor saliency of the
        unit: how the loss would change if its output were scaled down.

        Returns:
            group name -> (width,) float of ones with ``requires_grad``, multiplied where the masks
            are; empty when not ``enabled``.
        """
        self._gates = (
            {name: torch.ones(g.width, requires_grad=True) for name, g in self.groups.items()}
            if enabled
            else {}
        )
        return dict(self._gates)

    def overrides(self) -> dict[str, Tensor]:
        """Weights that stand in for the network's own: name -> masked weight."""
        factors = {
            name: self._masks[name].float() for name in self._masks if not self._masks[name].all()
        }
        for name, gate in self._gates.items():
            factors[name] = gate * factors[name] if name in factors else gate
        changed: dict[str, Tensor] = {}
        for tensor, readers in self._readers.items():
            weight: Tensor | None = None
            for group, dim, positions, units in readers:
                if group not in factors:
                    continue
                if weight is None:
                    weight = self.network.get_parameter(tensor)
                factor = torch.ones(weight.shape[dim]).index_copy(
                    0, positions, factors[group][units]
                )
                shape = [1] * weight.dim()
                shape[dim] = -1
                weight = weight * factor.to(weight).view(shape)
            if weight is not None:
                changed[tensor] = weight
        return changed
