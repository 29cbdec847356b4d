"""Quantise an ONNX file so that every task keeps its accuracy."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgemtl.backends.int8 import unsigned_activations
from edgemtl.compress.quantize.fallback import Outcome, keep_budgets
from edgemtl.compress.quantize.images import canvases, split
from edgemtl.compress.quantize.judge import AsRun, Judge, as_written, region_costs
from edgemtl.compress.quantize.layers import Layer, find_layers
from edgemtl.compress.quantize.names import shorten_names
from edgemtl.compress.quantize.results import QuantizeOptions, QuantizeResult
from edgemtl.compress.quantize.search import failing
from edgemtl.compress.quantize.writers import Float16Writer, Int8Writer, Writer
from edgemtl.data.preprocess import InputSpec
from edgemtl.data.samples import Dataset
from edgemtl.errors import InputRefused, StageFailed, UsageError
from edgemtl.files import write_atomically
from edgemtl.tasks.base import Task

if TYPE_CHECKING:
    from onnx import ModelProto

_log = logging.getLogger(__name__)

ASKED_FOR = "asked for (keep_float)"


def quantize(
    onnx_path: Path,
    output_path: Path,
    tasks: Sequence[Task],
    input_spec: InputSpec,
    calibration: Dataset,
    options: QuantizeOptions | None = None,
    judge: Dataset | None = None,
) -> QuantizeResult:
    """Write a quantised copy of an ONNX file; the same input gives the same bytes.

    Layers that have to stay in float32 for a task to keep its budget are found by measuring: an
    estimate ranks them, true evaluations decide how many (at most ``options.max_evaluations``). A
    budget that cannot be kept is no error here: the result says so, and the gates judge.

    Args:
        onnx_path: float32, simplified, with static shapes.
        output_path: where to write.
        tasks: of the network.
        input_spec: its input.
        calibration: pictures of the training data, labelled where budgets are to be judged. Some
            calibrate, others are held out to judge by. Never the split that accuracy is reported
            on.
        options: see there.
        judge: other labelled pictures to judge by, instead of held-out ones.

    Raises:
        UsageError: an option makes no sense, or names what is not there.
        InputRefused: the file or the pictures cannot be read.
        StageFailed: nothing in the graph can be quantised, or a step failed.
    """
    options = options or QuantizeOptions()
    options.check()
    _check_budgets(options.budgets, tasks)
    model = _load(onnx_path)
    layers = find_layers(model)
    forced = _forced(layers, options.keep_float, onnx_path)
    judging = options.eval_images if options.budgets and judge is None else 0
    calibrating, held_out, training = split(
        calibration, options.images, judging, options.seed, options.qat_images
    )
    writer: Writer
    if options.precision == "int8":
        images = canvases(calibrating, input_spec)
        _log.info(f"{len(layers) - len(forced)} layers, {len(images)} calibration pictures")
        writer, calibrated = Int8Writer(model, layers, images, options), len(images)
    else:
        writer, calibrated = Float16Writer(model), 0
    outcome, judged = Outcome(writer, forced), judge if judge is not None else held_out
    if options.budgets:
        _log.info(f"judging on {len(judged)} pictures")
        # A graph without int8 comes back equal.
        as_run = unsigned_activations if options.unsigned else as_written
        cost = partial(_costs, model, layers, tasks, input_spec, judged, options, as_run)
        train = None
        if options.qat_steps and isinstance(writer, Int8Writer):
            train = partial(_train, writer, forced, tasks, input_spec, training, options)
        outcome = keep_budgets(
            lambda: Judge(model, tasks, input_spec, judged, options.budgets, as_run),
            writer,
            layers,
            forced,
            cost,
            train,
            options,
        )
    writer = outcome.writer
    written = writer.write(outcome.kept)
    if options.precision == "int8":
        shorten_names(written)
    data = written.SerializeToString(deterministic=True)
    write_atomically(output_path, lambda stream: stream.write(data))
    notes = list(writer.notes)
    if late := failing(outcome.verdicts):
        notes.append(f"not inside their budget: {', '.join(late)}")
    return QuantizeResult(
        output_path,
        options.precision,
        tuple(layer.node for layer in layers if layer.node not in outcome.kept),
        {layer.node: outcome.kept[layer.node] for layer in layers if layer.node in outcome.kept},
        outcome.culprits,
        outcome.verdicts,
        outcome.evaluations,
        calibrated,
        len(judged) if options.budgets else 0,
        options.method if calibrated else "",
        options.seed,
        onnx_path.stat().st_size,
        len(data),
        tuple(notes),
    )


def _train(
    writer: Int8Writer,
    forced: Collection[str],
    tasks: Sequence[Task],
    spec: InputSpec,
    training: Dataset,
    options: QuantizeOptions,
    late: Sequence[str],
) -> Writer:
    """A writer with trained weights; the same one, with a note, where that is not possible."""
    from edgemtl.compress.quantize.recover import retrain

    images = canvases(training, spec, tasks)
    _log.info(f"training {options.qat_steps} steps on {len(images)} pictures")
    size, steps, seed = spec.size, options.qat_steps, options.seed

    def train(
        start: ModelProto,
        teacher: ModelProto,
        layers: Sequence[Layer],
        magnitudes: Mapping[str, float],
    ) -> ModelProto:
        return retrain(
            *(start, teacher, layers, magnitudes, tasks, late, images, size, steps, seed),
            reduce_range=options.reduce_range,
        )

    try:
        trained = writer.trained(forced, train)
    except StageFailed as error:
        writer.notes += (error.message,)
        return writer
    trained.notes += (f"weights trained for {steps} steps while rounded",)
    return trained


def _costs(
    model: ModelProto,
    layers: Sequence[Layer],
    tasks: Sequence[Task],
    spec: InputSpec,
    judged: Dataset,
    options: QuantizeOptions,
    as_run: AsRun,
    writer: Writer,
    nodes: Mapping[str, Collection[str]],
) -> dict[str, dict[str, float]]:
    """What quantising each region alone does to the tasks' answers on the first judge pictures."""
    everything = {layer.node for layer in layers}

    def alone(own: Collection[str]) -> ModelProto:
        return as_run(writer.write(everything.difference(own)))

    probes = judged.subset(range(min(options.probe_images, len(judged))))
    return region_costs(
        model,
        {name: partial(alone, own) for name, own in nodes.items()},
        tasks,
        canvases(probes, spec, tasks),
        spec.size,
    )


