"""Accuracy per task: what the accuracy stages, the reference's cache and the verb share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgemtl.data.preprocess import InputSpec
from edgemtl.data.samples import Dataset
from edgemtl.measure.accuracy import AccuracyReport, Run, evaluate, network_runner
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.record.run_record import ACCURACY
from edgemtl.tasks.base import Task

#: problems in the data that a summary names; accuracy.json has them all
NAMED = 3


@dataclass(frozen=True)
class EvaluateRequest:
    """A network in any form, to be measured on labelled pictures.

    Attributes:
        run: (1, 3, H, W) float32 -> output name -> (1, ...).
        tasks: to measure, with those they require.
        spec: the network's input.
        dataset: labelled pictures.
        of: whose accuracy it is, where others are compared with it and that needs saying.
        reference: the uncompressed network, for tasks whose label is its answer.
    """

    run: Run
    tasks: Sequence[Task]
    spec: InputSpec
    dataset: Dataset
    of: str = ""
    reference: Run | None = None

    @staticmethod
    def of_network(
        network: MultiTaskNetwork, tasks: Sequence[str], dataset: Dataset, of: str = ""
    ) -> EvaluateRequest:
        """A torch network's tasks of these names; it is its own reference.

        Raises:
            UsageError: it lacks a task.
        """
        names, spec = list(tasks), network.input_spec
        run = network_runner(network, names)
        return EvaluateRequest(run, network.selected(names), spec, dataset, of, run)


@dataclass(frozen=True)
class EvaluateOutcome:
    """Accuracy per task."""

    report: AccuracyReport

    def documents(self) -> dict[str, Any]:
        """``accuracy.json``."""
        return {ACCURACY: self.report.to_dict()}

    def summary(self) -> list[str]:
        """On what it was measured, and what could not be used."""
        report = self.report
        told = [f"{report.images} pictures of {report.data}"]
        if report.skipped:
            named = "; ".join(report.skipped[:NAMED])
            more = "; ..." if len(report.skipped) > NAMED else ""
            told.append(f"{len(report.skipped)} problem(s) in the data: {named}{more}")
        return told


def evaluate_model(request: EvaluateRequest) -> EvaluateOutcome:
    """Measure every task, one letterboxed picture at a time.

    Raises:
        InputRefused: no picture decodes.
    """
    report = evaluate(request.run, request.tasks, request.spec, request.dataset, request.reference)
    return EvaluateOutcome(replace(report, of=request.of))
