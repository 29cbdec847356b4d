"""``precision = "auto"``: the fastest form of a network that passes its gates, by measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgemtl.errors import UsageError

#: a lower precision has to be faster than a higher one by this share to be worth its losses
WORTH_IT = 0.03


@dataclass(frozen=True)
class Candidate:
    """One precision on one target.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``.
        latency_ms: measured median, or None where this machine is not the device.
        passes: whether the tasks' gates are kept; None when that was not judged.
        note: why something is None, or what failed.
    """

    precision: str
    latency_ms: float | None
    passes: bool | None
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """What was taken.

    Attributes:
        precision: the winner's.
        reason: one sentence with the figures it rests on.
        passes: whether the winner keeps the gates.
        rejected: precision -> why not.
    """

    precision: str
    reason: str
    passes: bool
    rejected: dict[str, str]


def choose_precision(candidates: Sequence[Candidate]) -> Choice:
    """The fastest candidate that passes; the more precise one where the gain is not worth it.

    Without any measured latency the first that passes is taken. Where none passes it is the first,
    and the choice says so.

    Args:
        candidates: from the most to the least precise; where nothing is measured, from the most to
            the least wanted.

    Raises:
        UsageError: there is no candidate.
    """
    if not candidates:
        raise UsageError("there is no precision to choose from")
    rejected: dict[str, str] = {}
    passing = []
    for one in candidates:
        if one.passes:
            passing.append(one)
        else:
            missing = "not judged" if one.passes is None else "its gates fail"
            rejected[one.precision] = f"{missing}: {one.note}" if one.note else missing
    if not passing:
        first = candidates[0]
        rejected.pop(first.precision)
        return Choice(first.precision, "no precision passes the gates", False, rejected)
    measured = [one for one in passing if one.latency_ms is not None]
    if not measured:
        rejected |= {one.precision: "not measured" for one in passing[1:]}
        reason = "no latency was measured; the first that passes"
        return Choice(passing[0].precision, reason, True, rejected)
    best = measured[0]
    for one in measured[1:]:
        if _ms(one) < _ms(best) * (1 - WORTH_IT):
            best = one
    for one in passing:
        if one is not best:
            rejected[one.precision] = (
                f"not measured: {one.note}".rstrip(": ")
                if one.latency_ms is None
                else f"{_ms(one):.3g} ms against {_ms(best):.3g} ms"
            )
    slower = [one.precision for one in measured if _ms(one) > _ms(best)]
    reason = f"{_ms(best):.3g} ms"
    if slower:
        reason += f", faster than {', '.join(slower)}"
    return Choice(best.precision, reason, True, rejected)


def _ms(one: Candidate) -> float:
    assert one.latency_ms is not None
    return one.latency_ms
