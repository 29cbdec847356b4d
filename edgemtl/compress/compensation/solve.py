"""What the kept channels explain of the removed ones, put into the weights that read them.

With K the features that stay (the constant among them) and R those that go, the error of least mean
square is D = W_R G_RK (G_KK + ridge)^-1, W_K += D (He et al., ICCV 2017, eq. 2; here in closed form
on second moments).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.compensation.moments import Moments
from edgemtl.compress.compensation.readers import Reader
from edgemtl.compress.cost import Keep
from edgemtl.models.base import MultiTaskNetwork

#: added to the diagonal of second moments, as a share of its mean
RIDGE = 1e-2


@dataclass(frozen=True)
class Compensation:
    """New weights.

    Attributes:
        weights: name of a parameter or buffer -> its value.
        explained: reader -> share of what was removed from its outputs that the kept channels give
            back, at most 1.
        error: (tasks,) predicted rise of each loss, as the second-order term of the remaining
            error; in units of the loss.
    """

    weights: dict[str, Tensor]
    explained: dict[str, float]
    error: Tensor

    @staticmethod
    def none(tasks: int) -> Compensation:
        """No weight changes."""
        return Compensation({}, {}, torch.zeros(tasks, dtype=torch.float64))


def regular(gram: Tensor, ridge: float = RIDGE) -> Tensor:
    """Second moments (..., n, n), constant first, with the ridge on all but the constant."""
    found = gram.clone()
    diagonal = found.diagonal(dim1=-2, dim2=-1)
    mean = diagonal[..., 1:].mean(dim=-1, keepdim=True).clamp(min=1e-12)
    diagonal[..., 1:] += ridge * mean
    diagonal[..., :1] += 1e-6 * mean
    return found


def gone_features(reader: Reader, groups: Sequence[ChannelGroup], keep: Keep) -> Tensor:
    """(features,) bool: which features of a reader are removed."""
    gone = torch.zeros(reader.layout.features, dtype=torch.bool)
    for group in groups:
        mask = keep.get(group.name)
        if mask is None or bool(mask.all()):
            continue
        for member in group.with_role("consumer"):
            if member.tensor == reader.name:
                positions = torch.tensor(member.positions).reshape(group.width, -1)[~mask]
                gone[reader.layout.of(positions.reshape(-1).tolist())] = True
    return gone


def _solved(systems: Tensor, sides: Tensor) -> Tensor:
    """(blocks, n, sides) solutions of (blocks, n, n) systems.

    Block by block, with the same result to the last bit: one call for all of them did not come back
    on two threads, for a transformer's layers (torch 2.13.0 for CPUs, with oneMKL 2024.2, which
    says "Parameter 6 was incorrect on entry to DLASWP").
    """
    return torch.stack([torch.linalg.solve(*one) for one in zip(systems, sides, strict=True)])


@torch.no_grad()
def solve(
    network: MultiTaskNetwork,
    groups: Sequence[ChannelGroup],
    keep: Keep,
    moments: Moments,
    ridge: float = RIDGE,
) -> Compensation:
    """Weights that make up for removed channels as well as the kept ones can.

    Args:
        network: dense; left as it is.
        groups: of it.
        keep: the masks.
        moments: of it.
        ridge: see :data:`RIDGE`.
    """
    values: dict[str, Tensor] = {
        **dict(network.named_parameters()),
        **dict(network.named_buffers()),
    }
    weights: dict[str, Tensor] = {}
    explained: dict[str, float] = {}
    error = torch.zeros(len(moments.losses), dtype=torch.float64)
    for name, reader in moments.readers.items():
        gone = gone_features(reader, groups, keep)
        if not bool(gone.any()):
            continue
        layout = reader.layout
        matrix = layout.matrix(values[name].detach()).double()
        gram = moments.grams[name].double()
        first = 0 if reader.constant is not None else 1
        stays = torch.cat([torch.tensor([True]), ~gone])
        stays[0] = first == 0
        kept = stays.nonzero().flatten()
        removed = 1 + gone.nonzero().flatten()
        system = regular(gram, ridge)[:, kept][:, :, kept]
        lost = matrix[:, :, gone]
        cross = lost @ gram[:, removed][:, :, kept]
        change = _solved(system, cross.transpose(1, 2)).transpose(1, 2)
        before = ((lost @ gram[:, removed][:, :, removed]) * lost).sum(dim=2)
        left = before - 2 * (change * cross).sum(dim=2)
        left = left + ((change @ gram[:, kept][:, :, kept]) * change).sum(dim=2)
        left = left.clamp(min=0)
        explained[name] = float(1 - left.sum() / before.sum().clamp(min=1e-30))
        error += (moments.fisher[name] * left).sum(dim=(1, 2)) / 2
        matrix[:, :, ~gone] += change[:, :, 1 - first :]
        weights[name] = layout.weight(matrix).to(values[name].dtype)
        if reader.constant is not None:
            kind, where = reader.constant
            constant = change[:, :, 0].reshape(values[where].shape).to(values[where].dtype)
            weights[where] = values[where].detach() + (constant if kind == "bias" else -constant)
    return Compensation(weights, explained, error)


@torch.no_grad()
def compensated(network: MultiTaskNetwork, weights: Mapping[str, Tensor]) -> MultiTaskNetwork:
    """A copy with these weights in place of its own."""
    found = copy.deepcopy(network)
    values = {**dict(found.named_parameters()), **dict(found.named_buffers())}
    for name, value in weights.items():
        values[name].copy_(value)
    return found
