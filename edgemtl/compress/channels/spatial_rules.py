"""Rules for operators that treat each channel of a picture for itself (see rules.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgemtl.compress.channels.labels import ChannelMap, ChannelMaps, along, bind, field, merge
from edgemtl.compress.channels.shape_rules import Args, first_of, fit
from edgemtl.compress.channels.tracer import Tracer
from edgemtl.models.nested import tensors_of


def channelwise(tracer: Tracer, source: Tensor) -> ChannelMaps:
    """ChannelMaps of (B, C, ...) that vary along axis 1 alone.

    Where a label varies over places too (behind a pixel shuffle), the places of a channel belong
    together.
    """
    made = []
    for item in tracer.fields(source):
        if 1 not in item.axes:
            tracer.atoms.fix(item.core(), "lie where a picture's height and width are expected")
            continue
        core = np.moveaxis(item.core(), 1, 0)
        channels = core.reshape(core.shape[0], -1)
        tracer.atoms.unite(channels, channels[:, :1])
        made.append(ChannelMap(along(channels[:, 0], source.shape, 1)))
    return tuple(made)


def spatial(tracer: Tracer, values: Sequence[Any], result: Any) -> None:
    """Places may change in number, channels may not; what else goes in (a grid) has no channels."""
    target, (source, *others) = first_of(result), tensors_of(values)
    for tensor in others:
        tracer.fix(tracer.fields(tensor), "say where to look up values")
    fields = channelwise(tracer, source)
    if source.dim() < 3 or target.shape[:2] != source.shape[:2]:
        tracer.fix(fields, "are pooled, or resized, with each other")
        return
    for tensor in tensors_of([result]):  # values, and their places where they are asked for
        tracer.attach(tensor, fit(tensor, fields))


def pad_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """Padding: what is padded cannot shrink, the other axes are as they were."""
    source, pads = args[0], args[1]
    last = source.dim() - 1
    padded = {last - place // 2 for place, count in enumerate(pads) if count}
    why = "are padded by a number"
    made = [bind(tracer.atoms, item, padded, why) for item in tracer.fields(source)]
    tracer.attach(result, fit(result, [item for item in made if item is not None]))


def unpool_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """Values go back to where a maximum was: channels of values and of places are the same."""
    operands = [(tensor.shape, channelwise(tracer, tensor)) for tensor in args[:2]]
    tracer.attach(result, fit(result, merge(tracer.atoms, operands)))


def unfold_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """``F.unfold``: (B, C, H, W) to (B, C k, L), the places of the kernel side by side."""
    source, places = args[0], args[1][0] * args[1][1]
    made = []
    for item in channelwise(tracer, source):
        spread = np.repeat(item.core().reshape(-1), places)
        made.append(ChannelMap(along(spread, result.shape, 1)))
        tracer.note_count(spread)
    tracer.attach(result, tuple(made))


def fold_rule(tracer: Tracer, func: Any, args: Args, result: Tensor) -> None:
    """``F.fold``: (B, C k, L) to (B, C, H, W); the k places of a channel belong together."""
    source, places = args[0], args[2][0] * args[2][1]
    made = []
    for item in channelwise(tracer, source):
        channels = item.core().reshape(-1, places)
        tracer.atoms.unite(channels, channels[:, :1])
        kept = field(torch.as_tensor(along(channels[:, 0], result.shape, 1)))
        if kept is not None:
            made.append(kept)
    tracer.attach(result, tuple(made))
