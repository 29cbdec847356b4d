"""``edgemtl.gate``: stored results, judged again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgemtl.api.asking import (
    AnyPath,
    AnyRecipe,
    Factory,
    Overrides,
    assignments,
    factory_of,
    optional_path,
    path_of,
)
from edgemtl.api.outcome import Outcome
from edgemtl.errors import ExitCode, most_serious
from edgemtl.files import write_json
from edgemtl.gates.judge import GateOutcome, GateReport
from edgemtl.gates.junit import write_junit
from edgemtl.gates.regression import Change, RegressionReport
from edgemtl.gates.snapshot import Snapshot
from edgemtl.pipeline.judging import compare_stored, judge_stored
from edgemtl.recipes import Recipe
from edgemtl.report.comparison import comparison_text
from edgemtl.report.told import gate_lines


@dataclass(frozen=True)
class Judged(Outcome):
    """Verdicts on stored results.

    Attributes:
        gates: each with ``name``, ``status``, ``measured``, ``limit``, ``unit`` and the reason
            (``detail``).
        changes: what became of every figure since the baseline; empty without one.
    """

    gates: tuple[GateOutcome, ...]
    changes: tuple[Change, ...]
    _snapshot: Snapshot = field(repr=False)
    _regression: RegressionReport | None = field(repr=False)

    @property
    def exit_code(self) -> ExitCode:
        """The most serious of the gates' and changes' codes; 0 when all pass."""
        codes = [one.exit_code for one in self.gates] + [one.exit_code for one in self.changes]
        return most_serious(codes)

    @property
    def reason(self) -> str:
        """Which gates and changes do not pass; empty if all do."""
        told = [f"{one.name}: {one.status}" for one in self.gates if not one.ok]
        told += [f"{one.name}: {one.status}" for one in self.changes if not one.ok]
        return "; ".join(told)

    def save_baseline(self, path: AnyPath) -> None:
        """Write the run's figures, for the ``baseline`` of later calls.

        Raises:
            StageFailed: the place cannot be written.
        """
        write_json(path_of(path), self._snapshot.to_dict())

    def write_junit(self, path: AnyPath) -> None:
        """Write the verdicts as JUnit XML.

        Raises:
            StageFailed: the place cannot be written.
        """
        write_junit(GateReport(self.gates), path_of(path), regression=self._regression)

    def __str__(self) -> str:
        told = "\n".join(gate_lines(GateReport(self.gates)))
        if self._regression is None:
            return told
        return f"{told}\n\n{comparison_text(self._regression)}".removesuffix("\n")


def gate(
    run: AnyPath,
    *,
    recipe: AnyRecipe = None,
    overrides: Overrides = None,
    results: AnyPath | None = None,
    baseline: AnyPath | None = None,
    reference: AnyPath | None = None,
    factory: Factory = None,
) -> Judged:
    """Judge stored results against gates and a baseline; nothing is measured.

    A gate that fails does not raise: ``judged.passed`` and ``judged.gates`` say it, and
    ``judged.raise_for_gates()`` raises.

    Args:
        run: run folder or bundle.
        recipe: whose gates replace the stored ones: TOML file or :class:`edgemtl.Recipe`.
        overrides: recipe key -> value, such as ``{"gates.latency.p99_ms": 12}``.
        results: ``results.json`` that the runner wrote on the device.
        baseline: a baseline file, a run folder, a bundle, or ``git:REVISION:PATH``.
        reference: dense checkpoint to compare the tasks with, measured on the run's pictures.
        factory: of the reference, as for :func:`edgemtl.load_model`.

    Raises:
        InputRefused: no results there, or not readable; a reference or baseline that is refused.
        UsageError: the recipe or an override is not valid.
    """
    place: Path = path_of(run)
    asked = recipe if recipe is None or isinstance(recipe, Recipe) else path_of(recipe)
    given, measured = assignments(overrides), optional_path(results)
    report = judge_stored(
        *(place, asked, given, measured),
        *(optional_path(reference), factory_of(factory, reference)),
    )
    against = None if baseline is None else str(path_of(baseline))
    found = compare_stored(place, against, asked, given, measured)
    changes = () if found.regression is None else found.regression.changes
    return Judged(report.outcomes, changes, found.snapshot, found.regression)
