"""Whether forms of a network compute the same: what the parity stage and the verb share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.base import Backend
from edgemtl.backends.int8 import unsigned_activations
from edgemtl.errors import ParityFailed, StageFailed
from edgemtl.exporting.parity import (
    SAME_INT8,
    TOLERANCES,
    BisectResult,
    OutputParity,
    ParityReport,
    Run,
    Tolerance,
    bisect,
    check_chain,
    compare_outputs,
    onnx_runner,
)
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.record.run_record import PARITY
from edgemtl.tasks.base import Task

Images = NDArray[np.float32]


@dataclass(frozen=True)
class LoweredGraph:
    """A graph in lower precision, between the float32 forms and the artefact made from it.

    Attributes:
        precision: that it is written in.
        run: runs it as written.
    """

    precision: str
    run: Run


@dataclass(frozen=True)
class ParityRequest:
    """Forms of one network on the same inputs.

    Attributes:
        forms: float32 forms by name, the reference first.
        artefact: runs what the target's backend made.
        inputs: (1, 3, H, W) each.
        tasks: whose outputs are compared.
        lowered: the graph that the artefact was made from, where it is in lower precision. The
            artefact is then held against it; how far it is from float32 is told, and what that
            costs is judged by the tasks' accuracy gates.
    """

    forms: Mapping[str, Run]
    artefact: Run
    inputs: Sequence[Images]
    tasks: Sequence[Task]
    lowered: LoweredGraph | None = None


@dataclass(frozen=True)
class ParityOutcome:
    """What was found, as ``parity.json`` has it."""

    data: Mapping[str, Any]

    def documents(self) -> dict[str, Any]:
        """``parity.json``."""
        return {PARITY: dict(self.data)}

    def summary(self) -> list[str]:
        """The largest difference of each kind of comparison, in words."""
        found: dict[str, float] = {}
        images = 0
        for form, report in self.data["stages"].items():
            against = report.get("reference", self.data["reference"])
            kind = "fp32" if report["precision"] == "fp32" else f"{form} against {against}"
            images = report["inputs"]
            for output in report["outputs"]:
                value = output["max_relative"]
                found[kind] = max(found.get(kind, 0.0), float("inf") if value is None else value)
        told = [
            f"{value:.1e}{'' if kind == 'fp32' else f' ({kind})'}" for kind, value in found.items()
        ]
        return [f"{images} pictures, largest difference {', '.join(told)} of an output's range"]

    def require(self, advice: str) -> None:
        """Raise :class:`ParityFailed` naming the first form and output that differ."""
        for form, report in self.data["stages"].items():
            for output in report["outputs"]:
                if not output["ok"]:
                    raise ParityFailed(
                        f"task '{output['task']}', output '{output['name']}' {_apart(output)} "
                        f"({report['max_relative_allowed']} allowed)",
                        where=f"{report.get('reference', self.data['reference'])} against {form}",
                        hint=advice,
                    )


def check_parity(request: ParityRequest) -> ParityOutcome:
    """Run all forms on the same inputs and compare.

    Raises:
        StageFailed: there is no input, or a form cannot run.
    """
    lowered = request.lowered
    if lowered is None:
        forms = {**request.forms, "artefact": request.artefact}
        return ParityOutcome(check_chain(forms, request.inputs, request.tasks).to_dict())
    precision = lowered.precision
    told = {precision: TOLERANCES[precision]}
    report = check_chain(
        {**request.forms, precision: lowered.run}, request.inputs, request.tasks, told
    )
    own = check_chain(
        {precision: lowered.run, "artefact": request.artefact},
        request.inputs,
        request.tasks,
        _same(precision),
    )
    data = report.to_dict()
    artefact = own.to_dict()["stages"]["artefact"]
    data["stages"]["artefact"] = {"reference": precision, **artefact}
    data["passed"] = report.passed and own.passed
    return ParityOutcome(data)


def _same(precision: str) -> Tolerance:
    """How far a runtime may be from the graph that it was given."""
    return SAME_INT8 if precision == "int8" else TOLERANCES[precision]


def as_written(graph: Path, backend: Backend | None, folder: Path) -> Run:
    """A graph, run as written, in the signedness of int8 that the backend reads.

    Args:
        graph: ONNX file.
        backend: whose runtime is held against it; None for none.
        folder: for a file that is gone again on return.

    Raises:
        StageFailed: it cannot be loaded.
    """
    import onnx

    if backend is None or not backend.capabilities.unsigned_int8:
        return onnx_runner(graph)
    place = folder / "reference.onnx"
    place.write_bytes(unsigned_activations(onnx.load(graph)).SerializeToString())
    try:
        return onnx_runner(place)
    finally:
        place.unlink()


@dataclass(frozen=True)
class Side:
    """One of two forms that are compared.

    Attributes:
        run: as its owner runs it: torch, or the target's runtime.
        layers: what can be walked layer by layer: the network, or the ONNX file of the artefact.
        backend: of the runtime; None for torch.
    """

    run: Run
    layers: MultiTaskNetwork | Path
    backend: Backend | None = None


@dataclass(frozen=True)
class RuntimeDifference:
    """A runtime that does not compute the graph it was given.

    Attributes:
        side: whose runtime, ``a`` or ``b``.
        backend: its name.
        output: the furthest apart.
    """

    side: str
    backend: str
    output: OutputParity

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"side": self.side, "backend": self.backend, **self.output.to_dict()}


@dataclass(frozen=True)
class Culprit:
    """Where two forms part, on the picture on which they are furthest apart.

    Attributes:
        image: position of that picture.
        layers: the first layer of the graphs that differs, or how many agree. In lower precision
            layers differ by design (channels are rescaled, values rounded).
        runtimes: that differ from their own graphs.
        graphs_agree: whether the graphs' answers do, as written.
    """

    image: int
    layers: BisectResult
    runtimes: tuple[RuntimeDifference, ...] = ()
    graphs_agree: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        found = [one.to_dict() for one in self.runtimes]
        more = {"image": self.image, "runtimes": found, "graphs_agree": self.graphs_agree}
        return {**self.layers.to_dict(), **more}

    def told(self) -> str:
        """The finding in a sentence."""
        layers, on = self.layers, f"on picture {self.image + 1}"
        said = [
            f"the runtime of {one.side} ({one.backend}) differs from its own graph: output "
            f"'{one.output.name}' of task '{one.output.task}' by "
            f"{one.output.difference.problem or _share(one.output)}"
            for one in self.runtimes
        ]
        if said and self.graphs_agree:
            how = "the graphs' answers agree" if layers.found else "the graph agrees layer by layer"
            where = f"({layers.compared} layers compared, {on})"
            return f"{how}; the runtime differs {where}: {'; '.join(said)}"
        if layers.found:
            module = layers.module or "(network)"
            first = f"first layer that differs: {layers.op} '{layers.node}' (module {module}), {on}"
            return "; ".join([first, *said])
        return "; ".join([f"no layer differs ({layers.compared} compared, {on})", *said])


def _apart(output: Mapping[str, Any]) -> str:
    """How far an output of a stored report is off; null stands for no share, and for infinity."""
    if output.get("problem"):
        return f"cannot be compared: {output['problem']}"
    if output["max_relative"] is None:
        return f"is off by up to {output['max_abs']} where the reference is 0 throughout"
    return f"differs by {output['max_relative']} of its range"


def _share(output: OutputParity) -> str:
    if not math.isfinite(output.difference.max_relative):
        return output.difference.told
    return f"{output.difference.max_relative:.2e} of its range"


@dataclass(frozen=True)
class Compared:
    """Two forms on the same pictures.

    Attributes:
        report: per output and task, over all pictures.
        culprit: where they part, if that was asked.
    """

    report: ParityReport
    culprit: Culprit | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``parity --json``."""
        found = self.report.to_dict()
        return found if self.culprit is None else {**found, "bisect": self.culprit.to_dict()}


