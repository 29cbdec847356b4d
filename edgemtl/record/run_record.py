"""A run folder: its files, their layouts, and the strict reader that gates and baselines use.

A page is made of whatever can be read (:func:`edgemtl.record.load.load_run`); a verdict is not, so
here a file that is missing or broken is refused. All files are UTF-8 JSON; all but ``run.json`` lie
beside it and have its version.

| file | what is in it |
|---|---|
| ``run.json`` | ``schema_version``, ``name``, ``model``, ``target``, ``recipe``, ``versions``, ``machine``, ``started_utc``, ``stages`` (``name``, ``status``, ``seconds``, ``key``), ``status``, ``exit_code``, ``error``, ``bundle`` |
| ``accuracy.json`` | ``reference``, ``artefact``: ``AccuracyReport``; ``metrics``: task -> ``primary``, ``secondary`` |
| ``cost.json`` | ``reference``, ``artefact``: ``macs``, ``parameters``, ``size_bytes``, ... |
| ``parity.json`` | ``reference``, ``stages``: form -> ``ParityReport`` |
| ``bench/artefact.json``, ``bench/reference.json`` | ``LatencyResult`` |
| ``bench/comparison.json`` | ``Comparison``: artefact and uncompressed network in turns |
| ``bench/identical.json``, ``bench/skipped.json`` | why there is no comparison, or no latency |
| ``prune.json``, ``quantize.json``, ``mask.json`` | what compression did |
| ``gates.json`` | ``GateReport`` |

Version 2 (2026-12) differs from 1 in that a stage may be ``skipped``, with the reason as its note.
"""  # noqa: E501 - rows of a table

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemtl.errors import InputRefused
from edgemtl.files import read_json
from edgemtl.gates.judge import GateFacts
from edgemtl.measure.results import LatencyResult
from edgemtl.tasks.base import MetricSpec

RUN = "run.json"
SCHEMA_VERSION = 2
READABLE = (1, 2)
ACCURACY, COST, PARITY, GATES = "accuracy.json", "cost.json", "parity.json", "gates.json"
PRUNE, QUANTIZE, MASK, JUNIT = "prune.json", "quantize.json", "mask.json", "junit.xml"
BENCH = "bench"
LATENCY, REFERENCE, COMPARISON = "artefact.json", "reference.json", "comparison.json"
IDENTICAL, SKIPPED = "identical.json", "skipped.json"
PRECISION, LAYERS = "precision.json", "layers.json"
#: what lies in ``bench/``
TIMINGS = (LATENCY, REFERENCE, COMPARISON, PRECISION, LAYERS, SKIPPED, IDENTICAL)
COST_FIGURES = ("macs", "parameters", "size_bytes")


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
        )


def metric_row(metric: MetricSpec) -> dict[str, str]:
    """A figure as ``accuracy.json`` and gates know it."""
    return {key: str(getattr(metric, key)) for key in ("key", "label", "direction", "unit")}


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
        version = facts.get("schema_version", 1)
        if version not in READABLE:
            raise InputRefused(
                f"the run folder has version {version}, this EdgeMTL reads "
                f"{' and '.join(map(str, READABLE))}",
                where=str(path),
                hint="use the EdgeMTL that wrote it, or a later one",
            )
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
        return read_json(path) if path.is_file() else None

    def _object(self, name: str) -> Mapping[str, Any]:
        found = self._document(name)
        if found is not None and not isinstance(found, dict):
            raise InputRefused("not a JSON object", where=str(self.folder / name))
        return found or {}
