"""Multiply-accumulates of torch's operators: the one table that everything counts by.

Torch's own, and what it lacks: attention on processors, recurrent layers as oneDNN runs them,
products with vectors, deformable convolution. Element-wise work, resampling and pooling are not
counted, as is usual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

#: an operator's arguments, and ``out_val`` -> operations; a product and a sum are two
Formula = Callable[..., int]


def _deformable(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *rest: Any, **named: Any
) -> int:
    """A deformable convolution: as the ordinary one of its size."""
    return 2 * weight.numel() * x.shape[0] * x.shape[2] * x.shape[3]


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """softmax(Q K^T) V with (B, heads, N, width) each."""
    scores = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    return 2 * scores * (query.shape[3] + value.shape[3])


def _recurrent(x: Tensor, weight: Tensor, recurrent: Tensor, *_: Any, **__: Any) -> int:
    """One direction of one layer: every step multiplies by both weights. (T, B, I) or (B, T, I)."""
    return 2 * x.shape[0] * x.shape[1] * (weight.numel() + recurrent.numel())


def _matrix_vector(matrix: Tensor, vector: Tensor, *_: Any, **__: Any) -> int:
    return 2 * matrix.numel()


def _added_matrix_vector(_: Tensor, matrix: Tensor, *__: Any, **___: Any) -> int:
    return 2 * matrix.numel()


@cache
def formulas() -> Mapping[Any, Formula]:
    """Operator (without its overload) -> its formula."""
    aten = torch.ops.aten
    return {
        **flop_registry,
        torch.ops.edgemtl.deform_conv2d: _deformable,
        # torch's table has attention for graphics processors only
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten.mkldnn_rnn_layer: _recurrent,
        aten.mv: _matrix_vector,
        aten.dot: _matrix_vector,
        aten.addmv: _added_matrix_vector,
    }


def macs_of(func: Any, args: Any, kwargs: Mapping[str, Any], out: Any) -> int:
    """Multiply-accumulates of one call; 0 for operators that are not counted.

    Args:
        func: the overload that was called.
        args, kwargs: what it was called with.
        out: what it returned.
    """
    formula = formulas().get(getattr(func, "overloadpacket", None))
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out)) // 2
