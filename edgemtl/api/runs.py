"""A run folder as an object: what ``compile`` left."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgemtl.api.asking import AnyPath, path_of
from edgemtl.api.outcome import Cost, Latency, Outcome, TaskResult, latency_of, task_result
from edgemtl.errors import ExitCode
from edgemtl.gates.judge import GateOutcome
from edgemtl.measure.statistics import Ratio
from edgemtl.record.load import RunData
from edgemtl.record.load import load_run as read_folder
from edgemtl.record.run_record import RunRecord
from edgemtl.record.rundata import CostFacts, Failure, RunFacts, StageFacts
from edgemtl.report.console import text_of
from edgemtl.report.summary import summarise_run


@dataclass(frozen=True, repr=False)
class Run(Outcome):
    """A run of ``compile``, as its folder tells it; nothing is measured when it is read.

    A run can stand wherever the path of its folder can.

    Attributes:
        folder: of the run.
        target: name of what it was built for.
        status: ``passed``, ``gates failed``, ``failed`` or ``running``.
        tasks: task -> its figure, beside that of the uncompressed network.
        macs: multiply-accumulates for one picture, of the uncompressed network and the result.
        parameters: trainable values, likewise.
        size_bytes: of the artefact's files, likewise.
        latency: of the artefact; None where it was not measured (``not_timed`` says why, if known).
        latency_before: of the uncompressed artefact, measured in turns with the former.
        speedup: how many times as fast the artefact is (95 % interval ``low`` to ``high``); None
            without a comparison.
        not_timed: why no latency was measured, where it was left out on purpose.
        gates: every gate with ``status`` (``pass``, ``fail``, ``not-measured``, ``unstable``),
            ``measured``, ``limit``, ``unit`` and the reason (``detail``).
        stages: in order, with ``name``, ``status``, ``seconds`` and ``notes``.
        bundle: None where the run did not come so far.
        report: the HTML page; None where there is none.
        error: why the run stopped; None where it did not.
        notes: what a reader must know before believing a figure.
        problems: a sentence per file of the folder that is missing or not readable.
        data: everything that was read from the folder (docs/run-folder.md).
    """

    folder: Path
    target: str
    status: str
    tasks: Mapping[str, TaskResult]
    macs: Cost
    parameters: Cost
    size_bytes: Cost
    latency: Latency | None
    latency_before: Latency | None
    speedup: Ratio | None
    not_timed: str
    gates: tuple[GateOutcome, ...]
    stages: tuple[StageFacts, ...]
    bundle: Path | None
    report: Path | None
    error: Failure | None
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    data: RunData = field(compare=False)

    @property
    def exit_code(self) -> ExitCode:
        """What ``edgemtl compile`` left with; 1 for a run that has not ended."""
        facts = self.data.run or RunFacts()
        with contextlib.suppress(ValueError):
            if facts.exit_code is not None:
                return ExitCode(facts.exit_code)
        return ExitCode.UNEXPECTED

    @property
    def reason(self) -> str:
        """Why it did not pass: the verdict's sentences; empty if it did."""
        if self.passed:
            return ""
        verdict = summarise_run(self.data).verdict
        return f"{self.folder}: {verdict.headline}. {verdict.reason}"

    def __fspath__(self) -> str:
        return os.fspath(self.folder)

    def __str__(self) -> str:
        return text_of(self.folder, self.data).removesuffix("\n")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, target={self.target!r}, status={self.status!r})"


def load_run(folder: AnyPath) -> Run:
    """Read what a run left, whole or not; ``problems`` names what is missing.

    Args:
        folder: of the run.

    Raises:
        InputRefused: no run's folder, ``run.json`` is not readable, or a later version wrote it.
    """
    place = path_of(folder)
    RunRecord.open(place)
    found = read_folder(place)
    facts, report = found.run or RunFacts(), place / "report.html"
    bundle = place / facts.bundle if facts.bundle else None
    sides = found.cost_before, found.cost_after
    return Run(
        folder=place,
        target=facts.target.name,
        status=facts.status,
        tasks=_tasks(found),
        macs=_cost(sides, "macs"),
        parameters=_cost(sides, "parameters"),
        size_bytes=_cost(sides, "size_bytes"),
        latency=None if found.latency_after is None else latency_of(found.latency_after),
        latency_before=None if found.latency_before is None else latency_of(found.latency_before),
        speedup=None if found.comparison is None else found.comparison.speedup,
        not_timed=found.not_timed,
        gates=found.gates.outcomes if found.gates else (),
        stages=facts.stages,
        bundle=bundle if bundle is not None and bundle.is_file() else None,
        report=report if report.is_file() else None,
        error=facts.error,
        notes=summarise_run(found).labels,
        problems=found.problems,
        data=found,
    )


def _tasks(found: RunData) -> dict[str, TaskResult]:
    accuracy = found.accuracy
    if accuracy is None or accuracy.artefact is None:
        return {}
    before = accuracy.reference.tasks if accuracy.reference else {}
    return {
        name: task_result(
            name,
            accuracy.metrics[name].primary,
            task.values,
            before[name].values if name in before else None,
            task.count,
            task.note,
        )
        for name, task in accuracy.artefact.tasks.items()
        if name in accuracy.metrics
    }


def _cost(sides: tuple[CostFacts | None, CostFacts | None], key: str) -> Cost:
    return Cost(*(None if side is None else side.figures.get(key) for side in sides))
