"""``edgemtl.prune``, ``quantize`` and ``mask``: a network made smaller, in a file of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgemtl.api.asking import (
    AnyPath,
    AnyRecipe,
    AnyTarget,
    Data,
    Factory,
    Names,
    Overrides,
    factory_of,
    folders,
    names,
    optional_path,
    path_of,
    resolved,
    target_of,
)
from edgemtl.api.outcome import Cost, Outcome
from edgemtl.compress.quantize.results import TaskVerdict
from edgemtl.compress.shortfall import Goal
from edgemtl.errors import CostGateFailed, ExitCode
from edgemtl.pipeline.masking import MaskFile, mask_file
from edgemtl.pipeline.prune import PruneOutcome
from edgemtl.pipeline.pruning import PruneFile, prune_file
from edgemtl.pipeline.quantize_file import QuantizeFile, quantize_file
from edgemtl.pipeline.settings import MaskSettings, PruneSettings, QuantizeSettings
from edgemtl.progress import ProgressCallback, listening
from edgemtl.record.prune_story import read_story
from edgemtl.report.prune_page import write_prune_page
from edgemtl.report.told import mask_lines, prune_lines, quantize_lines


@dataclass(frozen=True, repr=False)
class Pruned(Outcome):
    """A pruned checkpoint; it can stand wherever its path can.

    Attributes:
        path: of the checkpoint; ``PATH.prune.json`` beside it is the whole story.
        method: that chose the channels.
        macs: multiply-accumulates for one picture, before and after.
        parameters: before and after.
        drops: task -> how much worse its figure is on held-out training pictures, as a share
            (negative is better); empty where the method does not measure it.
        goals: each with ``key``, ``left``, ``asked`` and ``missed``.
        notes: what a reader must know.
        story: everything, as ``edgemtl prune --json`` prints it.
    """

    path: Path
    method: str
    macs: Cost
    parameters: Cost
    drops: Mapping[str, float]
    goals: tuple[Goal, ...]
    notes: tuple[str, ...]
    story: Mapping[str, Any]
    _missed: str = ""

    @property
    def exit_code(self) -> ExitCode:
        """7 where a goal that was to hold was missed, else 0."""
        return ExitCode.COST_GATE if self._missed else ExitCode.OK

    @property
    def reason(self) -> str:
        """By how much a goal was missed, and what stopped the search; empty if none was."""
        return self._missed

    def write_report(self, path: AnyPath) -> Path:
        """Write a page with the table and the curves.

        Raises:
            StageFailed: the place cannot be written.
        """
        write_prune_page(read_story(self.story), path_of(path), self.path.name)
        return path_of(path)

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return "\n".join([*prune_lines(self.story), str(self.path)])

    def __repr__(self) -> str:
        return f"Pruned({str(self.path)!r}, macs={self.macs.ratio:.3f}, passed={self.passed})"


def prune(
    model: AnyPath,
    output: AnyPath,
    *,
    data: Data = None,
    target: AnyTarget = "cpu",
    recipe: AnyRecipe = None,
    tasks: Names = None,
    method: str | None = None,
    flops: float | None = None,
    params: float | None = None,
    latency_ratio: float | None = None,
    budgets: Mapping[str, float] | None = None,
    compensate: bool | None = None,
    keep_whole: Names = None,
    only: Names = None,
    steps: int | None = None,
    recover: Literal["auto", "norms", "all"] | None = None,
    seed: int | None = None,
    overrides: Overrides = None,
    resume: bool = True,
    factory: Factory = None,
    progress: ProgressCallback | None = None,
) -> Pruned:
    """Remove channels as far as every task allows, then train to recover.

    A goal that was missed does not raise: ``pruned.passed`` and ``pruned.goals`` say it.

    Args:
        model: checkpoint.
        output: checkpoint to write.
        data: folders with a training split.
        target: whose goal, gates and multiples of widths are used.
        recipe: TOML file, or a :class:`edgemtl.Recipe` of which the keys that were set count.
        tasks: prune for these only; the heads of the others are dropped.
        method: ``pagcp`` by default; ``edgemtl prune --help`` lists them.
        flops: share of multiply-accumulates to keep, between 0 and 1.
        params: share of parameters to keep.
        latency_ratio: share of the latency on the target to keep, measured here.
        budgets: task -> factor by which its held-out loss may grow, above 1.
        compensate: give layers that read removed channels new weights; True by default.
        keep_whole: patterns of modules whose weights keep their shapes.
        only: patterns of the only modules that may lose channels.
        steps: of recovery training at most; 0 for none.
        recover: what recovery trains.
        seed: of every random choice, from 0.
        overrides: recipe key -> value.
        resume: go on where a killed call for the same output stopped.
        factory: as for :func:`edgemtl.load_model`.
        progress: is told how far search and training are.

    Raises:
        UsageError: the recipe or a keyword makes no sense, or there are no training pictures.
        InputRefused: the model or the data is refused.
        StageFailed: nothing can be cut, or the place cannot be written.
        TargetUnavailable: milliseconds are asked for on a target that cannot be measured here.
    """
    suited, place = target_of(target), path_of(output)
    settings = PruneSettings(
        *(folders(data), seed, names(tasks), method, flops, params, latency_ratio),
        *(budgets, compensate, names(keep_whole), names(only), steps, recover),
    )
    asked = resolved(suited, recipe, settings, overrides)
    file = PruneFile(path_of(model), place, suited, asked, factory_of(factory, model), resume)
    with listening(progress):
        found = prune_file(file)
    result = found.result
    return Pruned(
        path=place,
        method=result.method,
        macs=Cost(result.dense.macs, result.pruned.macs),
        parameters=Cost(result.dense.params, result.pruned.params),
        drops=_drops(found),
        goals=result.goals,
        notes=result.notes,
        story=found.story(),
        _missed=_missed(found),
    )


def _drops(found: PruneOutcome) -> dict[str, float]:
    """As the kept network has them: after training, or after the cut where there was none."""
    last = found.result.rounds[found.result.kept_round - 1]
    if last.recovery is None:
        return dict(last.drops)
    kept = [drops for step, drops in last.recovery.drops if step == last.recovery.best_step]
    return dict(kept[-1]) if kept else dict(last.drops)


def _missed(found: PruneOutcome) -> str:
    try:
        found.check_goals()
    except CostGateFailed as error:
        return str(error)
    return ""


@dataclass(frozen=True, repr=False)
class Quantized(Outcome):
    """An ONNX file in lower precision; it can stand wherever its path can.

    Attributes:
        path: of the file; ``PATH.quantize.json`` beside it is the whole story.
        precision: ``fp32``, ``fp16`` or ``int8``, as written.
        tasks: task -> what it lost on the judge pictures; empty where none was judged.
        notes: what was decided and what a reader must know.
        story: everything, as ``edgemtl quantize --json`` prints it.
    """

    path: Path
    precision: str
    tasks: Mapping[str, TaskVerdict]
    notes: tuple[str, ...]
    story: Mapping[str, Any]

    @property
    def exit_code(self) -> ExitCode:
        """6 where a budget was not kept or not judged, else 0."""
        kept = all(task.inside for task in self.tasks.values())
        return ExitCode.OK if kept else ExitCode.ACCURACY_GATE

    @property
    def reason(self) -> str:
        """Which tasks are over their budgets; empty if none is."""
        over = [name for name, task in self.tasks.items() if not task.inside]
        return f"{self.path}: over the budget: {', '.join(over)}" if over else ""

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return "\n".join([*quantize_lines(self.story), *self.notes, str(self.path)])

    def __repr__(self) -> str:
        path, precision = str(self.path), self.precision
        return f"Quantized({path!r}, precision={precision!r}, passed={self.passed})"


def quantize(
    model: AnyPath,
    output: AnyPath,
    *,
    data: Data = None,
    target: AnyTarget = "cpu",
    recipe: AnyRecipe = None,
    precision: Literal["auto", "fp32", "fp16", "int8"] | None = None,
    budgets: Mapping[str, float] | None = None,
    method: Literal["minmax", "entropy", "percentile"] | None = None,
    images: int | None = None,
    keep_float: Names = None,
    seed: int | None = None,
    overrides: Overrides = None,
    factory: Factory = None,
    progress: ProgressCallback | None = None,
) -> Quantized:
    """Write an ONNX file in lower precision that keeps every task inside its budget.

    A budget that was not kept does not raise: ``quantized.passed`` and ``quantized.tasks`` say it.

    Args:
        model: checkpoint, or float32 ONNX file that EdgeMTL wrote.
        output: ONNX file to write.
        data: folders with labelled pictures; budgets are judged on real pictures only.
        target: of the file; ``precision="auto"`` measures on it.
        recipe: TOML file, or a :class:`edgemtl.Recipe` of which the keys that were set count.
        precision: the target's way by default.
        budgets: task -> largest relative drop, such as 0.01; half of its gate by default.
        method: how ranges are found.
        images: calibration pictures.
        keep_float: patterns of node names or module paths that stay in float32.
        seed: of every random choice, from 0.
        overrides: recipe key -> value.
        factory: as for :func:`edgemtl.load_model`.
        progress: is told how far evaluation is.

    Raises:
        UsageError: the recipe or a keyword makes no sense, or a bundle is given.
        InputRefused: the model or the pictures are refused.
        TargetUnavailable: the precision is to be measured, and the target's runtime is not here.
        StageFailed: nothing can be quantised, or the place cannot be written.
    """
    suited, place = target_of(target), path_of(output)
    settings = QuantizeSettings(
        folders(data), seed, precision, budgets, method, images, names(keep_float)
    )
    asked = resolved(suited, recipe, settings, overrides)
    with listening(progress):
        found = quantize_file(
            QuantizeFile(path_of(model), place, suited, asked, factory_of(factory, model))
        )
    tasks = {} if found.result is None else dict(found.result.tasks)
    return Quantized(place, found.precision, tasks, tuple(found.summary()), found.to_dict())


@dataclass(frozen=True)
class Masked:
    """Whether pictures differ enough for networks of their own, and what was built.

    Attributes:
        decision: in a sentence.
        built: whether networks and a router were made.
        bundle: of them; None where nothing was built.
        files: that were written.
        story: everything, as ``edgemtl mask --json`` prints it.
    """

    decision: str
    built: bool
    bundle: Path | None
    files: tuple[Path, ...]
    story: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        return "\n".join(mask_lines(self.story))


def mask(
    model: AnyPath,
    output: AnyPath | None = None,
    *,
    data: Data = None,
    target: AnyTarget = "cpu",
    recipe: AnyRecipe = None,
    prototypes: int | None = None,
    keep: float | None = None,
    threshold: float | None = None,
    nested: bool | None = None,
    images: int | None = None,
    router_images: int | None = None,
    steps: int | None = None,
    shared: bool | None = None,
    precision: float | None = None,
    multiple: int | None = None,
    seed: int | None = None,
    force: bool | None = None,
    overrides: Overrides = None,
    factory: Factory = None,
    progress: ProgressCallback | None = None,
) -> Masked:
    """Find out whether pictures differ enough for different networks; build them if so.

    Args:
        model: checkpoint.
        output: folder for networks, router and bundle; None for the analysis alone.
        data: folders with a training split.
        target: of the bundle; widths are chosen for it.
        recipe: TOML file, or a :class:`edgemtl.Recipe` of which the keys that were set count.
        prototypes: networks to choose from, 1 to 16.
        keep: share of multiply-accumulates left, mean over pictures, in (0, 1].
        threshold: share of importance that a picture's own mask keeps, in (0, 1].
        nested: take prototypes as widths of one order of channels.
        images: calibration pictures; as many more are held out.
        router_images: training pictures for router and prototypes.
        steps: of training per prototype; 0 for statistics only.
        shared: train only norms and biases, so that networks share their weights.
        precision: share of right choices among those the router is sure of, in (0, 1].
        multiple: widths are multiples of it; the target's by default.
        seed: of every random choice, from 0.
        force: build even if the analysis advises against it.
        overrides: recipe key -> value.
        factory: as for :func:`edgemtl.load_model`.
        progress: is told how far analysis and training are.

    Raises:
        UsageError: no training pictures, or a keyword that makes no sense.
        InputRefused: the model or the data is refused.
        StageFailed: a prototype cannot be made, exported or compiled, or the place is not writable.
        ParityFailed: the dispatched network answers otherwise than torch.
    """
    suited, place = target_of(target), optional_path(output)
    settings = MaskSettings(
        *(folders(data), seed, keep, prototypes, threshold, nested, images, router_images),
        *(steps, shared, precision, multiple, force),
    )
    asked = resolved(suited, recipe, settings, overrides)
    with listening(progress):
        story = mask_file(
            MaskFile(path_of(model), place, suited, asked, factory_of(factory, model))
        )
    files = () if place is None else tuple(place / name for name in story["files"])
    built = story["built"] is not None
    return Masked(
        str(story["analysis"]["decision"]), built, files[-1] if built else None, files, story
    )
