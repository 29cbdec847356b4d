"""The multiplications of one forward pass, each with the weight that it uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from edgemtl.exporting.operations import macs_of
from edgemtl.models.fast_path import without_fast_path


@dataclass(frozen=True)
class Work:
    """One operator.

    Attributes:
        operator: its name.
        macs: multiply-accumulates over the batch.
        weight: the parameter it multiplies with; None where it has none of its own (attention).
    """

    operator: str
    macs: int
    weight: str | None


@torch.no_grad()
def count_work(network: nn.Module, images: Tensor) -> tuple[Work, ...]:
    """Every operator of a pass that multiplies, in the order of computation.

    Any network that runs can be counted, functions of the user's own included: operators are
    watched, not modules. A weight that is computed from parameters (reshaped, normalised) counts as
    the first of them.

    Args:
        network: in eval mode.
        images: (B, 3, H, W).
    """
    with without_fast_path(), _Watch(network) as watch:
        network(images)
    return tuple(watch.found)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what is made of parameters alone, and counts what multiplies with it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Work] = []
        self._names = {
            parameter.untyped_storage().data_ptr(): name
            for name, parameter in network.named_parameters()
            if parameter.numel() and parameter.dim() > 1
        }
        #: tensor -> the parameter that it was made of
        self._origin = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        given = [leaf for leaf in tree_leaves((args, named)) if isinstance(leaf, Tensor)]
        names = [self._name(tensor) for tensor in given]
        if given and all(names):
            for made in tree_leaves(result):
                if isinstance(made, Tensor):
                    self._origin[made] = names[0]
        if macs := macs_of(func, args, named, result):
            weights = [
                name for tensor, name in zip(given, names, strict=True) if name and tensor.dim() > 1
            ]
            self.found.append(Work(str(func), macs, weights[0] if weights else None))
        return result

    def _name(self, tensor: Tensor) -> str | None:
        known: str | None = self._origin.get(tensor)  # type: ignore[no-untyped-call]
        if known is not None or tensor.is_meta:
            return known
        return self._names.get(tensor.untyped_storage().data_ptr())
