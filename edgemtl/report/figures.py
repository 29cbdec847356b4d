"""Numbers as people read them: units, common scale, and how much worse in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: narrow no-break space: a number and its unit stay on one line
GAP = "\u202f"
TIMES = "\u00d7"
DASH = "\u2013"
NOTHING = "not measured"

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


@dataclass(frozen=True)
class Figure:
    """A number with its text.

    Attributes:
        value: the number, None when there is none.
        text: what is printed.
        source: where the number stands in the run folder, ``file#/json/pointer``; empty when it
            was derived.
    """

    value: float | None
    text: str
    source: str = ""

    @property
    def raw(self) -> str:
        """The number with all its digits."""
        return "" if self.value is None else repr(self.value)


def pointer(file: str, *parts: str | int) -> str:
    """The place of a value: ``accuracy.json#/reference/tasks/pose/mae_deg`` (RFC 6901)."""
    escaped = (str(part).replace("~", "~0").replace("/", "~1") for part in parts)
    return f"{file}#/{'/'.join(escaped)}"


def nothing(source: str = "", text: str = NOTHING) -> Figure:
    """A figure that is not there."""
    return Figure(None, text, source)


def significant(value: float, digits: int = 3) -> str:
    """``value`` with so many significant digits, without an exponent where that stays readable."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4:
        return _minus(f"{value:.{digits - 1}e}")
    return _minus(f"{value:,.{max(digits - 1 - magnitude, 0)}f}")


def _minus(text: str) -> str:
    return text.replace("-", "\u2212") if text.startswith("-") else text


def with_unit(text: str, unit: str) -> str:
    """Number and unit, kept together."""
    return f"{text}{GAP}{unit}" if unit else text


def metric_figures(
    values: Sequence[float | None], unit: str, sources: Sequence[str]
) -> tuple[Figure, ...]:
    """Figures of merit that stand beside each other, with equally many decimals."""
    found = [abs(v) for v in values if v is not None and math.isfinite(v)]
    largest = max(found, default=0.0)
    decimals = 3 if largest <= 1 else 2 if largest < 100 else 1 if largest < 1000 else 0
    tiny = 0 < largest < 0.01
    return tuple(
        nothing(source)
        if value is None
        else Figure(
            value,
            with_unit(significant(value) if tiny else _minus(f"{value:,.{decimals}f}"), unit),
            source,
        )
        for value, source in zip(values, sources, strict=True)
    )


def scaled_figures(
    values: Sequence[float | None], unit: str, sources: Sequence[str], missing: str = NOTHING
) -> tuple[Figure, ...]:
    """Counts and bytes with one decimal prefix for all (kilo = 1000), three significant digits."""
    largest = max((abs(v) for v in values if v is not None), default=0.0)
    scale, prefix = next(((s, p) for s, p in _PREFIXES if largest >= s), (1.0, ""))
    return tuple(
        nothing(source, missing)
        if value is None
        else Figure(value, with_unit(significant(value / scale), f"{prefix}{unit}"), source)
        for value, source in zip(values, sources, strict=True)
    )


def plain(value: float | None, unit: str = "", source: str = "") -> Figure:
    """A number with three significant digits."""
    if value is None:
        return nothing(source)
    return Figure(value, with_unit(significant(value), unit), source)


def percent(share: float) -> str:
    """0.0123 -> ``1.23 %``; trailing zeros are dropped, so a limit of 0.02 reads ``2 %``.

    The sign is dropped too: a word behind it says which way. What would round to nothing reads
    ``under 0.01 %``.
    """
    if not math.isfinite(share):
        return "infinitely"
    value = abs(share) * 100
    if 0 < value < 0.01:
        return f"under {with_unit('0.01', '%')}"
    text = f"{value:,.{1 if value >= 10 else 2}f}".rstrip("0").rstrip(".")
    return with_unit(text, "%")


def worse(relative_drop: float | None) -> Figure:
    """A relative drop in words; the value is positive when it got worse."""
    if relative_drop is None:
        return nothing(text="unknown")
    if relative_drop == 0:
        return Figure(0.0, "unchanged")
    word = "worse" if relative_drop > 0 else "better"
    return Figure(relative_drop, f"{percent(relative_drop)} {word}")


def less(before: float | None, after: float | None) -> Figure:
    """How much smaller a cost became; the value is ``after / before - 1``."""
    if before is None or after is None or before == 0:
        return nothing(text="unknown")
    change = after / before - 1
    if change == 0:
        return Figure(0.0, "unchanged")
    return Figure(change, f"{percent(change)} {'less' if change < 0 else 'more'}")


def times(ratio: float | None, source: str = "") -> Figure:
    """A ratio with the sign of multiplication behind it."""
    return (
        nothing(source) if ratio is None else Figure(ratio, f"{significant(ratio)}{TIMES}", source)
    )


def seconds(value: float | None, source: str = "") -> Figure:
    """A duration: ``0.31 s``, ``41 s``, ``12 min 5 s``."""
    if value is None:
        return nothing(source, "unknown")
    if value < 10:
        return Figure(value, with_unit(f"{value:.2f}", "s"), source)
    whole = round(value)
    if whole < 120:
        return Figure(value, with_unit(str(whole), "s"), source)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "min")] if hours else [(minutes, "min"), (left, "s")]
    return Figure(value, " ".join(with_unit(str(n), unit) for n, unit in parts), source)
