"""A run folder: its files, their layouts, and the strict reader that gates and baselines use.

A page is made of whatever can be read (:func:`edgemtl.record.load.load_run`); a verdict is not, so
here a file that is missing or broken is refused. ``docs/run-folder.md`` describes every file and
every key, and what each version changed; a test holds it to what a run writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemtl.errors import InputRefused
from edgemtl.files import read_json
from edgemtl.gates.judge import GateFacts
from edgemtl.measure.results import LatencyResult
from edgemtl.tasks.base import MetricSpec, Task

RUN = "run.json"
#: of all JSON files of a folder, under :data:`VERSION`; ``docs/run-folder.md`` tells them apart
SCHEMA_VERSION = 3
READABLE = (1, 2, 3)
VERSION = "schema_version"
ACCURACY, COST, PARITY, GATES = "accuracy.json", "cost.json", "parity.json", "gates.json"
PRUNE, QUANTIZE, MASK, JUNIT = "prune.json", "quantize.json", "mask.json", "junit.xml"
BENCH = "bench"
LATENCY, REFERENCE, COMPARISON = "artefact.json", "reference.json", "comparison.json"
IDENTICAL, SKIPPED = "identical.json", "skipped.json"
PRECISION, LAYERS = "precision.json", "layers.json"
#: what lies in ``bench/``
TIMINGS = (LATENCY, REFERENCE, COMPARISON, PRECISION, LAYERS, SKIPPED, IDENTICAL)
COST_FIGURES = ("macs", "parameters", "size_bytes")


def versioned(data: Mapping[str, Any]) -> dict[str, Any]:
    """What is written into a run folder, with its version first."""
    return {VERSION: SCHEMA_VERSION, **{key: data[key] for key in data if key != VERSION}}


def is_later(data: Mapping[str, Any]) -> bool:
    """Whether a file of a run folder was written by a later version than this reads."""
    version = data.get(VERSION)
    return isinstance(version, int | float) and version > max(READABLE)


def refuse_unreadable(data: Mapping[str, Any], where: str) -> None:
    """Check the version of a file of a run folder; one without a number is of version 1 or 2.

    Raises:
        InputRefused: a version that this does not read.
    """
    version = data.get(VERSION, 1)
    if version not in READABLE:
        raise InputRefused(
            f"the run folder has version {str(version)[:40]}, this EdgeMTL reads "
            f"{' and '.join(map(str, READABLE))}",
            where=where,
            hint="use the EdgeMTL that wrote it, or a later one",
        )


@dataclass(frozen=True)
class Measured:
    """What was found out about an artefact and the network it came from, as plain data.

    Attributes:
        metrics: task -> its primary figure and the others.
        accuracy: ``reference`` and ``artefact``, where they were measured.
        cost: the same, where they were counted.
        latency: of the artefact; None where it was not measured.
        comparison: of both in turns; None where they were not.
        identical: whether the two are the same bytes.
        pruning: ``prune.json``; None where nothing was pruned.
    """

    metrics: Mapping[str, Mapping[str, Any]]
    accuracy: Mapping[str, Any]
    cost: Mapping[str, Any]
    latency: Mapping[str, Any] | None = None
    comparison: Mapping[str, Any] | None = None
    identical: bool = False
    pruning: Mapping[str, Any] | None = None

    def gate_facts(self) -> GateFacts:
        """What gates judge.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: a part is not as it should be.
        """
        before = self.accuracy.get("reference") or {}
        after = self.accuracy.get("artefact") or {}
        return GateFacts(
            metrics={name: MetricSpec(**row["primary"]) for name, row in self.metrics.items()},
            accuracy_before=before.get("tasks", {}),
            accuracy_after=after.get("tasks", {}),
            notes={**before.get("notes", {}), **after.get("notes", {})},
            cost_before=_figures(self.cost.get("reference")),
            cost_after=_figures(self.cost.get("artefact")),
            latency=self.latency,
            comparison=self.comparison,
            identical=self.identical,
            against=str(before.get("of", "")),
            other_metrics={
                name: {other["key"]: MetricSpec(**other) for other in row.get("secondary", ())}
                for name, row in self.metrics.items()
            },
            class_metrics={
                name: MetricSpec(**row["classes"])
                for name, row in self.metrics.items()
                if row.get("classes")
            },
            classes_before=before.get("classes", {}),
            classes_after=after.get("classes", {}),
        )


def metric_row(metric: MetricSpec) -> dict[str, str]:
    """A figure as ``accuracy.json`` and gates know it."""
    return {key: str(getattr(metric, key)) for key in ("key", "label", "direction", "unit")}


def metric_rows(task: Task) -> dict[str, Any]:
    """All figures of a task: ``primary``, ``secondary``, and ``classes`` where it has some."""
    rows: dict[str, Any] = {
        "primary": metric_row(task.primary),
        "secondary": [metric_row(metric) for metric in task.secondary],
    }
    return rows if task.class_figure is None else rows | {"classes": metric_row(task.class_figure)}


def _figures(data: Mapping[str, Any] | None) -> dict[str, float | None]:
    return {key: float(data[key]) for key in COST_FIGURES if data and data.get(key) is not None}


@dataclass(frozen=True)
class RunRecord:
    """A run folder, read strictly.

    Attributes:
        folder: of the run.
        facts: ``run.json``.
    """

    folder: Path
    facts: Mapping[str, Any]

    @staticmethod
    def open(folder: Path) -> RunRecord:
        """Read ``run.json``.

        Raises:
            InputRefused: not a run's folder, not readable, or written by a later version.
        """
        path = folder / RUN
        if not path.is_file():
            raise InputRefused(
                "this is not a run folder", where=str(folder), hint="'edgemtl compile' makes one"
            )
        facts = read_json(path)
        if not isinstance(facts, dict):
            raise InputRefused("not a JSON object", where=str(path))
        refuse_unreadable(facts, str(path))
        return RunRecord(folder, facts)

    @property
    def gates(self) -> dict[str, Any]:
        """The ``[gates]`` that it was judged by.

        Raises:
            InputRefused: they are not there.
        """
        try:
            return dict(self.facts["recipe"]["gates"])
        except (KeyError, TypeError, ValueError) as error:
            raise self.refusal(error) from error

    def measured(self) -> Measured:
        """What was found out; parts that the run did not come to are empty.

        Raises:
            InputRefused: a file is not readable.
        """
        accuracy = self._object(ACCURACY)
        return Measured(
            accuracy.get("metrics") or {},
            accuracy,
            self._object(COST),
            self._document(f"{BENCH}/{LATENCY}"),
            self._document(f"{BENCH}/{COMPARISON}"),
            (self.folder / BENCH / IDENTICAL).exists(),
            self._document(PRUNE),
        )

    def latency(self) -> LatencyResult | None:
        """Of the artefact; None where it was not measured.

        Raises:
            InputRefused: not readable.
        """
        found = self._document(f"{BENCH}/{LATENCY}")
        return None if found is None else LatencyResult.from_dict(found)

    def refusal(self, error: Exception) -> InputRefused:
        """What is said of a part that is not as it should be."""
        return InputRefused(f"the run is not readable: {error!r}", where=str(self.folder))

    def _document(self, name: str) -> Any:
        path = self.folder / name
        if not path.is_file():
            return None
        found = read_json(path)
        if isinstance(found, dict):
            refuse_unreadable(found, str(path))
        return found

    def _object(self, name: str) -> Mapping[str, Any]:
        found = self._document(name)
        if found is not None and not isinstance(found, dict):
            raise InputRefused("not a JSON object", where=str(self.folder / name))
        return found or {}
