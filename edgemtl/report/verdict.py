"""Is it good enough? The gates in words, and the answer that the page begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgemtl.errors import ExitCode
from edgemtl.gates.judge import GateOutcome
from edgemtl.record.rundata import RunData
from edgemtl.report.figures import (
    TIMES,
    Figure,
    nothing,
    percent,
    pointer,
    scaled_figures,
    significant,
    with_unit,
)

#: how a verdict or a gate reads, in a symbol (never alone) and a word
SYMBOLS = {
    "pass": ("✓", "pass"),
    "fail": ("✗", "fail"),
    "not-measured": ("?", "not measured"),
    "unstable": ("≈", "unstable"),
    "allowed": ("○", "not measured, allowed"),
    "none": ("\u2013", "no gate"),
}
State = Literal["pass", "fail", "not-measured", "unstable", "allowed", "none"]


_GATE_WORDS = {
    "latency.ratio": "time against uncompressed",
    "cost.macs_ratio": "MACs against uncompressed",
    "cost.parameters_ratio": "parameters against uncompressed",
    "cost.size_ratio": "file size against uncompressed",
    "cost.size_bytes": "file size",
}
_EXITS = {
    ExitCode.UNEXPECTED: "an unexpected error",
    ExitCode.USAGE: "a flag or recipe that does not make sense",
    ExitCode.INPUT_REFUSED: "an input that was refused",
    ExitCode.STAGE_FAILED: "a stage that failed",
    ExitCode.PARITY: "outputs that differ between two forms of the network",
    ExitCode.ACCURACY_GATE: "an accuracy gate",
    ExitCode.COST_GATE: "a latency, size or cost gate",
    ExitCode.UNAVAILABLE: "a target, device or measurement that is not available",
    ExitCode.UNSTABLE: "a measurement that is not valid",
    ExitCode.VERIFICATION: "a verification that failed",
}
#: exit codes that gates explain by themselves
_OF_GATES = {int(code) for code in (6, 7, 8, 9)}


@dataclass(frozen=True)
class Verdict:
    """Is it good enough?

    Attributes:
        state: ``pass``; ``fail``; ``not-measured`` when it cannot be told.
        headline: the answer in a few words.
        reason: one or two sentences.
    """

    state: Literal["pass", "fail", "not-measured"]
    headline: str
    reason: str


@dataclass(frozen=True)
class GateRow:
    """One gate in words."""

    outcome: GateOutcome
    state: State
    label: str
    measured: Figure
    limit: Figure

    @property
    def symbol(self) -> str:
        """Its symbol."""
        return SYMBOLS[self.state][0]

    @property
    def word(self) -> str:
        """Its word."""
        return SYMBOLS[self.state][1]


def gate_rows(run: RunData) -> tuple[GateRow, ...]:
    """All gates of a run, in their order."""
    outcomes = run.gates.outcomes if run.gates else ()
    return tuple(_gate(index, outcome, run) for index, outcome in enumerate(outcomes))


def judge_run(run: RunData, gates: Sequence[GateRow]) -> Verdict:
    """Answer for the whole run: what was not measured, or not judged, is never good enough."""
    facts = run.run
    stopped = next((s.name for s in facts.stages if s.status == "failed"), "") if facts else ""
    code = facts.exit_code if facts else None
    error = facts.error if facts else None
    judged = run.gates is not None and bool(gates)
    if (stopped or error) and not (judged and (code is None or code in _OF_GATES)):
        where = f"{error.where}: " if error and error.where else ""
        message = f"{where}{error.message}" if error else f"The stage '{stopped}' failed."
        at = f" at stage '{stopped}'" if stopped else ""
        return Verdict("fail", f"The run stopped{at}", message)
    failed = [gate.label for gate in gates if gate.state == "fail"]
    open_ = [gate for gate in gates if gate.state in ("not-measured", "unstable")]
    total = len(gates)
    if failed:
        also = f" {_some(len(open_))} could not be judged." if open_ else ""
        names = "; ".join(failed)
        headline = f"Not good enough: {len(failed)} of {total} gates failed"
        return Verdict("fail", headline, f"Failed: {names}.{also}")
    if open_:
        names = "; ".join(f"{gate.label} ({gate.word})" for gate in open_)
        headline = f"Not shown: {len(open_)} of {total} gates could not be judged"
        return Verdict("not-measured", headline, f"What is not measured is not passed: {names}.")
    if code:
        return Verdict("fail", f"The run left with exit code {code}", f"{_exit(code)}.")
    if not judged:
        return Verdict("not-measured", "No verdict", _why_not_judged(run))
    if facts is None:
        reason = "Without a readable run.json nobody knows whether the run came to its end."
        return Verdict("not-measured", "Not shown: the gates pass, the run is unknown", reason)
    allowed = [gate.label for gate in gates if gate.state == "allowed"]
    if len(allowed) == total:
        headline = "Not shown: nothing that a gate asks for was measured"
        return Verdict("not-measured", headline, f"Allowed by the recipe: {'; '.join(allowed)}.")
    passed = total - len(allowed)
    headline = f"Good enough: {'all ' if not allowed else ''}{passed} gates pass"
    if allowed:
        reason = f"Not measured, which the recipe allows: {'; '.join(allowed)}."
    else:
        reason = "Every limit that the recipe sets was measured and kept."
    return Verdict("pass", headline, reason)


def _some(count: int) -> str:
    return f"{count} more {'gate' if count == 1 else 'gates'}"


def _exit(code: int) -> str:
    known = code in set(ExitCode)
    return f"Exit code {code} stands for {_EXITS[ExitCode(code)]}" if known else f"Code {code}"


def _why_not_judged(run: RunData) -> str:
    if run.gates is not None:
        return "The recipe sets no gate, so nothing was judged."
    if run.run is None:
        return "The run left no readable run.json."
    done = [stage.name for stage in run.run.stages if stage.status in ("done", "cached")]
    last = f" The last finished stage is '{done[-1]}'." if done else ""
    return f"The gates were not judged; the run did not get so far or was interrupted.{last}"


def _gate(index: int, outcome: GateOutcome, run: RunData) -> GateRow:
    state: State = "allowed" if outcome.ok and outcome.status != "pass" else outcome.status
    measured = nothing(pointer("gates.json", "outcomes", index, "measured"))
    if outcome.measured is not None:
        measured = Figure(outcome.measured, _gated(outcome, outcome.measured), measured.source)
    side = "at least" if outcome.name.endswith(".min") else "at most"
    words = _gated(outcome, outcome.limit, limit=True)
    limit = Figure(
        outcome.limit, f"{side} {words}", pointer("gates.json", "outcomes", index, "limit")
    )
    return GateRow(outcome, state, _gate_label(outcome.name, run), measured, limit)


def _gated(outcome: GateOutcome, value: float, limit: bool = False) -> str:
    """A measured value or a limit in the gate's own words; a limit is printed as it was set."""
    if outcome.name.endswith(".max_relative_drop"):
        return f"{percent(value)} {'worse' if value >= 0 else 'better'}" if value else "no loss"
    if outcome.unit == "B":
        return scaled_figures([value], "B", [""])[0].text
    text = f"{value:.6g}" if limit else significant(value)
    if outcome.name.endswith("ratio"):
        return f"{text}{TIMES} before"
    return with_unit(text, outcome.unit)


