"""The main job: a checkpoint in, a gated bundle and a report out."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import tomlkit
from filelock import FileLock, Timeout

from edgemtl.backends import registry
from edgemtl.errors import EdgemtlError, ExitCode, StageFailed, UsageError, most_serious
from edgemtl.files import as_told, read_json, write_text
from edgemtl.gates.judge import GateReport
from edgemtl.pipeline.cache import StageCache, default_folder, key_of
from edgemtl.pipeline.package_stages import BUNDLE
from edgemtl.pipeline.plan import plan, stage_names
from edgemtl.pipeline.preflight import check_inputs
from edgemtl.pipeline.publishing import publish_results
from edgemtl.pipeline.run_folder import LOCK, PRIVATE, RunFolder, new_name
from edgemtl.pipeline.stage import (
    Context,
    Decision,
    Stage,
    StageRecord,
)
from edgemtl.progress import Progress, report
from edgemtl.recipes import Recipe
from edgemtl.record.run_record import (
    GATES,
)
from edgemtl.targets import Target

_log = logging.getLogger(__name__)


class Reporter(Protocol):
    """Told how a run goes; the command line prints it."""

    def started(self, position: int, total: int, stage: str) -> None: ...

    def finished(self, record: StageRecord) -> None: ...


@dataclass(frozen=True)
class CompileRequest:
    """One model for one target.

    Attributes:
        model: checkpoint.
        target: what it is built for.
        recipe: resolved.
        factory: ``package.module:function`` of the user's own network, or None.
        output: run folder; a new one under ``runs/`` by default.
        cache: folder of stage results; the user's cache by default.
        use_cache: False makes everything anew.
        from_stage: make this stage and all after it anew.
        until_stage: stop after this stage.
        reference: checkpoint of the network to be held against; the dense one that the model's
            pruning record names by default, where its file is at hand.
        command: what asked for it, for the record; the process's command line by default.
    """

    model: Path
    target: Target
    recipe: Recipe
    factory: str | None = None
    output: Path | None = None
    cache: Path | None = None
    use_cache: bool = True
    from_stage: str | None = None
    until_stage: str | None = None
    reference: Path | None = None
    command: str = ""


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        folder: the run folder.
        exit_code: what the command line leaves with.
        gates: the verdicts; None when the run stopped before them.
        bundle: the bundle; None when the run stopped before it.
        error: what stopped the run, if anything did.
    """

    folder: Path
    exit_code: ExitCode
    gates: GateReport | None = None
    bundle: Path | None = None
    error: EdgemtlError | None = None


def compile_model(request: CompileRequest, reporter: Reporter) -> RunResult:
    """Run every stage, leave the run folder, judge the gates.

    An error of a stage is not raised: it is in the result, after the run folder and the report
    have been written as far as the run came.

    Raises:
        EdgemtlError: before any stage began (recipe, model, output folder).
    """
    context = _context(request)
    stages = chosen(request, context)
    check_inputs(context, stages)
    context.backend.require()
    run = RunFolder(context.private.parent)
    try:
        lock = FileLock(run.folder / LOCK, timeout=0)
        with lock:
            return _run(request, context, run, stages, reporter)
    except Timeout as error:
        raise StageFailed(
            "another run is using this folder",
            where=str(run.folder),
            hint="wait for it, or choose another with --output",
        ) from error


@dataclass(frozen=True)
class Plan:
    """What a request would do.

    Attributes:
        recipe: with what it left open decided.
        stages: that would run, in order.
        reasons: of what was decided, in sentences.
    """

    recipe: Recipe
    stages: tuple[str, ...]
    reasons: tuple[str, ...]


def planned(request: CompileRequest) -> Plan:
    """Check a request and decide what its recipe leaves open, as a run would; write nothing.

    Raises:
        EdgemtlError: what a run would be refused for before its first stage.
    """
    context = _context(request)
    stages = chosen(request, context)
    check_inputs(context, stages)
    reasons: list[str] = []
    skipped: list[str] = []
    while open_question := _next_decision(stages, context):
        stage, decision = open_question
        stages = _decided(request, context, stage, decision, skipped)
        reasons.append(decision.reason)
    return Plan(context.recipe, tuple(stage.name for stage in stages), tuple(reasons))


def _next_decision(stages: Sequence[Stage], context: Context) -> tuple[Stage, Decision] | None:
    """The first stage whose question is open, and what becomes of it."""
    for stage in stages:
        if decision := stage.decide(context):
            return stage, decision
    return None


def _decided(
    request: CompileRequest,
    context: Context,
    stage: Stage,
    decision: Decision,
    skipped: list[str],
) -> list[Stage]:
    """Take a decision: the stages as they are from now on, checked."""
    context.recipe = decision.recipe
    if not decision.run:
        skipped.append(stage.name)
    stages = chosen(request, context, skipped)
    check_inputs(context, stages)
    return stages


def _built_for(request: CompileRequest) -> Target:
    """The target, with what the recipe changes in it.

    Raises:
        UsageError: the target cannot suppress detections inside the graph.
    """
    target, nms = request.target, request.recipe.export.nms
    if nms == "host":
        return target
    if not registry.get(target.backend).capabilities.graph_nms:
        raise UsageError(
            f"target '{target.name}' does not suppress detections inside the graph",
            where="export.nms",
            hint="the Jetson targets do; leave it to the host elsewhere",
        )
    return target.model_copy(update={"options": {**target.options, "nms": nms}})


