"""What the rest of the product asks of a network with mixtures of experts, whatever its family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from edgemtl.models.base import MultiTaskNetwork

#: how experts are computed and written: gathered rows per expert, added to their tokens one by one
#: or all at once; queues of fixed length; or every expert for every token
Lowering = Literal["gather", "sorted", "static", "dense"]
LOWERINGS: tuple[Lowering, ...] = ("gather", "sorted", "static", "dense")
#: tokens per expert: for all, per layer with experts, or per layer and expert; None for all tokens
Capacity = int | Sequence[int | Sequence[int]] | None
#: advice for a network whose mixture cannot be written sparsely
BUILD_WITH = "build the mixture from edgemtl.models.m3vit.experts.Experts"


@dataclass(frozen=True)
class ExpertUse:
    """How pictures use the experts of a layer.

    Attributes:
        loads: task (or ``shared`` with a single gate) -> (E,) int64 tokens per expert.
        queues: (E,) int64 tokens that wait for each expert where experts are ``static``: of tasks
            that share queues all tokens, in the first layer, where their tokens are the same
            ones, each once; otherwise the most of any task.
    """

    loads: Mapping[str, Tensor]
    queues: Tensor


class ExpertLayer(nn.Module):
    """A layer with experts; an export may choose how it is written.

    Attributes:
        lowering: one of :data:`LOWERINGS`.
    """

    lowering: Lowering


class ExpertNetwork(MultiTaskNetwork):
    """A network some of whose layers choose experts for every token.

    Where experts can be missing or full it has one more output, ``experts.overflow`` (B, 1), see
    :mod:`edgemtl.models.diagnostics`.
    """

    @abstractmethod
    def experts_kept(self) -> list[list[int]]:
        """Per layer with experts, the numbers of those that are there; no layer, no entry."""

    @abstractmethod
    def expert_use(self, images: Tensor, tasks: Sequence[str] | None = None) -> list[ExpertUse]:
        """How these pictures, (B, 3, H, W), use the experts, per layer with experts."""

    @abstractmethod
    def keeping_experts(self, kept: Sequence[Sequence[int]]) -> ExpertNetwork:
        """A network that is equal as long as only these experts are chosen.

        Args:
            kept: per layer with experts, numbers of those to keep among all E, ascending.

        Raises:
            ValueError: not one list per layer, an empty one, or an expert that is not there.
        """

    @abstractmethod
    def set_lowering(self, lowering: Lowering, capacity: Capacity = None) -> None:
        """Choose how experts are computed; weights stay.

        Raises:
            ValueError: unknown lowering, or capacities that do not fit the layers.
        """