def _check_budgets(budgets: Mapping[str, float], tasks: Sequence[Task]) -> None:
    names = [task.name for task in tasks]
    for name in budgets:
        if name not in names:
            raise UsageError(
                f"there is a budget for task '{name}', which the network does not have",
                hint=f"its tasks: {', '.join(names)}",
            )


def _load(path: Path) -> ModelProto:
    import onnx

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise InputRefused("there is no such file", where=str(path)) from error
    except Exception as error:  # protobuf and onnx raise many kinds
        raise InputRefused("this is not a valid ONNX file", where=str(path)) from error
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise InputRefused("this file is quantised already", where=str(path))
    return model


def _forced(layers: Sequence[Layer], patterns: Sequence[str], path: Path) -> dict[str, str]:
    """Layers that the user wants in float32."""
    if not layers:
        raise StageFailed(
            "there is no convolution or matrix product with a constant weight to quantise",
            where=path.name,
        )
    for pattern in patterns:
        if not any(_named(layer, pattern) for layer in layers):
            raise UsageError(
                f"'{pattern}' matches no layer",
                where="keep_float",
                hint=f"layers are named like '{layers[0].node}' or '{layers[0].module}'",
            )
    forced = {
        layer.node: ASKED_FOR
        for layer in layers
        if any(_named(layer, pattern) for pattern in patterns)
    }
    if len(forced) == len(layers):
        raise UsageError("every layer is to stay in float32", where="keep_float")
    return forced


def _named(layer: Layer, pattern: str) -> bool:
    return (
        fnmatch.fnmatchcase(layer.node, pattern)
        or fnmatch.fnmatchcase(layer.module, pattern)
        or fnmatch.fnmatchcase(layer.module, f"{pattern}.*")
    )
