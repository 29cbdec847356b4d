"""Is it still the same network? Per output and per task, on real inputs.

The chain torch -> ONNX -> simplified ONNX -> artefact is checked before anything is timed, each
stage against the first, so that small steps cannot add up unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.errors import ParityFailed, StageFailed
from edgemtl.exporting.bisect import BisectResult, bisect
from edgemtl.exporting.differences import Difference, difference
from edgemtl.tasks.base import Task

__all__ = [
    "SAME_INT8",
    "TOLERANCES",
    "BisectResult",
    "ChainReport",
    "Difference",
    "OutputParity",
    "ParityReport",
    "Tolerance",
    "bisect",
    "check_chain",
    "compare_outputs",
    "onnx_runner",
]

#: (B, 3, H, W) float32 -> output name -> (B, ...)
Run = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class Tolerance:
    """How far two forms of a network may be apart.

    Attributes:
        precision: what it is for.
        max_relative: largest absolute error, as a share of the output's range (its span or its
            largest magnitude, whichever is larger).
        informational: whether exceeding it is only told. Lower precision moves outputs by design;
            what that costs is judged by the tasks' accuracy gates. NaN fails all the same.
        min_snr_db: least signal to noise, which is never informational; None for no limit.
    """

    precision: str
    max_relative: float
    informational: bool = False
    min_snr_db: float | None = None

    def accepts(self, found: Difference) -> bool:
        """Whether two forms with this difference are the same network."""
        if self.min_snr_db is not None and not found.snr_db >= self.min_snr_db:
            return False
        return found.within(self.max_relative) or (self.informational and not found.problem)


#: precision -> tolerance. float32 differs by the order of summation only; float16 keeps 11
#: significant bits and bfloat16 8, over some hundred layers; int8 has 256 steps for the range.
TOLERANCES: Mapping[str, Tolerance] = {
    tolerance.precision: tolerance
    for tolerance in (
        Tolerance("fp32", 1e-4),
        Tolerance("fp16", 2e-2),
        Tolerance("bf16", 1e-1, informational=True),
        Tolerance("int8", 2e-1, informational=True),
    )
}
#: a runtime against the int8 graph it was made from: the same numbers are rounded, but where float
#: sums end in another last bit some round to the next step, and single values move visibly. On
#: mos_t and mos_m 24 dB and more are left; a kernel that computes something else leaves under 10.
SAME_INT8 = Tolerance("int8", 2e-1, informational=True, min_snr_db=15.0)


@dataclass(frozen=True)
class OutputParity:
    """One output."""

    name: str
    task: str
    difference: Difference
    ok: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "name": self.name,
            "task": self.task,
            "ok": self.ok,
            **self.difference.to_dict(),
        }


@dataclass(frozen=True)
class ParityReport:
    """Two forms of a network on the same inputs.

    Attributes:
        outputs: every output of the tasks, in order.
        tasks: task name -> whether all its outputs agree.
        tolerance: what was allowed.
        inputs: pictures compared.
        within: whether every output stayed within the tolerance (also when that is informational).
    """

    outputs: tuple[OutputParity, ...]
    tasks: Mapping[str, bool]
    tolerance: Tolerance
    inputs: int
    within: bool

    @property
    def passed(self) -> bool:
        """Whether every task agrees (False when nothing was compared)."""
        return bool(self.tasks) and all(self.tasks.values())

    def worst(self) -> OutputParity:
        """The output that is furthest apart; one that cannot be compared counts as furthest."""
        return max(
            self.outputs,
            key=lambda o: (bool(o.difference.problem), np.nan_to_num(o.difference.max_relative)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "passed": self.passed,
            "within_tolerance": self.within,
            "precision": self.tolerance.precision,
            "max_relative_allowed": self.tolerance.max_relative,
            "informational": self.tolerance.informational,
            "inputs": self.inputs,
            "tasks": dict(self.tasks),
            "outputs": [output.to_dict() for output in self.outputs],
        }


def compare_outputs(
    a: Mapping[str, NDArray[np.float32]],
    b: Mapping[str, NDArray[np.float32]],
    tasks: Sequence[Task],
    tolerance: Tolerance = TOLERANCES["fp32"],
) -> ParityReport:
    """Compare the outputs of these tasks, ``a`` being the reference.

    Args:
        a, b: output name -> (B, ...) for the same B pictures.
        tasks: whose outputs to compare. One that is missing on either side fails; outputs of other
            tasks are not looked at.
        tolerance: what is allowed.
    """
    compared: list[OutputParity] = []
    within = True
    for task in tasks:
        for name in task.outputs:
            absent = [who for who, side in (("the reference", a), ("it", b)) if name not in side]
            if absent:
                nan = float("nan")
                found = Difference(nan, nan, nan, nan, f"{absent[0]} has no such output")
            else:
                found = difference(a[name], b[name])
            within &= found.within(tolerance.max_relative)
            ok = tolerance.accepts(found)
            compared.append(OutputParity(name, task.name, found, ok))
    verdicts = {
        task.name: all(output.ok for output in compared if output.task == task.name)
        for task in tasks
    }
    images = max((len(value) for value in a.values()), default=0)
    return ParityReport(tuple(compared), verdicts, tolerance, images, within)


@dataclass(frozen=True)
class ChainReport:
    """Every stage against the first.

    Attributes:
        reference: name of the first stage.
        stages: stage name -> how it compares, in order.
    """

    reference: str
    stages: Mapping[str, ParityReport]

    @property
    def passed(self) -> bool:
        """Whether every stage agrees."""
        return bool(self.stages) and all(report.passed for report in self.stages.values())

    def require(self) -> None:
        """Raise :class:`ParityFailed` naming the first stage and output that do not agree."""
        for stage, report in self.stages.items():
            if report.passed:
                continue
            bad = next((output for output in report.outputs if not output.ok), None)
            if bad is None:
                raise ParityFailed("nothing was compared", where=stage)
            reason = bad.difference.told
            if not bad.difference.problem:
                reason += f" ({report.tolerance.max_relative:.2g} allowed)"
            raise ParityFailed(
                f"task '{bad.task}', output '{bad.name}': {reason}",
                where=f"{self.reference} against {stage}",
                hint="'edgemtl parity A B --bisect' names the first layer that differs",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON (``parity.json``)."""
        return {
            "passed": self.passed,
            "reference": self.reference,
            "stages": {name: report.to_dict() for name, report in self.stages.items()},
        }


