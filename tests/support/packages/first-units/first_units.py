"""A pruning method: of every group of channels the first half stays, whatever the channels do."""

from __future__ import annotations

import torch

from edgemtl.compress.context import ChannelSelection, PruneContext


def first_units(context: PruneContext) -> ChannelSelection:
    keep = {}
    for name, widths in context.choices.items():  # widths that the target's vector unit likes
        whole = max(widths)
        kept = min((width for width in widths if width >= whole / 2), default=whole)
        keep[name] = torch.arange(whole) < kept
    return ChannelSelection(keep)
