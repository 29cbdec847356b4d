"""Verbs on networks: ``inspect``, ``eval``, ``export``, ``import``."""

from __future__ import annotations

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
    only_warnings,
    print_json,
    say,
)
from edgemtl.errors import UsageError
from edgemtl.sinks import shown

if TYPE_CHECKING:
    from edgemtl.pipeline.evaluation import Comparison


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command("inspect")(inspect_verb)
    app.command("eval")(eval_verb)
    app.command("export")(export_verb)
    app.command("import")(import_verb)


def inspect_verb(
    model: Annotated[Path, typer.Argument(help="Checkpoint or bundle.", metavar="MODEL|BUNDLE")],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="Also list what this target cannot run."),
    ] = None,
    modules: Annotated[
        bool, typer.Option("--modules", help="List every module with its MACs and parameters.")
    ] = False,
    groups: Annotated[
        bool,
        typer.Option(
            "--groups",
            help="List the channels that pruning can cut, and why it cannot cut the others.",
        ),
    ] = False,
    factory: FactoryFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Show inputs, tasks, parameters and MACs, and what a target cannot run."""
    from edgemtl import targets
    from edgemtl.pipeline.inspection import inspect_file
    from edgemtl.report.inspection import print_inspection

    found = inspect_file(model, factory, [targets.load(name) for name in target or []], groups)
    if as_json:
        print_json(found)
    else:
        print_inspection(found, every_module=modules)


def eval_verb(
    model: Annotated[
        Path, typer.Argument(help="Checkpoint, ONNX or bundle.", metavar="MODEL|ONNX|BUNDLE")
    ],
    data: DataFlag = None,
    split: Annotated[str, typer.Option(help="Split of the data folder.")] = "val",
    layout: Annotated[
        str, typer.Option("--format", help="Layout of the folder; detected by default.")
    ] = "auto",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only so many pictures, evenly spread.")
    ] = None,
    wider_ground_truth: Annotated[
        Path | None,
        typer.Option(
            help="Folder with WIDER FACE's .mat files: print its easy/medium/hard AP instead."
        ),
    ] = None,
    multiscale: Annotated[
        bool,
        typer.Option("--multiscale", help="With --wider-ground-truth: ten passes and box voting."),
    ] = False,
    reference: ReferenceFlag = None,
    factory: FactoryFlag = None,
    farm: FarmFlag = None,
    certificates: CertificatesFlag = None,
    without_tls: PlainFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure accuracy per task; without --data on the embedded (synthetic) set.

    A pruned checkpoint is shown beside the dense network that it came from, if that is found.
    """
    from edgemtl.pipeline.evaluation import (
        EvaluateFile,
        compare_report,
        evaluate_file,
        evaluate_wider,
    )

    if wider_ground_truth is not None:
        if not data or len(data) > 1:
            raise UsageError("the WIDER FACE protocol needs its own folder", where="--data")
        if reference is not None:
            raise UsageError("the WIDER FACE protocol compares nothing", where="--reference")
        if farm is not None:
            raise UsageError("the WIDER FACE protocol does not run on a farm", where="--farm")
        found = evaluate_wider(model, data[0], wider_ground_truth, split, multiscale, factory)
        if as_json:
            print_json({"tasks": {"detection": found}})
        else:
            for subset, value in found.items():
                say(f"{subset:<8} {'not measured' if value is None else f'{value:.4f}'}")
        return
    asked = EvaluateFile(model, data or (), split, layout, limit, factory, reference)
    if farm is None:
        report = evaluate_file(asked)
    else:
        from edgemtl.pipeline.farm.evaluating import evaluate_on_farm
        from edgemtl.pipeline.farm.members import open_farm

        only_warnings(as_json)
        with open_farm(farm, certificates, without_tls) as members:
            report = evaluate_on_farm(asked, members)
    compared = compare_report(report, asked)
    if as_json:
        print_json(compared.to_dict())
        return
    _print_accuracy(compared)


def _print_accuracy(compared: Comparison) -> None:
    from rich.table import Table

    from edgemtl.report.terminal import plain_console

    report, dense = compared.report, compared.reference
    table = Table(title=f"{report.images} pictures of {report.data}, {report.protocol}")
    for column in ("task", "figure"):
        table.add_column(column)
    table.add_column("value", justify="right")
    if dense is not None:
        table.add_column(dense.of, justify="right")

    def told(value: float | None) -> str:
        return "not measured" if value is None else f"{value:.4f}"

    for name, task in report.tasks.items():
        for key, value in task.values.items():
            before = [] if dense is None else [told(dense.tasks[name].values.get(key))]
            table.add_row(name, key, told(value), *before)
        known = {} if dense is None else dense.tasks[name].classes
        for key, value in task.classes.items():
            if value is not None or known.get(key) is not None:
                before = [] if dense is None else [told(known.get(key))]
                table.add_row(name, f"class {shown(key)}", told(value), *before)
        if task.note:
            table.add_row(name, "note", task.note)
    plain_console().print(table)
    for name, drop in compared.drops.items():
        if drop is not None:
            word = "worse" if drop > 0 else "better"
            say(f"{name}: {abs(drop):.2%} {word} than {compared.note}")
    if compared.note and dense is None:
        say(f"compared with {compared.note}", warn=True)
    if report.skipped:
        say(f"{len(report.skipped)} not used:", warn=True)
        for line in report.skipped[:10]:
            say(f"  {line}", warn=True)


def export_verb(
    model: Annotated[Path, typer.Argument(help="Checkpoint.", metavar="MODEL")],
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file to write.")],
    target: Annotated[
        str, typer.Option("--target", "-t", help="Target whose opset and operators are used.")
    ] = "cpu",
    opset: Annotated[int | None, typer.Option(help="ONNX opset, instead of the target's.")] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Keep this task only; may be given again.")
    ] = None,
    factory: FactoryFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a network as one simplified ONNX file and check that it computes the same."""
    from edgemtl import targets
    from edgemtl.pipeline.exporting import export_file

    facts = export_file(model, output, targets.load(target), opset, task, factory)
    if as_json:
        print_json(facts)
        return
    say(f"{output}: opset {facts['opset']}, outputs {', '.join(facts['outputs'])}")
    for note in facts["notes"]:
        say(f"note: {note}")


def import_verb(
    source: Annotated[
        Path, typer.Argument(help="Published weights (m3vit: a folder too).", metavar="SOURCE")
    ],
    family: Annotated[str, typer.Option("--family", help="mos-m, mos-s, retinaface or m3vit.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write.")],
    preset: Annotated[
        str | None,
        typer.Option(
            help="Facts that the file does not contain (colour order, activation, anchors; "
            "tasks of an encoder)."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Input side, or HEIGHTxWIDTH, in pixels; by default what the file says, else 640.",
            metavar="PX",
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Experts per token (m3vit).")] = 4,
    heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads (m3vit); the variant's by default.")
    ] = None,
) -> None:
    """Turn published weights into a checkpoint; every key is accounted for."""
    from edgemtl.pipeline.importing import ImportOptions, import_file, parse_size

    options = ImportOptions(preset, None if size is None else parse_size(size), top_k, heads)
    found: dict[str, Any] = import_file(source, family, output, options)
    say(f"{output}: {found['parameters']:,} parameters, tasks {', '.join(found['tasks'])}")
    for note in found["notes"]:
        say(f"note: {note}")
    say(f"check it: edgemtl eval {output} --data DIR --split val")
