"""What a network costs at any widths of its channel groups, without building it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.compress.work import Work
from edgemtl.exporting.module_cost import used_parameters
from edgemtl.models.base import MultiTaskNetwork

#: group -> (width,) bool, True for kept; absent groups are whole
Keep = Mapping[str, Tensor]


@dataclass(frozen=True)
class Cost:
    """Cost of one inference.

    Attributes:
        macs: multiply-accumulates for one picture.
        params: parameters.
        latency_ms: on the target, predicted from its table; None without one.
    """

    macs: float
    params: float
    latency_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"macs": self.macs, "params": self.params, "latency_ms": self.latency_ms}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Cost:
        """Parse :meth:`to_dict`."""
        latency = data.get("latency_ms")
        return Cost(
            float(data["macs"]),
            float(data["params"]),
            None if latency is None else float(latency),
        )


@dataclass(frozen=True)
class Goals:
    """Shares of the dense network's cost to come down to; None where there is no such goal.

    Attributes:
        macs: kept share of multiply-accumulates, in 0..1.
        params: kept share of parameters.
        latency: share of the dense latency.
    """

    macs: float | None = None
    params: float | None = None
    latency: float | None = None

    @property
    def given(self) -> bool:
        """Whether there is any goal."""
        return any(goal is not None for goal in (self.macs, self.params, self.latency))

    def shares(self, cost: Cost, dense: Cost) -> dict[str, tuple[float, float]]:
        """Goal name -> (share now, share wanted), for the goals that are given."""
        found = {}
        if self.macs is not None:
            found["macs"] = (cost.macs / dense.macs, self.macs)
        if self.params is not None:
            found["params"] = (cost.params / dense.params, self.params)
        if self.latency is not None and cost.latency_ms is not None and dense.latency_ms:
            found["latency"] = (cost.latency_ms / dense.latency_ms, self.latency)
        return found

    def reached(self, cost: Cost, dense: Cost) -> bool:
        """Whether all goals are; False when none is given."""
        shares = self.shares(cost, dense)
        return bool(shares) and all(now <= wanted for now, wanted in shares.values())

    def saving(self, before: Cost, after: Cost, dense: Cost) -> float:
        """How much of the way to the goals that are still missed a step goes, as a share.

        Without goals the saved share of latency where it is known, else of multiply-accumulates.
        """
        if not self.given:
            if before.latency_ms is not None and after.latency_ms is not None:
                return (before.latency_ms - after.latency_ms) / (dense.latency_ms or 1.0)
            return (before.macs - after.macs) / dense.macs
        saved = 0.0
        then = self.shares(after, dense)
        for name, (now, wanted) in self.shares(before, dense).items():
            if now > wanted:
                saved += (now - then[name][0]) / (1 - wanted)
        return saved


@dataclass(frozen=True)
class _Parameter:
    """How one parameter's shape follows the groups.

    Attributes:
        shape: as it is.
        macs: multiply-accumulates per picture that each of its elements takes part in.
        shrink: per dimension: group -> elements lost per channel removed.
    """

    shape: tuple[int, ...]
    macs: float
    shrink: tuple[dict[str, float], ...]

    def size(self, removed: Mapping[str, Any]) -> Any:
        """Elements left; ``removed`` as in :meth:`CostModel.macs`."""
        size: Any = 1.0
        for length, shrink in zip(self.shape, self.shrink, strict=True):
            lost = sum(rate * removed.get(group, 0) for group, rate in shrink.items())
            size = size * (length - lost)
        return size


class CostModel:
    """Cost as a function of the widths.

    Every dimension of every weight is a sum of group widths (a concatenation has several), and the
    work of a layer is its weight's size times its positions. Counted is what the outputs depend on,
    as ``inspect`` counts it; a head that only training computes is not.

    Args:
        network: the network.
        groups: its groups.
        work: of one forward pass, for how often each weight is used.
        batch: pictures in that pass.
        products: multiply-accumulates per picture of products that read no weight, by the weight
            that writes the channels they go with (attention with its heads; see
            :attr:`edgemtl.compress.channels.discovery.Discovery.products`).
    """

    def __init__(
        self,
        network: MultiTaskNetwork,
        groups: Sequence[ChannelGroup],
        work: Sequence[Work],
        batch: int,
        products: Mapping[str, float] | None = None,
    ) -> None:
        named = dict(network.named_parameters())
        macs = dict.fromkeys(named, 0.0)
        self._rest = 0.0
        for one in work:
            if one.weight is None:
                self._rest += one.macs / batch
            else:
                macs[one.weight] += one.macs / batch / named[one.weight].numel()
        shrink: dict[str, list[dict[str, float]]] = {
            name: [{} for _ in p.shape] for name, p in named.items()
        }
        for group in groups:
            for member in group.members:
                if member.tensor in shrink:
                    lost = shrink[member.tensor][member.dim]
                    lost[group.name] = lost.get(group.name, 0.0) + member.per_unit
        used = used_parameters(network)
        self._parameters = [
            _Parameter(tuple(p.shape), macs[name], tuple(shrink[name]))
            for name, p in named.items()
            if name in used
        ]
        self._products = [
            _Parameter(named[name].shape[:1], value / named[name].shape[0], (shrink[name][0],))
            for name, value in (products or {}).items()
        ]
        self._rest -= sum((products or {}).values())
        #: adds the latency of given widths, when there is a table
        self.latency: Callable[[Keep], float] | None = None

    def of(self, keep: Keep) -> Cost:
        """Cost with these masks."""
        removed = {name: int((~mask).sum()) for name, mask in keep.items()}
        macs, params = self.sums(removed)
        return Cost(macs, params, None if self.latency is None else self.latency(keep))

    def macs(self, removed: Mapping[str, Any]) -> Any:
        """Multiply-accumulates when so many units of each group are gone.

        Args:
            removed: group -> number, or an array with one number per picture.
        """
        return self.sums(removed)[0]

    def sums(self, removed: Mapping[str, Any]) -> tuple[Any, Any]:
        """Multiply-accumulates and parameters; arguments as for :meth:`macs`."""
        macs: Any = self._rest
        params: Any = 0.0
        for parameter in self._parameters:
            size = parameter.size(removed)
            params = params + size
            macs = macs + size * parameter.macs
        for product in self._products:
            macs = macs + product.size(removed) * product.macs
        return macs, params
