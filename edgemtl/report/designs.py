"""A modelled plan of an accelerator: for the terminal, and as a plot of latency against memory.

Everything here is modelled; every caption says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from edgemtl.record.designs import DesignFacts, DesignPoint
from edgemtl.report.charts import line, opening, text
from edgemtl.report.figures import GAP, significant

#: a modelled time is a headline from this share of the multiply-accumulates on
HEADLINE = 0.9
#: layers that the terminal lists, the longest first
MOST_LAYERS = 12
#: pixels of the plot, of the axis below and of the legend above it
PLOT, BELOW, ABOVE = 260, 40, 34
MARGIN = 5.0
#: weight buffer -> class of its points
STYLES = {"ping-pong": "design", "single": "design single", "resident": "design resident"}


def front(points: Sequence[DesignPoint]) -> list[DesignPoint]:
    """Designs that fit and that no other one beats in both memory and latency, smallest first."""
    found: list[DesignPoint] = []
    for point in sorted(
        (p for p in points if not p.refused), key=lambda p: (p.memory_kib, p.latency_ms)
    ):
        if not found or point.latency_ms < found[-1].latency_ms:
            found.append(point)
    return found


def coverage(modelled: float | None, whole: float | None) -> tuple[float | None, str]:
    """Share of a network's multiply-accumulates that a plan models, and the sentence about it.

    Args:
        modelled: multiply-accumulates of the modelled layers; None where nobody counted.
        whole: of the network's graph.
    """
    if not modelled or not whole:
        return None, "nobody counted how much of the network is modelled"
    share = min(modelled / whole, 1.0)
    shown = f"{share:.0%}" if share >= HEADLINE else f"{share:.1%}"
    told = f"{shown} of the network's multiply-accumulates are modelled"
    return share, told if share >= HEADLINE else f"only {told}: its time is not the network's"


def section(facts: DesignFacts | None, whole: float | None = None) -> dict[str, Any] | None:
    """The plot and the table of the report's page; None without a plan.

    Args:
        facts: the plan.
        whole: multiply-accumulates of the network's graph; None where they are not known.
    """
    if facts is None:
        return None
    share, covered = coverage(facts.macs, whole)
    part = "" if share is None or share >= HEADLINE else ", modelled layers alone"
    taken = facts.taken
    shown = [taken, *(p for p in front(facts.points) if _name(p) != _name(taken))]
    return {
        "svg": draw_designs(facts, "designs"),
        "rows": [
            {
                "name": _name(point) + (" (taken)" if point is taken else ""),
                "latency": f"{significant(point.latency_ms)}{GAP}ms{part}",
                "memory": f"{point.memory_kib:,.0f}{GAP}KiB",
                "dsp": str(point.dsp),
                "bram36": str(point.bram36),
                "uram": str(point.uram),
            }
            for point in shown
        ],
        "coverage": covered,
        "looked_at": len(facts.points),
        "refused": sum(1 for point in facts.points if point.refused),
        "energy": f"{significant(facts.energy_j * 1e3)}{GAP}mJ",
        "traffic": f"{facts.ddr_bytes / 1e6:.2f}{GAP}MB",
    }


def _name(point: DesignPoint) -> str:
    return (
        f"{point.rows} x {point.columns}, {point.weight_buffer}, "
        f"{point.activation_kib} KiB of activations"
    )


def draw_designs(facts: DesignFacts, name: str) -> Markup:
    """Modelled latency against block memory, both logarithmic, one point per design.

    ``name`` becomes the front part of element ids and must be unique on the page.
    """
    points = [*facts.points, facts.taken]
    across = _span([p.memory_kib for p in points])
    up = _span([p.latency_ms for p in points])
    base = ABOVE + PLOT

    def left(value: float) -> float:
        return MARGIN + (100 - 2 * MARGIN) * _share(value, across)

    def top(value: float) -> float:
        return base - PLOT * _share(value, up)

    told = (
        f"taken: {_name(facts.taken)}: {significant(facts.taken.latency_ms)} ms modelled, "
        f"{facts.taken.memory_kib:.0f} KiB; {len(facts.points)} designs looked at"
    )
    parts = [opening(name, base + BELOW, "Modelled latency against memory", told)]
    for tick in _ticks(up):
        parts += [line(0, top(tick), 100, top(tick), "axis")]
        parts += [text(0, top(tick) - 4, f"{tick:g}{GAP}ms", "start", "tick")]
    for tick in _ticks(across):
        parts.append(text(left(tick), base + 18, f"{tick:g}", "middle", "tick"))
    parts.append(text(100, base + 34, f"memory blocks (KiB){GAP}", "end", "tick"))
    # Refused ones first, so that none hides one that fits.
    for point in sorted(facts.points, key=lambda p: not p.refused):
        style = "design refused" if point.refused else STYLES.get(point.weight_buffer, "design")
        parts.append(_circle(left(point.memory_kib), top(point.latency_ms), 4, style))
    taken = facts.taken
    parts.append(_circle(left(taken.memory_kib), top(taken.latency_ms), 7, "point"))
    words = f"taken: {significant(taken.latency_ms)}{GAP}ms"
    side = "end" if left(taken.memory_kib) > 60 else "start"
    parts.append(text(left(taken.memory_kib), top(taken.latency_ms) - 11, words, side, "label"))
    return Markup("").join([*parts, Markup("</svg>")])


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = max(min(values), 1e-9), max(*values, 1e-9)
    return (low, high) if high > low * 1.01 else (low / 1.1, high * 1.1)


def _share(value: float, span: tuple[float, float]) -> float:
    return math.log(max(value, 1e-9) / span[0]) / math.log(span[1] / span[0])


def _ticks(span: tuple[float, float]) -> list[float]:
    """1, 2 and 5 times powers of ten within the span."""
    powers = range(math.floor(math.log10(span[0])), math.ceil(math.log10(span[1])) + 1)
    found = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    return [value for value in found if span[0] <= value <= span[1]]


def _circle(x: float, y: float, radius: int, style: str) -> Markup:
    return Markup('<circle cx="{:.3f}%" cy="{:.1f}" r="{}" class="{}"/>').format(
        x, y, radius, style
    )


def print_plan(console: Any, target: str, plan: Mapping[str, Any], every_layer: bool) -> None:
    """Print a modelled plan: the design, its figures, its layers, and expert schedules if any."""
    from rich.table import Table

    design, taken, board = plan["design"], plan["resources"], plan["board"]
    path = f" (task {plan['task']})" if "task" in plan else ""
    share, covered = coverage(plan.get("macs"), plan.get("network_macs"))
    if "network_macs" in plan:
        console.print(f"target {target}, modelled{path}: {covered}", highlight=False)
    part = "" if share is None or share >= HEADLINE else " for these layers alone"
    console.print(
        f"target {target}, modelled{path}: {plan['latency_ms']:.3f} ms{part}, "
        f"{plan['energy_j'] * 1e3:.1f} mJ, {plan['ddr_bytes'] / 1e6:.2f} MB of external memory "
        f"traffic at {board['clock_mhz']:.0f} MHz",
        highlight=False,
    )
    console.print(
        f"  design: {design['rows']} x {design['columns']} multipliers, {design['weight_buffer']} "
        f"weights, {design['activation_buffer_bytes'] // 1024} KiB of activations; takes "
        f"{taken['dsp']} of {board['dsp']} DSP, {taken['bram36']} of {board['bram36']} BRAM, "
        f"{taken['uram']} of {board['uram']} URAM",
        highlight=False,
    )
    layers = plan["layers"]
    if not every_layer:
        layers = sorted(layers, key=lambda layer: -layer["cycles"])[:MOST_LAYERS]
    left = len(plan["layers"]) - len(layers)
    listed = Table(
        title="layers, modelled; kB to and from external memory"
        + (f" ({left} more: --modules)" if left else "")
    )
    listed.add_column("layer", overflow="fold", min_width=26)
    for word in ("cycles", "waits", "busy", "weights kB", "maps kB"):
        listed.add_column(word, justify="right", no_wrap=True)
    for layer in layers:
        listed.add_row(
            layer["name"].removesuffix("/Conv"),
            f"{layer['cycles']:,.0f}",
            f"{layer['stall_cycles']:,.0f}",
            f"{layer['busy']:.0%}",
            f"{layer['weight_bytes'] / 1e3:,.1f}",
            f"{layer['activation_bytes'] / 1e3:,.1f}",
        )
    console.print(listed)
    if plan.get("schedules"):
        _print_schedules(console, plan["schedules"])
    if plan["host"]:
        named = ", ".join(f"{count} {op}" for op, count in sorted(plan["host"].items()))
        console.print(f"  left to the processor, not modelled: {named}", highlight=False)


def _print_schedules(console: Any, found: Mapping[str, Mapping[str, Any]]) -> None:
    from rich.table import Table

    listed = Table(title="expert schedules, modelled, even routing")
    listed.add_column("schedule")
    for word in ("ms", "mJ", "traffic MB", "expert memory KiB"):
        listed.add_column(word, justify="right")
    for name, row in found.items():
        listed.add_row(
            name,
            f"{row['latency_ms']:.3f}",
            f"{row['energy_j'] * 1e3:.1f}",
            f"{row['ddr_bytes'] / 1e6:.1f}",
            f"{row['expert_memory_bytes'] / 1024:,.0f}",
        )
    console.print(listed)
