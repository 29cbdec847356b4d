"""Experts: E small MLPs of which every token uses K, in equal ways of computing them.

Which way is chosen by ``lowering``; all read the routing's indices (a weight may underflow to zero,
an index cannot), and all agree to rounding.

- ``gather`` (default): expert by expert, gather the tokens routed to it, compute, add the weighted
  answers back. K / E of the dense work. Shapes inside depend on the data.
- ``sorted``: the same, but all answers are added in one step at the end, which is faster where each
  addition copies the sum (ONNX Runtime; exporting/experts.py writes both).
- ``static``: every expert computes a fixed number of tokens, its capacity, which may be another one
  for each. Shapes are static. A token that finds an expert's queue full goes without that expert;
  how often that happened is counted and returned, so that it cannot stay unseen. Several gates may
  share the queues (:meth:`Experts.forward`).
- ``dense``: every expert computes every token. The reference.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]

from edgemtl.models.experts import ExpertLayer, Lowering
from edgemtl.models.m3vit.gates import Routing

#: tokens up to which ``static`` is exact where a runtime computes in half precision, which counts
#: them exactly so far
MOST_TOGETHER = 2048


class Experts(ExpertLayer):
    """E times Linear(dim -> hidden), GELU, Linear(hidden -> dim), all with biases.

    Args:
        experts: E.
        dim: width of a token.
        hidden: width inside an expert.
        lowering: one of :data:`LOWERINGS`.
        capacity: tokens per expert for ``static``, one number for all or one per expert that is
            there; None for all tokens, which cannot overflow. More than there are tokens is as many
            as there are.
        kept: which of the E experts are there (``keeping_experts``), ascending; all by default. The
            gate still chooses among all E.
    """

    def __init__(
        self,
        experts: int,
        dim: int,
        hidden: int,
        lowering: Lowering = "gather",
        capacity: int | Sequence[int] | None = None,
        kept: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.lowering = lowering
        self.capacity = capacity
        self.choices = experts
        self.name_kept(range(experts) if kept is None else kept)
        experts = self.count
        self.weight_in = nn.Parameter(torch.empty(experts, hidden, dim))
        self.bias_in = nn.Parameter(torch.empty(experts, hidden))
        self.weight_out = nn.Parameter(torch.empty(experts, dim, hidden))
        self.bias_out = nn.Parameter(torch.empty(experts, dim))
        # as nn.Linear starts
        for weight, bias in ((self.weight_in, self.bias_in), (self.weight_out, self.bias_out)):
            bound = 1 / math.sqrt(weight.shape[2])
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    @property
    def count(self) -> int:
        """How many experts are there."""
        return len(self.kept)

    def name_kept(self, numbers: Sequence[int]) -> None:
        """Say which of the E experts those are whose weights are there.

        Raises:
            ValueError: other numbers than 0 to E - 1, ascending.
        """
        self.kept = tuple(numbers)
        if list(self.kept) != sorted(set(self.kept) & set(range(self.choices))) or not self.kept:
            raise ValueError(f"{list(numbers)} are not experts out of {self.choices}, ascending")
        #: (E,) position of an expert among those kept, one past the last where it is not there
        self.positions: Tensor
        positions = torch.full((self.choices,), len(self.kept))
        positions[list(self.kept)] = torch.arange(len(self.kept))
        self.register_buffer("positions", positions, persistent=False)

    def forward(
        self, tokens: Sequence[Tensor], routings: Sequence[Routing]
    ) -> list[tuple[Tensor, Tensor]]:
        """Weighted sums of the chosen experts' answers, for one gate or several.

        With the lowering ``static`` all tokens wait in the same queues. One product per expert is
        then enough for all, and its queue varies less from picture to picture than its parts do, so
        that it needs less room to spare.

        Args:
            tokens: (T, dim) per routing; or a single one that all routings are of. A static expert
                then computes a token once, however many routings choose it.
            routings: of these tokens.

        Returns:
            per routing (T, dim) answers, and (T,) float: how many of a token's K experts had no
            room for it (lowering ``static``) or are not there. These add nothing to its answer.

        Raises:
            ValueError: neither one set of tokens nor one per routing, or capacities for another
                number of experts.
        """
        if len(tokens) not in (1, len(routings)):
            raise ValueError(f"{len(routings)} routings of {len(tokens)} sets of tokens")
        if self.lowering == "static":
            return self._static(tokens, routings)
        each = for_each(tokens, len(routings))
        return [self._alone(own, routing) for own, routing in zip(each, routings, strict=True)]

    def _alone(self, tokens: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
        """As :meth:`forward` for one routing; every lowering but ``static``."""
        dropped = torch.zeros_like(tokens[:, 0])
        if self.count < self.choices:
            routing, absent = self._among_kept(routing)
            dropped = absent.to(tokens.dtype).sum(dim=1)
        if tokens.device.type == "meta":
            return self._counted(tokens, routing), dropped
        if self.lowering == "dense":
            return self._dense(tokens, routing), dropped
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            traced: Tensor = torch.ops.edgemtl.routed_experts(
                tokens,
                routing.experts,
                routing.weights,
                self.weight_in,
                self.bias_in,
                self.weight_out,
                self.bias_out,
                self.lowering == "sorted",
            )
            return traced, dropped
        return self._gather(tokens, routing), dropped

    def _static(
        self, tokens: Sequence[Tensor], routings: Sequence[Routing]
    ) -> list[tuple[Tensor, Tensor]]:
        count, own = _rows(tokens[0]), len(tokens) == len(routings)
        lengths = self._lengths(count * len(tokens))
        whole = self.count == self.choices
        among = routings if whole else [self._among_kept(routing)[0] for routing in routings]
        routed = [self._chosen(routing).sum(dim=1) for routing in among]
        wanted = torch.cat(routed) if own else torch.stack(routed).amax(dim=0)
        queued = torch.cat(list(tokens)).index_select(0, _queues(wanted, lengths))
        answers = self._each(queued, lengths)
        starts = [sum(lengths[:expert]) for expert in range(self.count)]
        begin, room = (_table(values, tokens[0].device) for values in (starts, lengths))
        # All choices are looked up at once. (And not each routing's in its slice of the places,
        # which one runtime takes for a reason to leave the slice out, and then refuses the graph.)
        side = 0 if own else 1
        chosen = torch.cat([routing.experts for routing in among], dim=side)
        experts = chosen if whole else chosen.clamp(max=self.count - 1)
        place = (wanted.cumsum(dim=0) - 1).gather(1, experts).to(torch.int64)
        most = room[experts]
        fits = place < most if whole else (place < most) & (chosen < self.count)
        slots = begin[experts] + torch.minimum(place, most - 1).clamp(min=0)
        parts = (
            values.chunk(len(routings), dim=side) for values in (slots, fits.to(answers.dtype))
        )
        found = []
        for routing, rows, there in zip(among, *parts, strict=True):
            picked = answers.index_select(0, rows.reshape(-1)).view(count, -1, answers.shape[1])
            weights = (routing.weights * there).unsqueeze(-1)
            found.append(((picked * weights).sum(dim=1), (1 - there).sum(dim=1)))
        return found

    def _lengths(self, tokens: int) -> list[int]:
        """Queue of each expert that is there, where this many tokens may wait."""
        if self.capacity is None or isinstance(self.capacity, int):
            each = [self.capacity] * self.count
        else:
            each = list(self.capacity)
        if len(each) != self.count:
            raise ValueError(f"{len(each)} capacities for {self.count} experts")
        return [tokens if length is None else min(length, tokens) for length in each]

    def _among_kept(self, routing: Routing) -> tuple[Routing, Tensor]:
        """The routing in positions among those kept, and (T, K) bool: the choice is not there.

        A choice that is not there has the position one past the last and no weight.
        """
        positions = self.positions[routing.experts]
        absent = positions == self.count
        weights = routing.weights * (~absent).to(routing.weights.dtype)
        return Routing(positions, weights, routing.importance, routing.load), absent

    def _one(self, expert: int, tokens: Tensor) -> Tensor:
        hidden = F.gelu(F.linear(tokens, self.weight_in[expert], self.bias_in[expert]))
        return F.linear(hidden, self.weight_out[expert], self.bias_out[expert])

    def _each(self, queued: Tensor, lengths: Sequence[int]) -> Tensor:
        """Answers to (sum of lengths, dim), expert after expert.

        A product of stacked weights would need queues of one length, and is one that no runtime
        packs and that cannot be rounded channel by channel. Weights are taken apart by flattening
        and splitting, which exporting/experts.py knows.
        """
        weights = (self.weight_in, self.bias_in, self.weight_out, self.bias_out)
        parts = [weight.flatten(0, 1).chunk(self.count) for weight in weights]
        queues = queued.split_with_sizes(list(lengths))
        answers = []
        for own, w_in, b_in, w_out, b_out in zip(queues, *parts, strict=True):
            answers.append(F.linear(F.gelu(F.linear(own, w_in, b_in)), w_out, b_out))
        return torch.cat(answers)

    def _chosen(self, routing: Routing) -> Tensor:
        """(T, K, E) float, 1 where a token's k-th choice is this expert."""
        numbers = torch.arange(self.count, device=routing.experts.device)
        return (routing.experts.unsqueeze(-1) == numbers).to(routing.weights.dtype)

    def _dense(self, tokens: Tensor, routing: Routing) -> Tensor:
        weights = (self._chosen(routing) * routing.weights.unsqueeze(-1)).sum(dim=1)
        total = torch.zeros_like(tokens)
        for expert in range(self.count):
            total = total + weights[:, expert : expert + 1] * self._one(expert, tokens)
        return total

    def _gather(self, tokens: Tensor, routing: Routing) -> Tensor:
        chosen = self._chosen(routing)
        weights = (chosen * routing.weights.unsqueeze(-1)).sum(dim=1)
        routed = chosen.sum(dim=1).t()
        total = torch.zeros_like(tokens)
        for expert in range(self.count):
            rows = routed[expert].nonzero().squeeze(1)
            if rows.numel() == 0:
                continue
            answers = self._one(expert, tokens.index_select(0, rows))
            answers = answers * weights[:, expert].index_select(0, rows).unsqueeze(1)
            # under autocast the experts may answer in fewer bits than the tokens have
            total = total.index_put((rows,), answers.to(total.dtype), accumulate=True)
        return total

    def _counted(self, tokens: Tensor, routing: Routing) -> Tensor:
        """Shapes and work without data: K experts per token, or all of them if dense."""
        each = self.count if self.lowering == "dense" else routing.experts.shape[1]
        total = torch.zeros_like(tokens)
        for expert in range(each):
            total = total + self._one(expert, tokens)
        return total


