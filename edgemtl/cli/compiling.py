"""``compile``: the whole pipeline to a gated bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgemtl.cli.console import (
    CertificatesFlag,
    DataFlag,
    FactoryFlag,
    FarmFlag,
    JsonFlag,
    PlainFlag,
    ReferenceFlag,
    TerminalStages,
    only_warnings,
    print_error,
    print_json,
    say,
)

if TYPE_CHECKING:
    from edgemtl.pipeline.compile import CompileRequest, RunResult
    from edgemtl.recipes import Recipe
    from edgemtl.targets import Target


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command("compile")(compile_verb)


def compile_verb(
    model: Annotated[Path, typer.Argument(help="Checkpoint (model.pt).", metavar="MODEL")],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="Target name or TOML file; may be given again."),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(help="Another runtime for the same device: onnxruntime for targets of TVM."),
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
    prune: Annotated[
        bool | None,
        typer.Option(
            "--prune/--no-prune",
            help="Prune first; by default if --data has enough training pictures.",
        ),
    ] = None,
    reference: ReferenceFlag = None,
    from_stage: Annotated[
        str | None, typer.Option(help="Run this stage and those after it again.")
    ] = None,
    until_stage: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every stage again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the stages and the recipe, run nothing.")
    ] = False,
    sign_key: Annotated[
        Path | None,
        typer.Option(
            "--sign-key",
            metavar="PEM",
            help="Private Ed25519 key: signs the bundle if it passed.",
        ),
    ] = None,
    factory: FactoryFlag = None,
    farm: FarmFlag = None,
    certificates: CertificatesFlag = None,
    without_tls: PlainFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Compile a network for a target: export, parity, accuracy, latency, gates, bundle, report."""
    from edgemtl import targets
    from edgemtl.errors import ExitCode, UsageError, most_serious
    from edgemtl.pipeline.compile import CompileRequest
    from edgemtl.pipeline.settings import CompileSettings

    only_warnings(as_json)
    if not target:
        raise UsageError(
            "no target given", hint=f"--target, one or more of {', '.join(targets.names())}"
        )
    settings = CompileSettings(data=data or (), tasks=task or (), prune=prune)
    assignments = [*(assign or []), *settings.assignments()]
    if len({Path(name).stem for name in target}) < len(target):
        raise UsageError("a target is given twice", where="--target")
    wanted = {name: targets.load(name) for name in target}
    if backend is not None:
        from edgemtl.backends.registry import with_backend

        wanted = {name: with_backend(one, backend) for name, one in wanted.items()}
    requests = [
        CompileRequest(
            model,
            built_for,
            _recipe(built_for, config, assignments),
            factory,
            # Several targets share an output folder, each in a folder of its own.
            output if output is None or len(target) == 1 else output / Path(name).stem,
            use_cache=not no_cache,
            from_stage=from_stage,
            until_stage=until_stage,
            reference=reference,
        )
        for name, built_for in wanted.items()
    ]
    if dry_run:
        _show_plan(requests, as_json)
        return
    key = None
    if sign_key is not None:
        from edgemtl.bundle.signature import private_key

        key = private_key(sign_key)  # before the work, not after it
    if farm is None:
        results = [_compile(request, as_json) for request in requests]
    else:
        results = _on_farm(requests, farm, certificates, without_tls, as_json)
    for result in results:
        if key is not None and result.bundle is not None and result.exit_code == ExitCode.OK:
            from edgemtl.bundle.signature import sign_bundle

            signer = sign_bundle(result.bundle, key)
            if not as_json:
                say(f"signed   {result.bundle} by {signer}")
    if as_json:
        documents = [_summary(result) for result in results]
        print_json(documents[0] if len(documents) == 1 else documents)
    code = most_serious(result.exit_code for result in results)
    if code != ExitCode.OK:
        raise typer.Exit(int(code))


def _recipe(target: Target, config: Path | None, assignments: list[str]) -> Recipe:
    from edgemtl.pipeline.defaults import recipe_for

    return recipe_for(target, config, assignments)


def _compile(request: CompileRequest, quiet: bool) -> RunResult:
    from edgemtl.pipeline.compile import compile_model
    from edgemtl.report.console import print_run

    result = compile_model(request, TerminalStages())
    if not quiet:
        print_run(result.folder)
    if result.error is not None:
        print_error(result.error)
    return result


def _on_farm(
    requests: list[CompileRequest],
    address: str,
    certificates: Path | None,
    without_tls: bool,
    quiet: bool,
) -> list[RunResult]:
    from edgemtl.pipeline.farm.compiling import compile_on_farm
    from edgemtl.pipeline.farm.members import open_farm
    from edgemtl.report.console import print_run

    def show(result: RunResult) -> None:
        if not quiet and result.gates is not None:
            print_run(result.folder)
        if result.error is not None:
            print_error(result.error)

    with open_farm(address, certificates, without_tls) as farm:
        return compile_on_farm(requests, farm, show)


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

    from edgemtl.pipeline.compile import planned

    found = [(request, planned(request)) for request in requests]
    if as_json:
        print_json(
            [
                {
                    "target": request.target.name,
                    "backend": request.target.backend,
                    "stages": list(plan.stages),
                    "recipe": plan.recipe.to_dict(),
                }
                for request, plan in found
            ]
        )
        return
    for request, plan in found:
        say(f"target {request.target.name}: {', '.join(plan.stages)}")
        for reason in plan.reasons:
            say(f"# {reason}")
        sys.stdout.write(tomlkit.dumps(plan.recipe.to_dict()))