def check_chain(
    runners: Mapping[str, Run],
    inputs: Iterable[NDArray[np.float32]],
    tasks: Sequence[Task],
    tolerances: Mapping[str, Tolerance] | Tolerance = TOLERANCES["fp32"],
) -> ChainReport:
    """Run all stages on the same inputs and compare each with the first.

    Args:
        runners: stage name -> runner, the reference first (``measure.accuracy.network_runner``,
            :func:`onnx_runner`, ``Session.run``).
        inputs: batches of (B, 3, H, W) float32; at least one.
        tasks: whose outputs to compare.
        tolerances: for all stages, or per stage (float32 where one is not named).

    Raises:
        StageFailed: no input, or a stage cannot run.
    """
    collected: dict[str, dict[str, list[NDArray[np.float32]]]] = {name: {} for name in runners}
    count = 0
    for images in inputs:
        count += 1
        for stage, run in runners.items():
            for name, value in run(images).items():
                # a runtime may reuse its buffers for the next picture
                collected[stage].setdefault(name, []).append(np.array(value))
    if count == 0:
        raise StageFailed("parity has no input to compare on")
    outputs = {
        stage: {name: np.concatenate(parts) for name, parts in by_name.items()}
        for stage, by_name in collected.items()
    }
    first, *others = runners
    reports = {}
    for stage in others:
        tolerance = (
            tolerances
            if isinstance(tolerances, Tolerance)
            else tolerances.get(stage, TOLERANCES["fp32"])
        )
        reports[stage] = compare_outputs(outputs[first], outputs[stage], tasks, tolerance)
    return ChainReport(first, reports)


def onnx_runner(path: Path) -> Run:
    """An ONNX file as written: ONNX Runtime with its graph optimisations off.

    Raises:
        StageFailed: it cannot be loaded.
    """
    from edgemtl.exporting.probe import open_plain

    session = open_plain(path)
    names = [output.name for output in session.get_outputs()]
    feed = session.get_inputs()[0].name

    def run(images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        values: list[NDArray[np.float32]] = session.run(names, {feed: images})
        return dict(zip(names, values, strict=True))

    return run
