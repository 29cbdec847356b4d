"""Quantising as a recipe asks for it: what the quantize stage and the verb share."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgemtl.backends import registry
from edgemtl.backends.artefacts import compile_for, session_options
from edgemtl.backends.types import SessionOptions
from edgemtl.compress.quantize import (
    Candidate,
    Choice,
    QuantizeOptions,
    QuantizeResult,
    choose_precision,
    quantize,
)
from edgemtl.data.preprocess import InputSpec
from edgemtl.data.samples import Dataset
from edgemtl.errors import InputRefused, StageFailed
from edgemtl.measure.results import InterleaveRule, StopRule
from edgemtl.measure.timed import bench_request
from edgemtl.pipeline.bench import LatencyRequest, compare_rule, measure_latency, not_timed
from edgemtl.pipeline.task_limits import task_budgets
from edgemtl.recipes import Recipe
from edgemtl.record.run_record import QUANTIZE
from edgemtl.targets import Target
from edgemtl.tasks.base import Task

_log = logging.getLogger(__name__)

#: seconds that one comparison of speed may take, in pairs of blocks
COMPARE = InterleaveRule(pairs=16, min_pairs=6, block_seconds=0.2, max_seconds=15.0)
ORDER = ("fp32", "fp16", "int8")

Lower = Literal["fp16", "int8"]


@dataclass(frozen=True)
class QuantizeRequest:
    """One network for one target.

    Attributes:
        onnx: float32, simplified, with static shapes.
        tasks: of the network.
        spec: its input.
        target: what it is for.
        recipe: resolved.
        calibration: pictures of the training data.
    """

    onnx: Path
    tasks: Sequence[Task]
    spec: InputSpec
    target: Target
    recipe: Recipe
    calibration: Dataset

    @property
    def real(self) -> bool:
        """Whether the pictures are the user's; budgets are judged on real ones only."""
        return bool(self.recipe.data.root)

    @property
    def session(self) -> SessionOptions:
        """How artefacts are run."""
        return session_options(self.target, self.recipe.bench.threads)

    @property
    def budgets(self) -> dict[str, float]:
        """Task name -> largest relative drop."""
        return task_budgets(self.recipe, self.tasks)


