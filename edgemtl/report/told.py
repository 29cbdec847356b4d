"""What verbs and results of the Python API print, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgemtl.exporting.parity import OutputParity
from edgemtl.gates.judge import GateOutcome, GateReport
from edgemtl.record.prune_story import read_story
from edgemtl.report.prune_story import cost_table, sentences
from edgemtl.report.texttables import TextRow, TextTable, aligned


def prune_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Of ``prune.json``."""
    story = read_story(found)
    yield from aligned(cost_table(story))
    before, after = found["dense"], found["pruned"]
    for figure in ("macs", "params"):
        share = after[figure] / before[figure]
        sizes = f"{before[figure]:>16,.0f} -> {after[figure]:>16,.0f}"
        yield f"{figure:<8} {sizes}  ({share:.1%} kept)"
    yield from sentences(story)


def quantize_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Of ``quantize.json``: what every task lost on the judge pictures."""
    result = found["result"]
    for name, task in (result or {"tasks": {}})["tasks"].items():
        if task["drop"] is None:
            yield f"{name:<12} not judged: {task['note']}"
            continue
        verdict = "" if task["budget"] is None else f"budget {task['budget']:.2%}, "
        verdict += (
            "kept" if task["budget"] is None or task["drop"] <= task["budget"] else "NOT KEPT"
        )
        yield (
            f"{name:<12} {task['figure']:<14} {task['before']:.4f} -> {task['after']:.4f}  "
            f"({max(task['drop'], 0):.2%} worse, {verdict})"
        )
    yield f"precision {found['precision']}"


def mask_lines(story: Mapping[str, Any]) -> Iterator[str]:
    """Of ``mask.json``."""
    found = story["analysis"]
    for pair, value in found["overlap"].items():
        yield f"{'masks of ' + pair:<44} {value:.2f} alike"
    for key, label in (("dependence", "channels weighted by task"), ("dependence_of_mass", "mass")):
        one = found[key]
        share = one["dependent_share"]
        text = f"{one['mean']:.3f}, {share:.0%} of the work in groups that depend"
        yield f"{'dependence on the picture (' + label + ')':<44} {text}"
    kinds = (("static", "one mask"), ("prototypes", "prototypes"))
    for key, label in kinds:
        added = ", ".join(f"{t} {v:+.1%}" for t, v in found[f"added_{key}"].items())
        macs = found[f"mean_macs_{key}"]
        yield f"{label + ' at ' + format(macs, '.0%') + ' of the MACs':<44} loss {added}"
    for note in found["notes"]:
        yield f"note: {note}"
    yield found["decision"]
    built = story["built"]
    if built is not None:
        router = built["router"]
        yield (
            f"router: {router['accuracy']:.1%} right, {built['shares'][0]:.1%} of the pictures go "
            f"to the full network, mean {built['mean_macs'] / built['macs'][0]:.0%} of its MACs"
        )
        weights = story["weights"]
        yield (
            f"on disk {weights['bytes_shared'] / 1e6:.1f} MB, "
            f"{weights['bytes_apart'] / 1e6:.1f} MB if weights were not shared"
        )


def gate_lines(report: GateReport) -> Iterator[str]:
    """One line per gate, then the verdict."""

    def told(outcome: GateOutcome, value: float | None) -> str:
        return "-" if value is None else f"{value:.4g} {outcome.unit}".rstrip()

    rows = []
    for one in report.outcomes:
        word = f"{one.status} (allowed)" if one.allowed else one.status
        cells = (one.name, word, told(one, one.measured), told(one, one.limit), one.detail)
        rows.append(TextRow(cells, "none"))
    headers = ("gate", "verdict", "measured", "limit", "detail")
    yield from aligned(TextTable(headers, tuple(rows), (2, 3)))
    yield "all gates hold" if report.passed else "not good enough"


def parity_line(output: OutputParity) -> str:
    """One output in two forms of a network."""
    apart = output.difference
    told = apart.problem or f"{apart.max_relative:.2e} of its range"
    verdict = "ok" if output.ok else "DIFFERS"
    return f"{verdict:<8} {output.task:<14} {output.name:<24} {told}"