def compare_sides(
    a: Side,
    b: Side,
    inputs: Sequence[Images],
    tasks: Sequence[Task],
    tolerance: Tolerance,
    find_layer: bool,
    folder: Path,
) -> Compared:
    """Compare two forms, and find the layer or the runtime where they part.

    Args:
        a, b: the reference, and what is compared with it; ``b`` has a graph where a layer is to be
            found.
        inputs: (1, 3, H, W) each, at least one.
        tasks: whose outputs are compared.
        tolerance: what is allowed.
        find_layer: also look for the culprit, on the picture that differs most.
        folder: for temporary files.

    Raises:
        StageFailed: a form cannot run, or the graphs have no layer in common.
    """
    first, second = (_answers(side.run, inputs) for side in (a, b))
    report = compare_outputs(_joined(first), _joined(second), tasks, tolerance)
    if not find_layer:
        return Compared(report)
    assert isinstance(b.layers, Path)
    image = _furthest(first, second, tasks, tolerance)
    runtimes = []
    agreed = True
    for name, side, answers in (("a", a, first), ("b", b, second)):
        if side.backend is None or not isinstance(side.layers, Path):
            continue
        graph = as_written(side.layers, side.backend, folder)(inputs[image])
        own = compare_outputs(graph, answers[image], tasks, _same(tolerance.precision))
        if not own.passed:
            runtimes.append(RuntimeDifference(name, side.backend.name, own.worst()))
        if name == "b":
            agreed = compare_outputs(first[image], graph, tasks, tolerance).passed
    layers = bisect(a.layers, b.layers, inputs[image])
    if layers.found and runtimes and agreed:
        # The answers of the graphs agree: layers may be as far apart as these may.
        layers = bisect(a.layers, b.layers, inputs[image], tolerance.max_relative)
    return Compared(report, Culprit(image, layers, tuple(runtimes), agreed))


def _answers(run: Run, inputs: Sequence[Images]) -> list[dict[str, Images]]:
    # a runtime may reuse its buffers for the next picture
    return [{k: np.array(v) for k, v in run(images).items()} for images in inputs]


def _joined(answers: Sequence[Mapping[str, Images]]) -> dict[str, Images]:
    if not answers:
        raise StageFailed("parity has no input to compare on")
    return {name: np.concatenate([one[name] for one in answers]) for name in answers[0]}


def _furthest(
    a: Sequence[Mapping[str, Images]],
    b: Sequence[Mapping[str, Images]],
    tasks: Sequence[Task],
    tolerance: Tolerance,
) -> int:
    """The picture whose answers are furthest apart; one that cannot be compared is furthest."""

    def apart(index: int) -> tuple[bool, bool, float]:
        report = compare_outputs(a[index], b[index], tasks, tolerance)
        worst = report.worst().difference
        return not report.passed, bool(worst.problem), float(np.nan_to_num(worst.max_relative))

    return max(range(len(a)), key=apart)