def for_each(values: Sequence[Tensor], count: int) -> Sequence[Tensor]:
    """One tensor per gate, where ``values`` is that or a single one that all gates read."""
    return values if len(values) == count else [values[0]] * count


def _rows(tokens: Tensor) -> int:
    """How many tokens there are, as a number.

    A trace warns of that, since it could not follow a change; what is traced here has one size.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        return int(tokens.shape[0])


def _table(values: Sequence[int], device: torch.device) -> Tensor:
    """(len(values),) int64. (A trace warns of ``torch.tensor``.)"""
    return torch.cat([torch.full((1,), value, device=device) for value in values])


def _queues(routed: Tensor, lengths: Sequence[int]) -> Tensor:
    """Tokens that wait, expert after expert.

    Args:
        routed: (T, E) 1 where a token wants an expert.
        lengths: of each expert's queue, at most T.

    Returns:
        (sum of lengths,) int64 rows: of every expert the first tokens that want it; where these are
        fewer than its length, others, whose answers nobody picks up.
    """
    count, longest = _rows(routed), max(lengths)
    # Counting down makes topk find the first ones. (Exact up to MOST_TOGETHER tokens in half
    # precision and 16 million in float32.)
    order = torch.arange(count, 0, -1, device=routed.device, dtype=routed.dtype).unsqueeze(1)
    first = (routed * order).t().topk(longest, dim=1).indices.reshape(-1)
    if all(length == longest for length in lengths):
        return first
    ranges = [
        torch.arange(expert * longest, expert * longest + length, device=routed.device)
        for expert, length in enumerate(lengths)
    ]
    return first.index_select(0, torch.cat(ranges))


@torch.library.custom_op("edgemtl::routed_experts", mutates_args=())
def _routed_experts(
    tokens: Tensor,
    experts: Tensor,
    weights: Tensor,
    weight_in: Tensor,
    bias_in: Tensor,
    weight_out: Tensor,
    bias_out: Tensor,
    at_once: bool,
) -> Tensor:
    """What a trace records instead of the data-dependent steps; written by exporting/experts.py."""
    layer = Experts(weight_in.shape[0], weight_in.shape[2], weight_in.shape[1])
    state = (weight_in, bias_in, weight_out, bias_out)
    names = ("weight_in", "bias_in", "weight_out", "bias_out")
    layer.load_state_dict(dict(zip(names, state, strict=True)))
    with torch.no_grad():
        return layer._gather(tokens, Routing(experts, weights))


@_routed_experts.register_fake
def _routed_experts_shape(tokens: Tensor, *rest: object) -> Tensor:
    return tokens.new_empty(tokens.shape)
