"""Functions of torch that its exporter refuses or writes wrongly, computed by ones that it writes.

While a network is traced these calls are answered by an equal form of plain operators that ONNX
Runtime, OpenVINO, TVM and TensorRT all take (``portable_layers``, ``portable_pooling`` and
``portable_resize`` hold the forms). All sizes are static in an export, so sizes and weights of the
forms are constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgemtl.exporting import portable_layers, portable_pooling, portable_resize
from edgemtl.exporting.portable_sizes import sizes
from edgemtl.models.user_code import here, module_paths

#: answers a call, or says that torch's own form is fine (NotImplemented)
Form = Callable[..., Any]


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Grouped-query attention: every head of keys and values is read by several of queries."""
    if not enable_gqa:
        return NotImplemented
    heads = sizes(query)[-3]
    return F.scaled_dot_product_attention(
        query,
        _repeated(key, heads),
        _repeated(value, heads),
        attn_mask,
        dropout_p,
        is_causal,
        scale=scale,
    )


def _repeated(value: Tensor, heads: int) -> Tensor:
    """(..., G, L, E) -> (..., heads, L, E), each repeated ``heads / G`` times in a row."""
    *lead, groups, length, width = sizes(value)
    if groups == heads:
        return value
    wide = value.unsqueeze(-3).expand(*lead, groups, heads // groups, length, width)
    return wide.reshape(*lead, heads, length, width)


#: torch function -> its form
FORMS: Mapping[Any, Form] = {
    F.scaled_dot_product_attention: _attention,
    F.avg_pool2d: portable_pooling.average,
    F.avg_pool3d: portable_pooling.average,
    F.adaptive_avg_pool2d: portable_resize.adaptive_average,
    F.adaptive_max_pool2d: portable_pooling.adaptive_largest,
    F.max_pool2d_with_indices: portable_pooling.largest_with_places,
    F.max_unpool1d: portable_pooling.unpooled,
    F.max_unpool2d: portable_pooling.unpooled,
    F.max_unpool3d: portable_pooling.unpooled,
    F.interpolate: portable_resize.interpolated,
    F.rms_norm: portable_layers.root_mean_square,
    torch.rms_norm: portable_layers.root_mean_square,
    torch.channel_shuffle: portable_layers.shuffled,
    F.fold: portable_layers.folded,
    torch.linspace: portable_layers.spaced,
}


#: methods by which Python decides
_DECIDING = frozenset(
    ("__bool__", "__int__", "__index__", "__float__", "__len__", "__iter__", "item")
)


class PortableForms(TorchFunctionMode):
    """While active, calls are answered by their portable form where they have one.

    Args:
        network: that runs.

    Attributes:
        decided: (file, line) where a tensor, which a size is too while tracing, became a number.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.decided: set[tuple[str, int]] = set()
        self._paths = module_paths(network)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer a call of a torch function."""
        named = dict(kwargs or {})
        if getattr(func, "__name__", "") in _DECIDING:
            place = here(self._paths)
            self.decided.add((place.file, place.line))
        form = FORMS.get(func) if _hashable(func) else None
        if form is not None:
            answer = form(*args, **named)
            if answer is not NotImplemented:
                return answer
        return func(*args, **named)


def _hashable(func: Any) -> bool:
    try:
        hash(func)
    except TypeError:
        return False
    return True
