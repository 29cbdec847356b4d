"""What each of torch's operators does to the labels of channels (see tracer.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgemtl.compress.channels import contraction_rules as products
from edgemtl.compress.channels import norm_rules as norms
from edgemtl.compress.channels import shape_rules as moves
from edgemtl.compress.channels import spatial_rules as places
from edgemtl.compress.channels.tracer import Tracer
from edgemtl.models.nested import tensors_of

Args = tuple[Any, ...]
Rule = Callable[[Tracer, Any, Args, Any], None]

#: data movement that runs on labels as it runs on values
_MOVES = {
    "permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "alias", "detach", "flip",
    "pixel_shuffle", "pixel_unshuffle", "repeat", "unsqueeze_", "squeeze_", "transpose_", "t_",
    "tile", "movedim", "swapaxes", "narrow_copy",
}  # fmt: skip
_VIEWS = {"view", "_unsafe_view", "reshape"}
#: the same elements in the same places (and, beside torch's tag, what acts element by element)
_ELEMENTWISE = {
    "hardswish", "hardswish_", "_prelu_kernel", "copy_", "copy", "native_dropout",
    "rrelu_with_noise", "bernoulli_", "masked_fill", "masked_fill_", "fill_", "zero_",
}  # fmt: skip
_COPIES = {"clone", "contiguous", "_to_copy", "lift_fresh"}
#: each channel for itself; places and counts of the other axes may change
_SPATIAL = {
    "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d",
    "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "grid_sampler_2d",
    "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    "avg_pool1d", "max_pool1d", "upsample_nearest1d", "upsample_linear1d", "mkldnn_max_pool2d",
    "avg_pool3d", "max_pool3d_with_indices", "upsample_nearest3d", "upsample_trilinear3d",
    "_adaptive_avg_pool3d", "adaptive_max_pool3d", "grid_sampler_3d",
}  # fmt: skip
_PADS = {
    "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
}  # fmt: skip
_REDUCTIONS = {
    "mean", "sum", "amax", "amin", "var", "std", "any", "all", "max", "min", "argmax", "argmin",
    "logsumexp", "prod", "var_mean",
}  # fmt: skip
_ORDERED = {"sort", "topk", "cumsum", "cumprod", "argsort"}
_SOFTMAXES = {"_softmax", "_log_softmax", "_safe_softmax"}
_ATTENTION = {
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math",
}  # fmt: skip
_RULES: dict[str, Rule] = {
    "select": moves.select_rule,
    "unbind": moves.unbind_rule,
    "slice": moves.slice_rule,
    "split": moves.split_rule,
    "split_with_sizes": moves.split_rule,
    "cat": moves.cat_rule,
    "stack": moves.stack_rule,
    "index": moves.index_rule,
    "index_select": moves.index_rule,
    "roll": moves.roll_rule,
    "unsafe_split": moves.split_rule,
    "unsafe_split_with_sizes": moves.split_rule,
    "glu": moves.glu_rule,
    "channel_shuffle": moves.shuffle_rule,
    "native_channel_shuffle": moves.shuffle_rule,
    "gather": moves.gather_rule,
    "index_put": moves.index_put_rule,
    "index_put_": moves.index_put_rule,
    "index_add": moves.index_add_rule,
    "index_add_": moves.index_add_rule,
    "index_copy": moves.index_add_rule,
    "embedding": moves.embedding_rule,
    "unfold": moves.windows_rule,
    "max_unpool2d": places.unpool_rule,
    "max_unpool3d": places.unpool_rule,
    "im2col": places.unfold_rule,
    "col2im": places.fold_rule,
    "native_batch_norm": norms.batch_norm_rule,
    "_native_batch_norm_legit": norms.batch_norm_rule,
    "_native_batch_norm_legit_no_training": norms.batch_norm_rule,
    "_batch_norm_with_update": norms.batch_norm_rule,
    "_batch_norm_no_update": norms.batch_norm_rule,
    "native_group_norm": norms.group_norm_rule,
    "native_layer_norm": norms.layer_norm_rule,
    "_fused_rms_norm": norms.layer_norm_rule,
    "_weight_norm_interface": norms.weight_norm_rule,
    "mm": products.mm_rule,
    "addmm": products.mm_rule,
    "bmm": products.bmm_rule,
    "baddbmm": products.bmm_rule,
    "convolution": products.convolution_rule,
}


def apply_rule(tracer: Tracer, func: Any, args: Args, named: dict[str, Any], result: Any) -> None:
    """Give the result of one operator its labels."""
    name = func._schema.name.removeprefix("aten::")
    everything = (*args, *named.values())
    rule = _RULES.get(name)
    if rule is not None:
        rule(tracer, func, args, result)
    elif name in _VIEWS:
        moves.move(tracer, lambda labels: labels.reshape(args[1]), args[0], result, counts=True)
    elif name in _MOVES:
        grows = name.startswith("pixel") or name in ("repeat", "expand")
        run = getattr(torch.ops.aten, name.rstrip("_"))  # the labels themselves stay as they are
        moves.move(tracer, lambda labels: run(labels, *args[1:]), args[0], result, counts=grows)
    elif name in _COPIES:
        tracer.attach(result, tracer.fields(args[0]))
    elif name in _ELEMENTWISE or torch.Tag.pointwise in func.tags:
        moves.elementwise(tracer, everything, result)
    elif name in _SPATIAL:
        places.spatial(tracer, everything, result)
    elif name in _PADS:
        places.pad_rule(tracer, func, args, result)
    elif name in _REDUCTIONS:
        moves.reduction(tracer, args, named, result)
    elif name == "linalg_vector_norm":
        moves.reduction(tracer, (args[0], *args[2:]), named, result)
    elif name in _ORDERED:
        moves.ordered(tracer, args, named, result)
    elif name in _SOFTMAXES:
        moves.blocked(tracer, args[0], [args[1]], result, "share one softmax")
    elif name in _ATTENTION:
        products.attention(tracer, everything, result)
    else:
        for tensor in tensors_of(everything):
            why = f"meet the operator '{name}', which is not known to keep channels apart"
            tracer.fix(tracer.fields(tensor), why)
