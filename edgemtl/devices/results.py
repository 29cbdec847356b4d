"""What a device may answer: a document of the runner, within bounds.

A device is not trusted: a board that was taken over, or merely broken, must not be able to put
escape sequences on a terminal, figures that cannot be into a gate, or gigabytes into memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from edgemtl.devices.runner.errors import (
    INPUT_REFUSED,
    OK,
    STAGE_FAILED,
    UNAVAILABLE,
    UNEXPECTED,
    UNSTABLE,
    USAGE,
    VERIFICATION,
)
from edgemtl.errors import StageFailed
from edgemtl.sinks import cut

#: of the document as text; 200,000 samples take 2 MB
MOST_BYTES = 16 << 20
#: how deep lists and objects of a document lie in one another, and how many values it has
MOST_DEPTH, MOST_VALUES = 16, 500_000
#: longer texts are cut
MOST_CHARACTERS = 500
#: a run that took an hour is not a measurement
LONGEST_MS = 3.6e6
CODES = frozenset(
    {OK, UNEXPECTED, USAGE, INPUT_REFUSED, STAGE_FAILED, UNAVAILABLE, UNSTABLE, VERIFICATION}
)
#: what every summary of latencies has
_FIGURES = ("p50_ms", "p90_ms", "p99_ms")


def parse_results(text: bytes, where: str) -> dict[str, Any] | None:
    """A runner's document, None where there is none.

    Args:
        text: JSON in UTF-8.
        where: it came from, for messages.

    Returns:
        plain data whose texts are printable and whose numbers are finite.

    Raises:
        StageFailed: it is too large, no JSON, or no document of a runner.
    """
    if not text.strip():
        return None
    if len(text) > MOST_BYTES:
        raise _refused(f"they are larger than {MOST_BYTES >> 20} MiB", where)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(f"no JSON ({str(error)[:80]})", where) from error
    return checked_results(document, where)


def checked_results(document: Any, where: str) -> dict[str, Any]:
    """The same document with printable texts, when every figure in it can be one.

    Raises:
        StageFailed: it cannot be a runner's.
    """
    if not isinstance(document, dict):
        raise _refused("not an object", where)
    count = [0]
    found: dict[str, Any] = _cleaned(document, MOST_DEPTH, count, where)
    for key in ("latency", "comparison", "selftest", "device", "runtime"):
        if found.get(key) is not None and not isinstance(found[key], dict):
            raise _refused(f"'{key}' is not an object", where)
    latency = found.get("latency")
    if latency is not None:
        _check_latency(latency, where)
    return found


def check_exit(code: int, document: Mapping[str, Any] | None, where: str) -> None:
    """An exit code of the runner's, with what has to go with it.

    Raises:
        StageFailed: another program's code, or success without a latency.
    """
    if code not in CODES:
        raise _refused(f"the runner ended with code {code}, which it does not have", where)
    if code == OK and (document is None or not document.get("latency")):
        raise _refused("they say that all is well and hold no latency", where)


def printable(text: str) -> str:
    """One line of at most :data:`MOST_CHARACTERS`, without control characters."""
    return cut("".join(c if c.isprintable() else " " for c in text), MOST_CHARACTERS)


def _check_latency(latency: Mapping[str, Any], where: str) -> None:
    samples = latency.get("samples_ms")
    figures = [latency.get(name) for name in _FIGURES]
    if not isinstance(samples, list) or not samples:
        raise _refused("the latency has no samples", where)
    for value in (*samples, *figures):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value <= LONGEST_MS:
            raise _refused(f"{printable(repr(value))} is no latency in ms", where)
    if type(latency.get("count")) is not int or latency["count"] < 1:
        raise _refused("the latency does not say how many runs it is of", where)
    if not isinstance(latency.get("stable"), bool):
        raise _refused("the latency does not say whether it was stable", where)


def _cleaned(value: Any, depth: int, count: list[int], where: str) -> Any:
    count[0] += 1
    if depth < 0 or count[0] > MOST_VALUES:
        raise _refused("they are nested too deeply or hold too much", where)
    if isinstance(value, dict):
        return {printable(k): _cleaned(v, depth - 1, count, where) for k, v in value.items()}
    if isinstance(value, list):
        return [_cleaned(item, depth - 1, count, where) for item in value]
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise _refused("a figure is not finite", where)
    if isinstance(value, int) and abs(value) > 1 << 63:
        raise _refused("a figure is out of range", where)
    return value


def _refused(why: str, where: str) -> StageFailed:
    return StageFailed(
        f"the device's results are not readable: {why}",
        where=where,
        hint="copy the bundle again: the runner there may not be the bundle's own",
    )


__all__ = ["check_exit", "checked_results", "parse_results", "printable"]
