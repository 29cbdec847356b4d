"""Verbs that measure: ``bench`` and ``parity``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgemtl.cli.console import (
    CertificatesFlag,
    DataFlag,
    FactoryFlag,
    FarmFlag,
    JsonFlag,
    PlainFlag,
    only_warnings,
    print_json,
    say,
)
from edgemtl.progress import Progress, listening

if TYPE_CHECKING:
    from edgemtl.measure.results import Comparison, LatencyResult
    from edgemtl.measure.selfcheck import SelfCheck
    from edgemtl.pipeline.benchmarking import BenchFiles

_log = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add this module's verbs."""
    app.command("bench")(bench_verb)
    app.command("parity")(parity_verb)


def bench_verb(
    bundle: Annotated[Path, typer.Argument(help="Bundle or ONNX file.", metavar="BUNDLE|ONNX")],
    against: Annotated[
        Path | None,
        typer.Option(help="Measure in turns with this one, and print the speed-up."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="DENSE",
            help="As --against, with a dense checkpoint, built in float32 for the same target.",
        ),
    ] = None,
    factory: FactoryFlag = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Threads of the runtime; 0 lets it choose; by default the bundle's, else 1.",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time at least so many seconds.")] = 3.0,
    min_runs: Annotated[int, typer.Option(min=5, help="Time at least so many runs.")] = 100,
    max_seconds: Annotated[float, typer.Option(min=0.5, help="Stop after so many seconds.")] = 60.0,
    warmup_seconds: Annotated[
        float, typer.Option(min=0.0, help="Seconds of runs before, not counted.")
    ] = 1.0,
    cooldown: Annotated[
        float, typer.Option(min=0.0, help="Seconds to rest before measuring again.")
    ] = 1.0,
    self_check: Annotated[
        bool,
        typer.Option(
            "--self-check",
            help="Measure the file twice and against itself: the noise floor of this machine.",
        ),
    ] = False,
    claim: Annotated[
        float,
        typer.Option(
            min=0.0, help="Difference, as a share, that --self-check must be able to show."
        ),
    ] = 0.05,
    image: Annotated[
        Path | None,
        typer.Option("--picture", help="Feed this picture instead of the recorded input."),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Runtime for an ONNX file, onnxruntime by default; a bundle has its own."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of turns.")] = 0,
    device: Annotated[
        str | None,
        typer.Option(
            help="Measure on this device: ssh://USER@HOST[:PORT], tvm-rpc://HOST:PORT[?key=NAME], "
            "or a device of --farm by name."
        ),
    ] = None,
    all_devices: Annotated[
        bool, typer.Option("--all-devices", help="Measure on every board of --farm.")
    ] = False,
    farm: FarmFlag = None,
    certificates: CertificatesFlag = None,
    without_tls: PlainFlag = False,
    device_python: Annotated[
        str, typer.Option(help="Python on the device; it must have the target's runtime.")
    ] = "python3",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the results as JSON.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure latency on this machine, one artefact per process, or on a device.

    Exit code 9 if the measurement is not stable: the figures are printed, but do not quote them.
    """
    from edgemtl.backends.registry import REFERENCE
    from edgemtl.errors import ExitCode, UsageError
    from edgemtl.files import write_json
    from edgemtl.pipeline.benchmarking import BenchFiles, bench_files, check_file, how_long

    only_warnings(as_json)
    if reference is not None:
        if against is not None or self_check or device is not None or farm is not None:
            raise UsageError(
                "it goes with none of --against, --self-check, --device, --farm",
                where="--reference",
            )
        against = reference
    how = how_long(seconds, min_runs, max_seconds, warmup_seconds)
    asked = BenchFiles(
        *(bundle, against, how, threads, image),
        *(backend or REFERENCE, seed, cooldown, factory),
    )
    if self_check and (device is not None or against is not None):
        raise UsageError("--device and --against do not go with --self-check")
    if farm is not None:
        if self_check or against is not None or image is not None:
            raise UsageError("--self-check, --against and --picture do not go with --farm")
        if all_devices == (device is not None):
            raise UsageError(
                "say which boards of the farm measure",
                where="--farm",
                hint="--all-devices, or --device NAME",
            )
        where = (farm, certificates, without_tls)
        _on_farm(asked, None if device is None else [device], where, output, as_json)
        return
    if all_devices:
        raise UsageError("--all-devices needs --farm", hint="--farm tls://HOST[:PORT]")
    if device is not None:
        _on_device(asked, device, device_python, output, as_json)
        return
    result: LatencyResult | Comparison | SelfCheck
    with listening(_show):
        result = check_file(asked, claim) if self_check else bench_files(asked)
    data = result.to_dict()
    if output is not None:
        write_json(output, data)
    if as_json:
        print_json(data)
    else:
        _print(result, bundle, against)
    if not result.stable:
        say(f"not stable: {result.reason}", warn=True)
        raise typer.Exit(int(ExitCode.UNSTABLE))


def _show(progress: Progress) -> None:
    """What happens now: a pair of blocks that begins, or a step without parts."""
    if progress.total is None:
        _log.info(progress.what)
    elif progress.unit == "pairs":
        _log.info(f"pair {progress.done + 1} of {progress.total}")


def _on_device(
    asked: BenchFiles,
    device: str,
    python: str,
    output: Path | None,
    as_json: bool,
) -> None:
    from edgemtl.errors import UsageError
    from edgemtl.files import write_json
    from edgemtl.pipeline.device_bench import bench_on_device

    if asked.against is not None or asked.image is not None:
        raise UsageError("--against and --picture do not go with --device")
    run = bench_on_device(asked, device, python)
    if run.results is not None:
        if output is not None:
            write_json(output, run.results)
        if as_json:
            print_json(run.results)
        elif "latency" in run.results:
            found = run.results["latency"]
            figures = ", ".join(
                f"{k[:-3]} {found[k]:.2f} ms" for k in ("p50_ms", "p90_ms", "p99_ms")
            )
            say(f"{device}: {figures} ({found['count']} runs)")
    if run.message:
        say(f"error: {run.message}", warn=True)
    if run.exit_code:
        raise typer.Exit(run.exit_code)


def _on_farm(
    asked: BenchFiles,
    devices: list[str] | None,
    where: tuple[str, Path | None, bool],
    output: Path | None,
    as_json: bool,
) -> None:
    from edgemtl.errors import most_serious
    from edgemtl.files import write_json
    from edgemtl.pipeline.farm.benching import BoardBench, bench_on_farm
    from edgemtl.pipeline.farm.members import open_farm

    def show(found: BoardBench) -> None:
        place = f"{found.device:<14} {found.worker:<28}"
        latency = (found.results or {}).get("latency")
        if latency is not None and not as_json:
            keys = ("p50_ms", "p90_ms", "p99_ms")
            figures = ", ".join(f"{key[:-3]} {latency[key]:.2f} ms" for key in keys)
            say(f"{place} {figures} ({latency['count']} runs)")
        if found.message:
            say(f"error: {found.device} ({found.worker}): {found.message}", warn=True)

    with open_farm(*where) as members:
        results = bench_on_farm(asked, devices, members, show)
    data = {"devices": [found.to_dict() for found in results]}
    if output is not None:
        write_json(output, data)
    if as_json:
        print_json(data)
    code = most_serious(found.exit_code for found in results)
    if code:
        raise typer.Exit(int(code))


def _print(
    result: LatencyResult | Comparison | SelfCheck, bundle: Path, against: Path | None
) -> None:
    from edgemtl.measure.results import LatencyResult
    from edgemtl.measure.selfcheck import SelfCheck
    from edgemtl.report.tables import print_comparison, print_latency, print_self_check

    if isinstance(result, LatencyResult):
        print_latency(result, bundle.name)
    elif isinstance(result, SelfCheck):
        print_self_check(result, bundle.name)
    else:
        print_comparison(result, bundle.name, against.name if against else "")


def parity_verb(
    a: Annotated[Path, typer.Argument(help="Reference: checkpoint, ONNX or bundle.")],
    b: Annotated[Path, typer.Argument(help="What is compared with it.")],
    data: DataFlag = None,
    split: Annotated[str, typer.Option(help="Split of the data folder.")] = "val",
    images: Annotated[int, typer.Option(min=1, help="Real pictures to compare on.")] = 4,
    precision: Annotated[
        str, typer.Option(help="Tolerance: fp32, fp16, bf16 or int8 (the last two only inform).")
    ] = "fp32",
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            help="Run ONNX files in this target's runtime; by default in ONNX Runtime.",
        ),
    ] = None,
    bisect: Annotated[
        bool,
        typer.Option(
            "--bisect",
            help="Name the first layer that differs, or the runtime if the graphs agree.",
        ),
    ] = False,
    factory: FactoryFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare two forms of a network, per output and per task; exit code 5 when they differ."""
    from edgemtl import targets
    from edgemtl.errors import ExitCode
    from edgemtl.pipeline.paritycheck import ParityFiles, compare_files

    suited = None if target is None else targets.load(target)
    asked = ParityFiles(a, b, data or (), split, images, precision, bisect, factory, suited)
    found = compare_files(asked)
    if as_json:
        print_json(found.to_dict())
    else:
        from edgemtl.report.told import parity_line

        for output in found.report.outputs:
            say(parity_line(output))
        if found.culprit is not None:
            say(found.culprit.told())
    if not found.report.passed:
        raise typer.Exit(int(ExitCode.PARITY))
