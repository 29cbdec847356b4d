"""What a run folder says, as plain values; everything may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgemtl.gates.judge import GateReport
from edgemtl.measure.accuracy import AccuracyReport
from edgemtl.measure.results import Comparison, LatencyResult
from edgemtl.measure.statistics import Ratio
from edgemtl.record.designs import DesignFacts
from edgemtl.record.mask_story import MaskFacts
from edgemtl.tasks.base import MetricSpec


@dataclass(frozen=True)
class ModelFacts:
    """The network that went in; ``parameters`` counts its weights."""

    path: str = ""
    family: str = ""
    variant: str = ""
    sha256: str = ""
    parameters: int | None = None


@dataclass(frozen=True)
class TargetFacts:
    """What it was built for."""

    name: str = ""
    backend: str = ""
    device: str = ""
    description: str = ""


@dataclass(frozen=True)
class StageFacts:
    """How one stage went; ``status`` is ``done``, ``cached``, ``failed``, ``skipped`` or other."""

    name: str
    status: str
    seconds: float | None
    key: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why a run stopped."""

    message: str
    where: str = ""
    hint: str = ""


@dataclass(frozen=True)
class RunFacts:
    """``run.json``."""

    name: str = ""
    command: str = ""
    model: ModelFacts = ModelFacts()
    target: TargetFacts = TargetFacts()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[StageFacts, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    started_utc: str = ""
    status: str = ""
    exit_code: int | None = None
    error: Failure | None = None
    bundle: str = ""


@dataclass(frozen=True)
class TaskMetrics:
    """How a task is judged, and which figures stand beside; the figure of each class, if any."""

    primary: MetricSpec
    secondary: tuple[MetricSpec, ...] = ()
    classes: MetricSpec | None = None


@dataclass(frozen=True)
class Accuracy:
    """``accuracy.json``."""

    metrics: Mapping[str, TaskMetrics] = field(default_factory=dict)
    reference: AccuracyReport | None = None
    artefact: AccuracyReport | None = None


@dataclass(frozen=True)
class NodeFacts:
    """What one node of the graph costs."""

    node: str
    op: str
    module: str
    macs: float
    parameters: float


@dataclass(frozen=True)
class CostFacts:
    """What one network costs: ``figures`` by key (``macs``, ``size_bytes``, ...).

    ``network`` has ``macs`` and ``parameters`` of the torch network that the graph was written
    from, where a run says so: before norms are folded and tables stored.
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    per_node: tuple[NodeFacts, ...] = ()
    uncounted: tuple[str, ...] = ()
    network: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerFacts:
    """What one layer of the runtime takes: ``ms``, and the ONNX nodes it came from."""

    layer: str
    kind: str
    nodes: tuple[str, ...]
    ms: float

    @property
    def module(self) -> str:
        """Dotted path of the torch module that its main node came from; empty for none."""
        return self.nodes[0].rpartition("/")[0] if self.nodes else ""


@dataclass(frozen=True)
class ParityRow:
    """One output in two forms of the network.

    Attributes:
        before, after: the two forms (``torch``, ``onnx``, ...).
        position: of the output within its form, for finding it in the file.
        max_abs: largest absolute difference; relative: the same as a share of the output's range.
            None where the two could not be compared.
        snr_db: signal to noise in decibels; None when there is no noise, or no comparison.
        verdict: ``pass`` or ``fail``.
        note: one sentence.
    """

    before: str
    after: str
    position: int
    output: str
    task: str
    max_abs: float | None
    relative: float | None
    snr_db: float | None
    verdict: Literal["pass", "fail"]
    note: str = ""


@dataclass(frozen=True)
class Change:
    """One group of channels or one layer that a stage changed.

    Attributes:
        name: of the group or layer.
        before, after: its width, or what else is counted.
        precision: what it computes in, where that changed.
        drops: task -> what this change alone cost, as a share (positive is worse).
    """

    name: str
    before: float | None
    after: float | None
    precision: str = ""
    drops: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Changes:
    """``prune.json`` or ``quantize.json``; ``notes`` are sentences for the reader."""

    method: str
    rows: tuple[Change, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """Predictions drawn on one picture, as PNG bytes, before and after."""

    name: str
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True)
class RunData:
    """A run folder.

    Attributes:
        layers: what the runtime's profiler says of each layer, when it was asked.
        design: modelled plan of an accelerator, where the target has one.
        not_timed: why no latency was measured, when the run left it out on purpose.
        against_float: how much faster the artefact is than the same network in float32, where it is
            in a lower precision.
        identical: whether the artefact has the very bytes of the uncompressed one, so that there
            was nothing to compare.
        masks: what the mask stage did, where the run had one.
        problems: one sentence per file that is missing or not readable and that a complete run
            would have.
    """

    folder: str
    run: RunFacts | None = None
    accuracy: Accuracy | None = None
    cost_before: CostFacts | None = None
    cost_after: CostFacts | None = None
    parity: tuple[ParityRow, ...] | None = None
    latency_before: LatencyResult | None = None
    latency_after: LatencyResult | None = None
    comparison: Comparison | None = None
    against_float: Ratio | None = None
    layers: tuple[LayerFacts, ...] = ()
    design: DesignFacts | None = None
    not_timed: str = ""
    identical: bool = False
    gates: GateReport | None = None
    pruning: Changes | None = None
    masks: MaskFacts | None = None
    quantisation: Changes | None = None
    pictures: tuple[Picture, ...] = ()
    problems: tuple[str, ...] = ()
