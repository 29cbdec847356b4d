"""A modelled plan of an accelerator, as a backend left it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgemtl.record.untrusted import integer, number, rows, table, text, texts

#: one block of 36 Kbit and one of 288 Kbit, in KiB
BRAM_KIB, URAM_KIB = 4.5, 36.0


@dataclass(frozen=True)
class DesignPoint:
    """One design: its array and buffers, what it takes, how long it would compute."""

    rows: int
    columns: int
    weight_buffer: str
    activation_kib: int
    latency_ms: float
    dsp: int
    bram36: int
    uram: int
    refused: str

    @property
    def memory_kib(self) -> float:
        """Of the memory blocks it takes, whole."""
        return self.bram36 * BRAM_KIB + self.uram * URAM_KIB


@dataclass(frozen=True)
class DesignFacts:
    """A modelled plan: the design that was taken, its figures, and all that were looked at.

    Attributes:
        macs: multiply-accumulates of the layers that are modelled, of one picture; None where the
            file does not say.
    """

    taken: DesignPoint
    energy_j: float
    ddr_bytes: float
    points: tuple[DesignPoint, ...]
    macs: int | None = None


def parse_plan(data: Mapping[str, Any]) -> DesignFacts | None:
    """A backend's plan (``plan.json``); None where nothing runs on the accelerator."""
    if "design" not in data:
        return None
    design, taken = table(data, "design"), table(data, "resources")
    kib = (integer(design, "activation_buffer_bytes") or 0) // 1024
    chosen = _point({**design, **taken, "latency_ms": data["latency_ms"], "activation_kib": kib})
    points = tuple(_point(row) for row in rows(data, "sweep"))
    energy, traffic = number(data, "energy_j") or 0.0, number(data, "ddr_bytes") or 0.0
    return DesignFacts(chosen, energy, traffic, points, integer(data, "macs"))


def _point(row: Mapping[str, Any]) -> DesignPoint:
    latency = number(row, "latency_ms")
    if latency is None or latency <= 0:
        raise ValueError("a design without a latency")
    return DesignPoint(
        integer(row, "rows") or 0,
        integer(row, "columns") or 0,
        text(row, "weight_buffer"),
        integer(row, "activation_kib") or 0,
        latency,
        integer(row, "dsp") or 0,
        integer(row, "bram36") or 0,
        integer(row, "uram") or 0,
        "; ".join(texts(row, "refused")),
    )
