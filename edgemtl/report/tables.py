"""Tables that ``gate`` and ``bench`` print for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgemtl.gates.judge import GateOutcome, GateReport
from edgemtl.report.terminal import plain_console

if TYPE_CHECKING:
    from edgemtl.measure.results import Comparison, LatencyResult
    from edgemtl.measure.selfcheck import SelfCheck
    from edgemtl.measure.statistics import Summary

_WORDS = {"pass": "pass", "fail": "FAIL", "not-measured": "NOT MEASURED", "unstable": "UNSTABLE"}


def print_gates(report: GateReport) -> None:
    """One row per gate, then the verdict."""
    from rich.table import Table

    table = Table(title="gates")
    for column in ("gate", "verdict", "measured", "limit", "detail"):
        table.add_column(column, justify="right" if column in ("measured", "limit") else "left")
    for outcome in report.outcomes:
        word = _WORDS[outcome.status] + (" (allowed)" if outcome.allowed else "")
        table.add_row(
            outcome.name,
            word,
            _value(outcome, outcome.measured),
            _value(outcome, outcome.limit),
            outcome.detail,
        )
    console = plain_console()
    console.print(table)
    console.print("all gates hold" if report.passed else "not good enough", highlight=False)


def _value(outcome: GateOutcome, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g} {outcome.unit}".rstrip()


def print_latency(result: LatencyResult, name: str) -> None:
    """One artefact's latency, with what it was measured on."""
    from rich.table import Table

    table = Table(title=f"{name}: {len(result.samples_ms)} runs, {result.threads} thread(s)")
    table.add_column("what")
    for column in ("p50 ms", "p90 ms", "p99 ms"):
        table.add_column(column, justify="right")
    rows: list[tuple[str, Summary | None]] = [
        ("inference", result.summary),
        ("pre-processing", result.preprocess),
        ("post-processing", result.postprocess),
    ]
    for what, summary in rows:
        if summary is not None:
            shown = (summary.p50_ms, summary.p90_ms, summary.p99_ms)
            table.add_row(what, *(f"{value:.2f}" for value in shown))
    console = plain_console()
    console.print(table)
    console.print(
        f"load {result.load_ms:.0f} ms, first inference {result.first_inference_ms:.1f} ms, "
        f"peak memory {result.memory.peak_bytes / 1e6:.0f} MB, "
        f"{result.throughput_per_s:.1f} pictures/s, fed a {result.fed}",
        highlight=False,
    )
    if found := telemetry_words(result):
        console.print(found, highlight=False)


def print_comparison(result: Comparison, name: str, against: str) -> None:
    """The speed-up of one artefact over another with its interval."""

    ratio = result.speedup
    console = plain_console()
    for side, label in ((result.a, name), (result.b, against)):
        console.print(
            f"{label}: p50 {side.summary.p50_ms:.2f} ms, p99 {side.summary.p99_ms:.2f} ms",
            highlight=False,
        )
    console.print(
        f"{name} takes 1/{ratio.value:.3f} of the time of {against}: {ratio.value:.3f} x as fast "
        f"(95 % interval {ratio.low:.3f} to {ratio.high:.3f}, {result.pairs} pairs of blocks, "
        "interleaved)",
        highlight=False,
    )


def telemetry_words(result: LatencyResult) -> str:
    """What the machine did during the runs, as far as it tells; empty when it tells nothing."""
    found = result.telemetry
    if found is None:
        return ""
    words = []
    if found.frequency_min_mhz is not None and found.frequency_max_mhz is not None:
        words.append(f"clock {found.frequency_min_mhz:.0f} to {found.frequency_max_mhz:.0f} MHz")
    if found.temperature_max_c is not None:
        words.append(f"at most {found.temperature_max_c:.0f} degrees C")
    if found.throttled is not None:
        words.append(f"throttled {found.throttled} times")
    if found.power_w is not None:
        words.append(f"{found.power_w:.1f} W")
    return f"meanwhile: {', '.join(words)}" if words else ""


def print_self_check(result: SelfCheck, name: str) -> None:
    """The noise floors of this machine with this artefact."""

    console = plain_console()
    for word, side in (("first", result.first), ("second", result.second)):
        figures = f"p50 {side.summary.p50_ms:.3f} ms, p99 {side.summary.p99_ms:.3f} ms"
        console.print(f"{name}, {word} time: {figures}", highlight=False)
    console.print(
        f"noise floor of medians, one after the other: {result.floor:.2%}; in turns: "
        f"{result.interleaved_floor:.2%} (to be told apart: {result.claim:.2%})",
        highlight=False,
    )