def folder_of(request: CompileRequest) -> Path:
    """The run folder that a request asks for, or a new one by time and contents."""
    asked = {
        "model": str(request.model),
        "target": request.target.model_dump(mode="json"),
        "recipe": request.recipe.to_dict(),
    }
    return request.output or Path("runs") / new_name(request.model, key_of(asked))


def _context(request: CompileRequest) -> Context:
    folder = folder_of(request)
    cache_folder = request.cache or default_folder()
    return Context(
        request.model,
        request.factory,
        request.recipe,
        _built_for(request),
        StageCache(cache_folder / "stages", fresh=not request.use_cache),
        folder / PRIVATE,
        reference=request.reference,
    )


def chosen(request: CompileRequest, context: Context, skipped: Sequence[str] = ()) -> list[Stage]:
    """The stages that a request runs.

    Args:
        request: which of them are asked for.
        context: of the run, with what has been decided since in its recipe.
        skipped: stages that were decided against; to name one of them is no slip.

    Raises:
        UsageError: it names a stage that there is not.
    """
    against = context.against.reference is not None
    stages = plan(context.recipe, against)
    known = [*stage_names(context.recipe, against), *skipped]
    for flag, name in (
        ("--from-stage", request.from_stage),
        ("--until-stage", request.until_stage),
    ):
        if name is not None and name not in known:
            raise UsageError(
                f"there is no stage '{name}'", where=flag, hint=f"stages: {', '.join(known)}"
            )
    if request.until_stage in skipped:
        return []
    names = [stage.name for stage in stages]
    if request.until_stage in names:
        return stages[: names.index(request.until_stage) + 1]
    return stages


def _run(
    request: CompileRequest,
    context: Context,
    run: RunFolder,
    stages: Sequence[Stage],
    reporter: Reporter,
) -> RunResult:
    context.cache.sweep()
    run.begin({**_facts(request, context), "pruning": ""})
    _write_recipe(run, context.recipe)
    error: EdgemtlError | None = None
    fresh = not request.use_cache
    ran: list[str] = []
    skipped: list[str] = []
    while error is None and (stage := next((s for s in stages if s.name not in ran), None)):
        position = len(ran) + len(skipped) + 1
        total = len(stages) + len(skipped)
        reporter.started(position, total, stage.name)
        report(Progress("compile", position - 1, total, "stages", detail=stage.name))
        fresh = fresh or stage.name == request.from_stage
        context.cache = StageCache(context.cache.folder, fresh=fresh)
        began = time.monotonic()
        try:
            if decision := stage.decide(context):
                stages = _decided(request, context, stage, decision, skipped)
                run.update(recipe=context.recipe.to_dict(), pruning=decision.reason)
                _write_recipe(run, context.recipe)
                if decision.run:
                    _log.info(decision.reason)
                    continue
                seconds = time.monotonic() - began
                record = StageRecord(stage.name, "skipped", seconds, "", (decision.reason,))
            else:
                ran.append(stage.name)
                record = stage.execute(context)
        except Exception as problem:  # a defect of ours, too, leaves a record and a report
            error = as_told(problem)
            key = context.keys.get(stage.name, "")
            notes = (str(error),)
            record = StageRecord(stage.name, "failed", time.monotonic() - began, key, notes)
        run.add_stage(position, record)
        reporter.finished(record)
    return _finish(request, context, run, error)


def _write_recipe(run: RunFolder, recipe: Recipe) -> None:
    write_text(run.folder / "recipe.resolved.toml", tomlkit.dumps(recipe.to_dict()))


def _facts(request: CompileRequest, context: Context) -> dict[str, Any]:
    target, network = request.target, context.dense
    return {
        **({"command": request.command} if request.command else {}),
        "name": request.model.stem,
        "model": {
            "path": str(request.model),
            "family": network.family or "(factory)",
            "variant": str(network.arguments.get("variant", "")),
            "source_sha256": context.model_sha256,
            "parameters": sum(p.numel() for p in network.parameters()),
        },
        "target": {
            "name": target.name,
            "backend": target.backend,
            "device": target.device,
            "description": target.description,
        },
        "recipe": request.recipe.to_dict(),
    }


def _finish(
    request: CompileRequest, context: Context, run: RunFolder, error: EdgemtlError | None
) -> RunResult:
    """Lay out the run folder, write the report, and settle the exit code."""
    from edgemtl.report.page import write_report

    folders = context.folders
    publish_results(context, run)
    bundle: Path | None = None
    if "bundle" in folders:
        name = f"bundle/{request.model.stem}-{request.target.name}.edgemtl"
        run.publish(folders["bundle"] / BUNDLE, name)
        bundle = run.folder / name
    gates = None
    if "gates" in folders:
        gates = GateReport.from_dict(read_json(folders["gates"] / GATES))
    codes = [error.exit_code if error else ExitCode.OK]
    codes.append(gates.exit_code() if gates else ExitCode.OK)
    exit_code = most_serious(codes)
    run.update(
        status="failed" if error else ("passed" if exit_code == ExitCode.OK else "gates failed"),
        exit_code=int(exit_code),
        error=None if error is None else error.to_dict(),
        bundle=None if bundle is None else str(bundle.relative_to(run.folder)),
    )
    shutil.rmtree(context.private, ignore_errors=True)
    write_report(run.folder)
    return RunResult(run.folder, exit_code, gates, bundle, error)
