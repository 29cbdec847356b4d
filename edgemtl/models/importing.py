"""What importers of published files share: unwrapping, and key maps that account for every key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from edgemtl.errors import InputRefused

#: published key -> our key
Names = dict[str, str]


def plain_state(payload: Any) -> dict[str, Tensor]:
    """The flat state dict inside a published file: unwrapped, without ``module.``.

    Files hold it as it is, or under ``state_dict`` or ``model``.

    Raises:
        InputRefused: the file holds something else.
    """
    for key in ("state_dict", "model"):
        if isinstance(payload, Mapping) and isinstance(payload.get(key), Mapping):
            payload = payload[key]
            break
    if not isinstance(payload, Mapping) or not payload:
        raise InputRefused("the file holds no state dict")
    if not all(isinstance(v, Tensor) for v in payload.values()):
        raise InputRefused("the state dict holds something that is no tensor")
    return {str(key).removeprefix("module."): value for key, value in payload.items()}


def rename(
    state: Mapping[str, Tensor], names: Names, dropped: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Apply a key map and account for every key.

    Args:
        state: published state dict.
        names: published key -> our key.
        dropped: prefixes of published keys that have no counterpart.

    Raises:
        InputRefused: a key is missing or unknown.
    """
    # Old files lack the batch counters that newer torch keeps; they carry no knowledge.
    missing = [k for k in names if k not in state and not k.endswith("num_batches_tracked")]
    unknown = [k for k in state if k not in names and not k.startswith(dropped or ("\0",))]
    if missing or unknown:
        first = f"first missing '{missing[0]}'" if missing else f"first unknown '{unknown[0]}'"
        raise InputRefused(
            f"the file does not have this layout: {len(missing)} keys missing, "
            f"{len(unknown)} unknown, {first}",
            hint="is this the right family and preset?",
        )
    return {ours: state[theirs] for theirs, ours in names.items() if theirs in state}
