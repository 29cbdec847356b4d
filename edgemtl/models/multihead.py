"""Multi-head attention that has lost heads.

torch's own layer takes the width inside for the width of what comes in, so that it can lose a head
only together with a share of every token. This one keeps its names and weights and reads the
widths off them.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class NarrowMultihead(nn.MultiheadAttention):
    """nn.MultiheadAttention whose heads may be fewer than its embedding has room for.

    Made by :func:`free_heads` out of a layer that exists. Answers what the layer answers while no
    head is missing.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention: (B, N, E) or (N, B, E) tensors, or (N, E) for one sequence."""
        single = query.dim() == 2
        if single:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        q, k, v = (self._heads(t) for t in self._projected(query, key, value))
        mask = self._mask(q, k, key_padding_mask, attn_mask, is_causal)
        weights = None
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = (q * (q.shape[-1] ** -0.5)) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(weights, dropout) @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights.squeeze(0) if single else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if single:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1)
        return out, weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        bias = self.in_proj_bias
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        packed: Tensor | None = self.in_proj_weight
        weights = (
            (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            if packed is None
            else packed.chunk(3)
        )
        inputs = (query, key, value)
        return tuple(F.linear(t, w, b) for t, w, b in zip(inputs, weights, biases, strict=True))

    def _heads(self, tokens: Tensor) -> Tensor:
        """(B, N, heads x width) to (B, heads, N, width)."""
        batch, count = tokens.shape[:2]
        return tokens.reshape(batch, count, self.num_heads, -1).transpose(1, 2)

    def _mask(
        self,
        query: Tensor,
        key: Tensor,
        padding: Tensor | None,
        mask: Tensor | None,
        causal: bool,
    ) -> Tensor | None:
        """Both masks as numbers to add, (B or 1, heads or 1, N, M); None without any."""
        batch, heads, count, _ = query.shape
        total: Tensor | None = None
        if mask is None and causal:
            mask = query.new_ones(count, key.shape[-2]).tril().logical_not()
        if mask is not None:
            total = _added(mask, query)
            shape = (batch, heads, count, -1) if mask.dim() == 3 else (1, 1, count, -1)
            total = total.reshape(shape)
        if padding is not None:
            empty = _added(padding, query).reshape(-1, 1, 1, key.shape[-2])
            total = empty if total is None else total + empty
        return total


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if not mask.is_floating_point():
        return like.new_zeros(mask.shape).masked_fill(mask.bool(), float("-inf"))
    return mask.to(like.dtype)


def free_heads(module: nn.Module) -> None:
    """Let a layer of torch's own kind lose heads, in place; any other module stays as it is.

    Layers with keys of their own (``bias_k``, ``add_zero_attn``) stay as they are too.
    """
    if type(module) is not nn.MultiheadAttention:
        return
    if module.bias_k is None and module.bias_v is None and not module.add_zero_attn:
        module.__class__ = NarrowMultihead
        # The fused path of an encoder layer around it believes in equal widths.
        module._qkv_same_embed_dim = False


def heads_are_missing(module: nn.Module) -> bool:
    """Whether the weights of a layer of torch's own kind no longer fit its idea of its width."""
    if type(module) is not nn.MultiheadAttention:
        return False
    width = module.embed_dim
    weight = module.out_proj.weight
    inside = module.in_proj_weight
    return weight.shape != (width, width) or (inside is not None and inside.shape[1] != width)
