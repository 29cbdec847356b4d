"""``compile``: the whole pipeline to a gated bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgemtl.cli.console import (
    DataFlag,
    FactoryFlag,
    JsonFlag,
    StageLines,
    print_error,
    print_json,
)

if TYPE_CHECKING:
    from edgemtl.pipeline.compile import CompileRequest, RunResult


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command("compile")(compile_verb)


def compile_verb(
    model: Annotated[Path, typer.Argument(help="Checkpoint (model.pt).", metavar="MODEL")],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="Target name or TOML file; may be given again."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Recipe (TOML); see 'edgemtl init'.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Run folder; a new one under runs/ by default."),
    ] = None,
    data: DataFlag = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Keep this task only; may be given again.")
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Recipe key, e.g. bench.threads=2."),
    ] = None,
    from_stage: Annotated[
        str | None, typer.Option(help="Make this stage and those after it anew.")
    ] = None,
    until_stage: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Make every stage anew.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the stages and the recipe, do nothing.")
    ] = False,
    factory: FactoryFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Compile a network for a target: export, parity, accuracy, latency, gates, bundle, report."""
    from edgemtl import targets
    from edgemtl.errors import ExitCode, UsageError, most_serious

    if not target:
        raise UsageError(
            "no target given", hint=f"--target, one or more of {', '.join(targets.names())}"
        )
    assignments = list(assign or [])
    if data:
        assignments.append(f"data.root={[str(folder) for folder in data]!r}")
    if task:
        assignments.append(f"model.tasks={list(task)!r}")
    requests = [
        _request(model, name, config, _folder(output, name, len(target)), assignments, factory)
        for name in target
    ]
    if dry_run:
        _show_plan(requests, as_json)
        return
    results = []
    for request in requests:
        results.append(_compile(request, from_stage, until_stage, not no_cache, as_json))
    if as_json:
        documents = [_summary(result) for result in results]
        print_json(documents[0] if len(documents) == 1 else documents)
    code = most_serious(result.exit_code for result in results)
    if code != ExitCode.OK:
        raise typer.Exit(int(code))


def _folder(output: Path | None, target: str, count: int) -> Path | None:
    """Several targets share an output folder, each in a folder of its own."""
    return output if output is None or count == 1 else output / Path(target).stem


def _request(
    model: Path,
    target_name: str,
    config: Path | None,
    output: Path | None,
    assignments: list[str],
    factory: str | None,
) -> CompileRequest:
    from edgemtl import recipes, targets
    from edgemtl.pipeline.compile import CompileRequest

    target = targets.load(target_name)
    defaults: dict[str, Any] = {"gates": target.gates} if target.gates else {}
    recipe = recipes.resolve(defaults, config, assignments)
    return CompileRequest(model, target, recipe, factory, output)


def _compile(
    request: CompileRequest,
    from_stage: str | None,
    until_stage: str | None,
    use_cache: bool,
    quiet: bool,
) -> RunResult:
    from dataclasses import replace

    from edgemtl.pipeline.compile import compile_model
    from edgemtl.report.console import print_run

    request = replace(request, from_stage=from_stage, until_stage=until_stage, use_cache=use_cache)
    result = compile_model(request, StageLines(quiet))
    if not quiet:
        print_run(result.folder)
    if result.error is not None:
        print_error(result.error)
    return result


def _summary(result: RunResult) -> dict[str, Any]:
    return {
        "run": str(result.folder),
        "exit_code": int(result.exit_code),
        "bundle": None if result.bundle is None else str(result.bundle),
        "report": str(result.folder / "report.html"),
        "gates": None if result.gates is None else result.gates.to_dict(),
        "error": None if result.error is None else str(result.error),
    }


def _show_plan(requests: list[CompileRequest], as_json: bool) -> None:
    import tomlkit

    from edgemtl.pipeline.compile import stage_names

    if as_json:
        print_json(
            [
                {
                    "target": request.target.name,
                    "stages": stage_names(request.recipe),
                    "recipe": request.recipe.to_dict(),
                }
                for request in requests
            ]
        )
        return
    for request in requests:
        print(f"target {request.target.name}: {', '.join(stage_names(request.recipe))}")
        sys.stdout.write(tomlkit.dumps(request.recipe.to_dict()))