@dataclass(frozen=True)
class QuantizeOutcome:
    """A graph in the precision that was asked for or chosen.

    Attributes:
        precision: as written.
        asked: in the recipe.
        result: of the quantiser; None where the file is in float32.
        choice: where the precision was chosen by measuring.
        candidates: that were measured for the choice.
        notes: sentences for the reader.
    """

    precision: str
    asked: str
    result: QuantizeResult | None
    choice: Choice | None
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``quantize.json``.

        ``precision`` as written, ``asked``, ``layers`` (name, precision, and what each alone costs
        each task), ``result`` of the quantiser, ``choice`` where the precision was chosen by
        measuring, ``notes``.
        """
        choice, result = self.choice, self.result
        return {
            "precision": self.precision,
            "asked": self.asked,
            "choice": None
            if choice is None
            else {**asdict(choice), "candidates": [asdict(one) for one in self.candidates]},
            "layers": [] if result is None else layer_rows(result),
            "result": None if result is None else result.to_dict(),
            "notes": list(self.notes),
        }

    def documents(self) -> dict[str, Any]:
        """``quantize.json``."""
        return {QUANTIZE: self.to_dict()}

    def summary(self) -> list[str]:
        """What was decided and what came of it, in sentences."""
        decided = []
        if self.choice is not None:
            decided = [f"{self.choice.precision}: {self.choice.reason}"]
            decided += [f"not {name}: {why}" for name, why in self.choice.rejected.items()]
        return [*(self.result.notes if self.result else ()), *decided, *self.notes]


def quantize_graph(request: QuantizeRequest, output: Path) -> QuantizeOutcome:
    """Write the file; the same recipe, pictures and choice give the same bytes.

    Raises:
        UsageError: an option makes no sense, or names what is not there.
        InputRefused, StageFailed: the pictures or the graph.
    """
    asked = request.recipe.quantize.precision
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as place:
        results: dict[str, QuantizeResult] = {}
        choice: Choice | None = None
        candidates: list[Candidate] = []
        if asked == "auto":
            candidates = _candidates(request, Path(place), results)
            choice = choose_precision(candidates)
            taken = choice.precision
        else:
            taken = asked
            if taken in ("fp16", "int8"):
                results[taken] = _write_or_advise(request, _lower(taken), Path(place))
        result = results.get(taken)
        shutil.copyfile(request.onnx if result is None else result.path, output)
    notes = _notes(request, taken, result)
    return QuantizeOutcome(taken, asked, result, choice, tuple(candidates), tuple(notes))


def layer_rows(result: QuantizeResult) -> list[dict[str, Any]]:
    """Regions with what each costs, dearest first; every layer where nothing had to be ranked."""
    if result.culprits:
        return [
            {
                "name": row.region,
                "precision": "fp32" if row.kept else result.precision,
                "drops": dict(row.costs),
            }
            for row in result.culprits
        ]
    kept = [{"name": name, "precision": "fp32", "drops": {}} for name in result.kept]
    return kept + [
        {"name": name, "precision": result.precision, "drops": {}} for name in result.layers
    ]


def _lower(precision: str) -> Lower:
    return "fp16" if precision == "fp16" else "int8"


def _write(request: QuantizeRequest, precision: Lower, folder: Path) -> QuantizeResult:
    asked = request.recipe.quantize
    narrow = asked.narrow_sums
    if narrow is None:
        narrow = registry.get(request.target.backend).capabilities.host_int8
    options = QuantizeOptions(
        precision=precision,
        images=asked.images,
        method=asked.method,
        seed=request.recipe.data.seed,
        budgets=request.budgets if request.real else {},
        eval_images=asked.judge_images,
        max_evaluations=asked.max_evaluations,
        keep_float=asked.keep_float,
        equalise=asked.equalise,
        correct_bias=asked.correct_bias,
        reduce_range=narrow,
        unsigned=registry.get(request.target.backend).capabilities.unsigned_int8,
        qat_steps=asked.recovery_steps,
        qat_images=asked.recovery_images,
    )
    path = folder / f"{precision}.onnx"
    return quantize(
        request.onnx,
        path,
        request.tasks,
        request.spec,
        request.calibration,
        options,
    )


def _write_or_advise(request: QuantizeRequest, precision: Lower, folder: Path) -> QuantizeResult:
    """As asked; where that cannot be, the message says how to do without."""
    try:
        return _write(request, precision, folder)
    except (StageFailed, InputRefused) as error:
        error.hint = f"{error.hint or 'give other pictures'}; or --set quantize.enabled=false"
        raise


def _candidates(
    request: QuantizeRequest, folder: Path, results: dict[str, QuantizeResult]
) -> list[Candidate]:
    """Every precision of the target, judged and timed; files and results are left for the winner.

    Timed in turns with float32, so that one latency stands for the float32 file throughout.
    """
    order = [name for name in ORDER if name == "fp32" or name in request.target.precisions]
    timed = not not_timed(request.recipe.bench, request.target)
    found: dict[str, Candidate] = {}
    base_ms: float | None = None
    for name in order[1:]:
        try:
            result = results[name] = _write(request, _lower(name), folder)
        except (StageFailed, InputRefused) as error:
            # Pictures that are refused here are refused by the stages that need them in any case.
            found[name] = Candidate(name, None, False, error.message)
            continue
        if not request.real:
            found[name] = Candidate(
                name, None, None, "budgets are judged on real pictures only (--data)"
            )
            continue
        if not result.within_budgets:
            note = "; ".join(result.notes)
            found[name] = Candidate(name, None, False, note)
            continue
        if not timed:
            found[name] = Candidate(name, None, True)
            continue
        try:
            slow_ms, speedup = _time(request, result.path)
        except StageFailed as error:
            found[name] = Candidate(name, None, False, error.message)
            continue
        base_ms = base_ms or slow_ms
        _log.info(f"{name}: {speedup:.2f} x fp32")
        found[name] = Candidate(name, base_ms / speedup, True)
    found["fp32"] = Candidate("fp32", base_ms, True)
    wanted = order if timed else [n for n in request.target.precisions if n in found]
    return [found[name] for name in wanted]


def _time(request: QuantizeRequest, path: Path) -> tuple[float, float]:
    """Median milliseconds of the float32 file, and how much faster this one is."""
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as place:
        timed = []
        for name, onnx in (("fast", path), ("slow", request.onnx)):
            artefact = compile_for(request.target, onnx, Path(place) / name)
            stop = StopRule(warmup_seconds=request.recipe.bench.warmup_seconds)
            timed.append(bench_request(artefact, request.session, stop, request.recipe.data.seed))
        rule = compare_rule(request.recipe.bench, COMPARE)
        asked = LatencyRequest(timed[0], timed[1], rule=rule, alone=False, same_bytes=True)
        measured = measure_latency(asked).comparison
    assert measured is not None
    return measured.b.summary.p50_ms, measured.speedup.value


def _notes(request: QuantizeRequest, taken: str, result: QuantizeResult | None) -> list[str]:
    notes = []
    if result is not None:
        whole = len(result.layers) + len(result.kept)
        size = result.size_after / result.size_before
        notes.append(
            f"{len(result.layers)} of {whole} layers in {taken}, file {size:.2f} x"
            + (f", {result.evaluations} evaluations" if result.evaluations else "")
        )
        if not request.real:
            notes.append(
                "budgets were not judged: they need real labelled pictures (--data); the ranges "
                f"come from {request.calibration.name}"
            )
    if taken == "int8" and (why := registry.get(request.target.backend).capabilities.int8_as_float):
        notes.append(f"int8 will not be faster here: {why}")
    return notes
