"""What each group costs each task at each width, if what is left is compensated.

Channels are eliminated one after the other on the inverse of the second moments (the structured
Optimal Brain Surgeon step): removing the features U of a unit from a reader with weights W raises
the squared error of its outputs by W_U (G^-1_UU)^-1 W_U', and leaves the others re-solved.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.compensation.moments import Moments
from edgemtl.compress.compensation.solve import RIDGE, regular
from edgemtl.models.base import MultiTaskNetwork

#: share of the units that are left that is eliminated before the inverse is brought up to date; of
#: the cheapest, twice as many are looked at exactly
AT_ONCE = 0.05


@dataclass(frozen=True)
class Curve:
    """One group.

    Attributes:
        order: units in the order in which they go.
        error: (removed + 1, tasks) float64 predicted rise of each loss once so many are gone, in
            units of the loss.
    """

    order: tuple[int, ...]
    error: Tensor

    def keep(self, total: int, width: int) -> Tensor:
        """(total,) bool mask that leaves ``width`` units."""
        mask = torch.ones(total, dtype=torch.bool)
        mask[list(self.order[: total - width])] = False
        return mask


@dataclass
class _State:
    """One reader while units go: inverse, weights, columns of each unit, what tasks mind."""

    inverse: Tensor
    weight: Tensor
    columns: Tensor
    minded: Tensor

    def cost(self, units: Tensor) -> Tensor:
        """(units, tasks) what the removal of each of these alone costs."""
        columns = self.columns[units]
        block = self.inverse[:, columns[:, :, None], columns[:, None, :]]
        own = self.weight[:, :, columns].permute(0, 2, 3, 1)  # blocks, units, features, outputs
        if columns.shape[1] == 1:
            square = own[:, :, 0].pow(2) / block[:, :, 0]
        else:
            square = (own * torch.linalg.solve(block, own)).sum(dim=2)
        return torch.einsum("bno,tbo->nt", square.double(), self.minded)

    def part(self, units: Tensor) -> _State:
        """The same with the features of these units only, which are numbered anew."""
        columns = self.columns[units]
        flat = columns.reshape(-1)
        return _State(
            self.inverse[:, flat][:, :, flat].clone(),
            self.weight[:, :, flat].clone(),
            torch.arange(len(flat)).reshape(columns.shape),
            self.minded,
        )

    def remove(self, units: Tensor) -> None:
        """Take out these units and re-solve the rest."""
        flat = self.columns[units].reshape(-1)
        beside = self.inverse[:, flat]
        solved = torch.linalg.solve(beside[:, :, flat], beside)
        self.weight -= self.weight[:, :, flat] @ solved
        self.inverse -= self.inverse[:, :, flat] @ solved


@torch.no_grad()
def curve(
    network: MultiTaskNetwork,
    group: ChannelGroup,
    moments: Moments,
    scale: Tensor,
    narrowest: int,
    ridge: float = RIDGE,
) -> Curve:
    """Eliminate a group's units down to a width.

    Args:
        network: dense.
        group: of it.
        moments: of it.
        scale: (tasks,) what a task's error is multiplied with when units are compared.
        narrowest: width to stop at.
        ridge: see :data:`edgemtl.compress.compensation.solve.RIDGE`.
    """
    states = _states(network, group, moments, ridge)
    alive = list(range(group.width))
    order: list[int] = []
    steps = [torch.zeros(len(scale), dtype=torch.float64)]
    while len(alive) > narrowest:
        units = torch.tensor(alive)
        costs = sum((state.cost(units) for state in states), torch.zeros(len(units), len(scale)))
        count = min(ceil(AT_ONCE * len(alive)), len(alive) - narrowest)
        ranked = torch.argsort((costs * scale).sum(dim=1), stable=True)
        looked = units[ranked[: 2 * count]]
        gone = _cheapest([state.part(looked) for state in states], len(looked), count, scale, steps)
        chosen = looked[torch.tensor(gone)]
        for state in states:
            state.remove(chosen)
        order += chosen.tolist()
        left = set(order)
        alive = [unit for unit in alive if unit not in left]
    return Curve(tuple(order), torch.stack(steps).cumsum(dim=0))


def _cheapest(
    parts: list[_State], units: int, count: int, scale: Tensor, steps: list[Tensor]
) -> list[int]:
    """Eliminate ``count`` of ``units`` one by one; adds what each costs to ``steps``."""
    left, gone = list(range(units)), []
    for number in range(count):
        here = torch.tensor(left)
        costs = sum((part.cost(here) for part in parts), torch.zeros(len(left), len(scale)))
        best = int((costs * scale).sum(dim=1).argmin())
        steps.append(costs[best].clamp(min=0))
        unit = left.pop(best)
        gone.append(unit)
        if number + 1 < count:
            for part in parts:
                part.remove(torch.tensor([unit]))
    return gone


def _states(
    network: MultiTaskNetwork, group: ChannelGroup, moments: Moments, ridge: float
) -> list[_State]:
    found = []
    for member in group.with_role("consumer"):
        reader = moments.readers.get(member.tensor)
        if reader is None:
            continue
        layout = reader.layout
        gram = regular(moments.grams[reader.name], ridge)
        matrix = layout.matrix(network.get_parameter(reader.name).detach()).float()
        first = 1
        if reader.constant is None:
            gram, first = gram[:, 1:, 1:], 0
        weight = torch.cat([matrix.new_zeros(*matrix.shape[:2], first), matrix], dim=2)
        columns = layout.of(member.positions).reshape(group.width, -1) + first
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        found.append(_State(inverse, weight, columns, moments.fisher[reader.name] / 2))
    return found
