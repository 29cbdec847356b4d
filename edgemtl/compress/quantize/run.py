"""Quantise an ONNX file so that every task keeps its accuracy."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.batches import Prepared, prepare
from edgemtl.compress.quantize.bias import bias_shifts, shift_biases
from edgemtl.compress.quantize.equalise import equalise
from edgemtl.compress.quantize.halves import to_float16
from edgemtl.compress.quantize.judge import Judge, region_costs
from edgemtl.compress.quantize.layers import Layer, find_layers, regions
from edgemtl.compress.quantize.qdq import insert_qdq
from edgemtl.compress.quantize.ranges import magnitudes
from edgemtl.compress.quantize.results import (
    Culprit,
    QuantizeOptions,
    QuantizeResult,
    TaskVerdict,
)
from edgemtl.compress.quantize.search import failing, fewest, rank
from edgemtl.compress.quantize.simulate import Images, simulation
from edgemtl.data.preprocess import InputSpec
from edgemtl.data.samples import Dataset
from edgemtl.errors import InputRefused, StageFailed, UsageError
from edgemtl.export.differences import difference
from edgemtl.files import write_atomically
from edgemtl.tasks.base import Task

if TYPE_CHECKING:
    from onnx import ModelProto

Tell = Callable[[str], None]
#: regions whose cost is estimated; larger networks are grouped more coarsely
MOST_REGIONS = 128
#: lowest opset with scales per channel
LOWEST_OPSET = 13
#: largest relative difference that an exact rescaling may make
EXACT = 1e-3
BY_REQUEST = "asked for"


def quantize(
    onnx_path: Path,
    output_path: Path,
    tasks: Sequence[Task],
    input_spec: InputSpec,
    calibration: Dataset,
    options: QuantizeOptions | None = None,
    judge: Dataset | None = None,
    tell: Tell = lambda line: None,
) -> QuantizeResult:
    """Write a quantised copy of an ONNX file; the same input gives the same bytes.

    Layers that have to stay in float32 for a task to keep its budget are found by measuring: an
    estimate ranks them, true evaluations decide how many (at most ``options.max_evaluations``).

    Args:
        onnx_path: float32, simplified, with static shapes.
        output_path: where to write.
        tasks: of the network.
        input_spec: its input.
        calibration: pictures of the training data, labelled where budgets are to be judged. Some
            calibrate, others are held out to judge by. Never the split that accuracy is reported
            on.
        options: see there.
        judge: other labelled pictures to judge by; instead of held-out ones.
        tell: told what goes on.

    Raises:
        UsageError: an option makes no sense, or names a task that is not there.
        InputRefused: the file or the pictures cannot be read.
        StageFailed: nothing in the graph can be quantised, or a step failed.
    """
    options = options or QuantizeOptions()
    options.check()
    unknown = sorted(set(options.budgets) - {task.name for task in tasks})
    if unknown:
        raise UsageError(
            f"there is a budget for task '{unknown[0]}', which the network does not have",
            hint=f"its tasks: {', '.join(task.name for task in tasks)}",
        )
    model = _load(onnx_path)
    layers = find_layers(model)
    forced = {layer.node for layer in layers if _named(layer, options.keep_float)}
    if len(forced) == len(layers):
        raise StageFailed(
            "no layer is left to quantise"
            if layers
            else "the graph has no convolution or matrix product with a constant weight",
            where=onnx_path.name,
        )
    for pattern in options.keep_float:
        if not any(_named(layer, (pattern,)) for layer in layers):
            raise UsageError(f"keep_float: '{pattern}' matches no layer")
    pictures, held_out = _split(calibration, options, needed=bool(options.budgets))
    images = _prepare(pictures, input_spec)
    tell(f"{len(layers) - len(forced)} layers, {len(images)} calibration pictures")
    notes: list[str] = []
    writer: _Writer = (
        _Int8(model, layers, images, options, notes, tell)
        if options.precision == "int8"
        else _Float16(model)
    )
    judged = judge if judge is not None else held_out
    outcome = _Outcome(frozenset(forced), (), {}, 0)
    if options.budgets:
        outcome = _within_budgets(
            model, writer, layers, forced, tasks, input_spec, judged, options, tell
        )
        late = failing(outcome.verdicts)
        if late:
            notes.append(f"not inside the budget: {', '.join(late)}")
    final = writer.write(outcome.kept)
    data = final.SerializeToString(deterministic=True)
    write_atomically(output_path, lambda stream: stream.write(data))
    for note in notes:
        tell(note)
    return QuantizeResult(
        output_path,
        options.precision,
        tuple(layer.node for layer in layers if layer.node not in outcome.kept),
        {
            layer.node: BY_REQUEST if layer.node in forced else outcome.reason(layer.node)
            for layer in layers
            if layer.node in outcome.kept
        },
        outcome.culprits,
        outcome.verdicts,
        outcome.evaluations,
        len(images),
        len(judged) if options.budgets else 0,
        options.method,
        options.seed,
        onnx_path.stat().st_size,
        output_path.stat().st_size,
        tuple(notes),
    )


@dataclass(frozen=True)
class _Outcome:
    """What stays in float32, and what was measured."""

    kept: frozenset[str]
    culprits: tuple[Culprit, ...]
    verdicts: Mapping[str, TaskVerdict]
    evaluations: int
    reasons: Mapping[str, str] | None = None

    def reason(self, node: str) -> str:
        """Why a layer stayed in float32."""
        return (self.reasons or {}).get(node, "")


def _within_budgets(
    model: ModelProto,
    writer: _Writer,
    layers: Sequence[Layer],
    forced: Collection[str],
    tasks: Sequence[Task],
    spec: InputSpec,
    dataset: Dataset,
    options: QuantizeOptions,
    tell: Tell,
) -> _Outcome:
    """Quantise everything; where a task loses too much, find what to leave in float32."""
    tell(f"judging on {len(dataset)} pictures")
    judge = Judge(model, tasks, spec, dataset, options.budgets)
    always = frozenset(forced)
    full = judge(writer.write(always))
    tell(f"all {options.precision}: {_told(full)}")
    late = [name for name in failing(full) if full[name].drop is not None]
    if not late:
        return _Outcome(always, (), full, judge.evaluations)
    free = [layer for layer in layers if layer.node not in always]
    grouped = regions(free, MOST_REGIONS)
    nodes = {name: frozenset(layer.node for layer in group) for name, group in grouped.items()}
    everything = frozenset(layer.node for layer in layers)
    probes = [
        prepare(s, spec) for s in dataset.subset(range(min(options.probe_images, len(dataset))))
    ]
    costs = region_costs(
        model,
        {name: lambda own=own: writer.write(everything - own) for name, own in nodes.items()},
        tasks,
        probes,
        _Canvases(probes),
        spec.size,
        tell,
    )
    order = rank(costs, late)

    def attempt(kept: Sequence[str]) -> Mapping[str, TaskVerdict]:
        stays = always.union(*(nodes[name] for name in kept))
        verdicts = judge(writer.write(stays))
        tell(f"{len(kept)} region(s) in float32: {_told(verdicts)}")
        return verdicts

    found = fewest(order, attempt, full, options.max_evaluations - judge.evaluations)
    totals = {t.name: sum(max(cost[t.name], 0) for cost in costs.values()) for t in tasks}
    culprits = tuple(
        Culprit(
            name,
            tuple(dict.fromkeys(layer.module for layer in grouped[name])),
            {
                task: max(cost, 0) / totals[task] if totals[task] > 0 else 0.0
                for task, cost in costs[name].items()
            },
            name in found.kept,
        )
        for name in order
    )
    worst = {row.region: max(late, key=lambda task, row=row: row.costs[task]) for row in culprits}
    reasons = {
        node: f"{row.costs[worst[row.region]]:.0%} of what quantising costs task "
        f"'{worst[row.region]}'"
        for row in culprits
        if row.kept
        for node in nodes[row.region]
    }
    kept = always.union(*(nodes[name] for name in found.kept))
    return _Outcome(kept, culprits, found.verdicts, judge.evaluations, reasons)


class _Writer:
    """Writes the graph with some layers left in float32."""

    def write(self, kept: Collection[str]) -> ModelProto:
        """A new graph; ``kept`` are node names of layers."""
        raise NotImplementedError


class _Float16(_Writer):
    def __init__(self, model: ModelProto) -> None:
        self._model = model

    def write(self, kept: Collection[str]) -> ModelProto:
        return to_float16(self._model, kept)


class _Int8(_Writer):
    """Equalised, calibrated and bias-corrected once; then any choice of layers can be written."""

    def __init__(
        self,
        model: ModelProto,
        layers: Sequence[Layer],
        images: Images,
        options: QuantizeOptions,
        notes: list[str],
        tell: Tell,
    ) -> None:
        opset = next(entry.version for entry in model.opset_import if entry.domain == "")
        if opset < LOWEST_OPSET:
            raise StageFailed(
                f"the graph is in opset {opset}; int8 per channel needs {LOWEST_OPSET}",
                hint="export with a higher opset",
            )
        self._layers = layers
        self._model = model
        if options.equalise:
            equal, joints = equalise(model, layers, images)
            change = _largest_change(model, equal, images[0]) if joints else 0.0
            if change <= EXACT:
                self._model = equal
                tell(f"{joints} tensors rescaled")
            else:
                notes.append(f"not equalised: outputs would change by {change:.2g} of their range")
        sources = list(dict.fromkeys(layer.source for layer in layers))
        tell(f"ranges of {len(sources)} tensors ({options.method})")
        self._magnitudes = magnitudes(self._model, sources, images, options.method)
        silent = [name for name, size in self._magnitudes.items() if size == 0]
        if silent:
            notes.append(f"always zero on the calibration pictures: {', '.join(silent[:3])}")
        self._shifts: dict[str, NDArray[np.float32]] = {}
        if options.correct_bias:
            tell("mean errors per channel")
            rounded = insert_qdq(self._model, layers, self._magnitudes)
            self._shifts = bias_shifts(self._model, rounded, layers, images)

    def write(self, kept: Collection[str]) -> ModelProto:
        chosen = [layer for layer in self._layers if layer.node not in kept]
        written = insert_qdq(self._model, chosen, self._magnitudes)
        nodes = {layer.node for layer in chosen}
        shift_biases(written, {k: v for k, v in self._shifts.items() if k in nodes})
        return written


class _Canvases(Sequence[NDArray[np.float32]]):
    """Prepared pictures one by one as a network is fed them; float16 until asked for."""

    def __init__(self, prepared: Sequence[Prepared]) -> None:
        self._prepared = prepared

    def __len__(self) -> int:
        return len(self._prepared)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[NDArray[np.float32]]: ...

    def __getitem__(
        self, index: int | slice
    ) -> NDArray[np.float32] | Sequence[NDArray[np.float32]]:
        if isinstance(index, slice):
            return _Canvases(self._prepared[index])
        return self._prepared[index].canvas.astype(np.float32)[None]


def _load(path: Path) -> ModelProto:
    import onnx

    try:
        return onnx.load(path)
    except FileNotFoundError as error:
        raise InputRefused("there is no such file", where=str(path)) from error
    except Exception as error:  # protobuf raises its own kinds
        raise InputRefused("this is not a readable ONNX file", where=str(path)) from error


def _named(layer: Layer, patterns: Sequence[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(layer.node, pattern)
        or fnmatch.fnmatchcase(layer.module, pattern)
        or fnmatch.fnmatchcase(layer.module, f"{pattern}.*")
        for pattern in patterns
    )


def _split(dataset: Dataset, options: QuantizeOptions, needed: bool) -> tuple[Dataset, Dataset]:
    """Calibration pictures, and others to judge by; a small set gives each its half."""
    order = np.random.default_rng(options.seed).permutation(len(dataset)).tolist()
    count = options.images
    if needed:
        count = min(count, len(order) // 2)
    judged = order[count : count + options.judge_images] if needed else []
    if not order or (needed and not (count and judged)):
        raise InputRefused(
            f"{len(order)} picture(s) are too few to calibrate and judge on", where=dataset.name
        )
    return dataset.subset(sorted(order[:count])), dataset.subset(judged)


def _prepare(dataset: Dataset, spec: InputSpec) -> Images:
    prepared = [prepare(sample, spec) for sample in dataset]
    if not prepared:
        found = "; ".join(dataset.problems[:3])
        raise InputRefused(f"no picture could be read ({found})", where=dataset.name)
    return _Canvases(prepared)


def _largest_change(one: ModelProto, other: ModelProto, image: NDArray[np.float32]) -> float:
    before, after = simulation(one)(image), simulation(other)(image)
    changes = [difference(before[name], after[name]) for name in before]
    return max(float("inf") if c.problem else c.max_relative for c in changes)


def _told(verdicts: Mapping[str, TaskVerdict]) -> str:
    return ", ".join(
        f"{name} {'?' if verdict.drop is None else f'{verdict.drop:+.2%}'}"
        for name, verdict in verdicts.items()
    )