def _gate_label(name: str, run: RunData) -> str:
    if name in _GATE_WORDS:
        return _GATE_WORDS[name]
    front, _, limit = name.rpartition(".")
    if front.startswith("tasks."):
        kind = {"max_relative_drop": "relative loss", "min": "least", "max": "most"}
        task, figure = _task_and_figure(front.removeprefix("tasks."), run)
        return f"{task}: {figure}, {kind.get(limit, limit)}"
    if front == "latency" and limit.endswith("_ms"):
        return f"latency {limit.removesuffix('_ms')}"
    return name


def _task_and_figure(rest: str, run: RunData) -> tuple[str, str]:
    """The task of a gate's name, and its figure in words."""
    metrics = run.accuracy.metrics if run.accuracy else {}
    # a task's name may have dots in it, so the known ones are tried, the longest first
    task = max((t for t in metrics if rest == t or rest.startswith(f"{t}.")), key=len, default=rest)
    spec, rest = metrics.get(task), rest[len(task) + 1 :]
    if rest.startswith("classes"):
        label = spec.classes.label if spec and spec.classes else "figure"
        only = rest.removeprefix("classes").removeprefix(".named.")
        return task, f"{label} of {f'class {only}' if only else 'every class'}"
    if rest.startswith("figures."):
        key = rest.removeprefix("figures.")
        labels = {other.key: other.label for other in spec.secondary} if spec else {}
        return task, labels.get(key, key)
    return task, spec.primary.label if spec else "accuracy"
