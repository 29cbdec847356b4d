"""Plain values out of JSON that anybody may have written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemtl.errors import InputRefused
from edgemtl.sinks import shown

#: no result file of a run comes near this size
MOST_BYTES = 64 << 20
#: what stands where a file leaves a name out
NAMELESS = "(no name)"
#: a longer integer is no count of anything
_MOST_DIGITS = 18


def read_object(path: Path) -> dict[str, Any]:
    """Parse a JSON object; NaN, infinities and absurd integers become None.

    Raises:
        InputRefused: not readable, too large, not JSON, or not an object.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputRefused(f"larger than {MOST_BYTES >> 20} MiB", where=path.name)
        data = json.loads(
            path.read_text("utf-8"),
            parse_constant=lambda _: None,
            parse_float=lambda digits: _finite(float(digits)),
            parse_int=lambda digits: int(digits) if len(digits) <= _MOST_DIGITS else None,
        )
    except OSError as error:
        raise InputRefused(f"cannot be read: {error.strerror}", where=path.name) from error
    except (ValueError, RecursionError) as error:
        raise InputRefused("is not readable JSON", where=path.name) from error
    if not isinstance(data, dict):
        raise InputRefused("is not a JSON object", where=path.name)
    return data


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def text(data: Mapping[str, Any], key: str) -> str:
    """A text, made fit to print; numbers are written out, anything else is empty."""
    value = data.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return shown(value) if isinstance(value, str) else ""


def number(data: Mapping[str, Any], key: str) -> float | None:
    """A finite number, or None."""
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _finite(float(value))


def integer(data: Mapping[str, Any], key: str) -> int | None:
    """A whole number, or None."""
    value = number(data, key)
    return int(value) if value is not None and value == int(value) else None


def table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object, empty when there is none."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def rows(data: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The objects of a list, empty when there is no list."""
    value = data.get(key)
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def texts(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The texts of a list, or a single text as a list of one."""
    value = data.get(key)
    if isinstance(value, str):
        return (shown(value),)
    return tuple(shown(v) for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def numbers(data: Mapping[str, Any], key: str) -> dict[str, float]:
    """The finite numbers of an object, by their keys."""
    inner = table(data, key)
    found = {shown(name): number(inner, name) for name in inner}
    return {name: value for name, value in found.items() if value is not None}
