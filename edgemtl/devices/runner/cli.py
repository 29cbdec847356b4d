"""``python runner.pyz verify|bench|info``: one JSON document on standard output."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import runtimes
from .arrays import load_float32
from .container import Files, check_all, checked_blocks, extract, open_files
from .detection import agreement, decode, priors
from .errors import OK, STAGE_FAILED, UNEXPECTED, UNSTABLE, USAGE, VERIFICATION, RunnerError
from .facts import clocks, device_facts, peak_memory_bytes, throttled
from .latency import instability, sample, summary
from .manifest import Manifest, read_manifest
from .selftest import compare, failure
from .turns import in_turns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: of the JSON document
RESULTS_VERSION = 1
#: timed runs of decoding and suppression on the host
DECODE_RUNS = 30


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RunnerError(USAGE, message)


def _arguments(argv: Sequence[str], default_bundle: str) -> argparse.Namespace:
    parser = _Parser(prog="runner", description="Verifies and measures a bundle on this device.")
    verbs = parser.add_subparsers(dest="verb", metavar="verify|bench|info")
    helps = {
        "verify": "check every hash and re-run the self-test",
        "bench": "verify, then measure the latency",
        "info": "what the bundle and this device are; runs nothing",
    }
    for verb, text in helps.items():
        sub = verbs.add_parser(verb, help=text, description=text)
        sub.add_argument(
            "--bundle",
            default=default_bundle,
            help="bundle file or the folder it was unpacked to (default: where this runner lies)",
        )
        sub.add_argument("--output", help="also write the JSON document to this file")
        if verb != "info":
            sub.add_argument("--variant", help="one of the graphs in the bundle (info lists them)")
            sub.add_argument(
                "--threads", type=int, help="worker threads, 0 lets the runtime choose"
            )
        if verb == "bench":
            sub.add_argument("--warm-up", type=float, default=1.0, help="seconds (default 1)")
            sub.add_argument("--min-runs", type=int, default=50, help="timed runs (default 50)")
            sub.add_argument("--min-seconds", type=float, default=3.0, help="(default 3)")
            sub.add_argument(
                "--no-reference",
                action="store_true",
                help="do not time the uncompressed network too, where the bundle has it",
            )
    arguments = parser.parse_args(argv)
    if arguments.verb is None:
        parser.error("say what to do: verify, bench or info")
    if (getattr(arguments, "threads", None) or 0) < 0:
        parser.error("--threads must not be negative")
    if arguments.verb == "bench" and arguments.min_runs < 1:
        parser.error("--min-runs must be at least 1")
    return arguments


@contextlib.contextmanager
def _extracted(
    files: Files, manifest: Manifest, artefact: Sequence[tuple[str, str]]
) -> Iterator[str]:
    """Path of an artefact's main file, checked and in a private temporary folder."""
    entries = {member: manifest.files[member] for _, member in artefact}
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        extract(files, entries, folder)
        yield str(Path(folder, artefact[0][1]))


def _load_cases(
    files: Files, manifest: Manifest
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    def array(member: str) -> NDArray[np.float32]:
        data = b"".join(checked_blocks(files, member, manifest.files[member]))
        return load_float32(data, member)

    inputs = array(manifest.selftest_input)
    expected = {entry.output: array(entry.member) for entry in manifest.expected}
    wanted = manifest.input_shape
    if inputs.shape[1:] != wanted or not len(inputs):
        raise RunnerError(
            VERIFICATION, f"the self-test input has shape {inputs.shape}, not (cases, *{wanted})"
        )
    for name, values in expected.items():
        if len(values) != len(inputs):
            raise RunnerError(
                VERIFICATION, f"the self-test records {len(values)} of {len(inputs)} '{name}'"
            )
    return inputs, expected


def _document(files: Files, manifest: Manifest) -> dict[str, Any]:
    return {
        "schema_version": RESULTS_VERSION,
        "bundle": manifest.name,
        "target": manifest.target,
        "manifest_sha256": manifest.sha256,
        "device": device_facts(),
    }


def _info(files: Files, manifest: Manifest) -> dict[str, Any]:
    document = _document(files, manifest)
    document["backend"] = manifest.backend
    document["backend_device"] = manifest.device
    document["input"] = {"name": manifest.input_name, "shape": list(manifest.input_shape)}
    document["outputs"] = [entry.output for entry in manifest.expected]
    document["variants"] = [
        {"name": one.name, "kind": one.kind, "outputs": one.outputs} for one in manifest.variants
    ]
    document["clocks"] = clocks()
    return document


def _chosen(manifest: Manifest, name: str) -> tuple[Manifest, bool]:
    """The bundle as if this were its only graph, and whether the recorded answers are its own.

    Those of a network behind a router are not: the router chose who answered.
    """
    found = next((one for one in manifest.variants if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in manifest.variants) or "none"
        raise RunnerError(USAGE, f"there is no variant '{name}' (there are: {known})")
    own = found.outputs or [entry.output for entry in manifest.expected]
    kept = [entry for entry in manifest.expected if entry.output in own]
    detection = [task for task in manifest.detection if {task.scores, task.boxes} <= set(own)]
    comparable = found.kind != "prototype"
    alone = manifest._replace(
        artefact=found.artefact,
        expected=kept,
        detection=detection if comparable else [],
        reference=[],
        variants=[],
    )
    return alone, comparable


def _verify_and_measure(
    files: Files, manifest: Manifest, arguments: argparse.Namespace
) -> tuple[dict[str, Any], int, str]:
    """The document, the exit code, and the sentence about it (empty when all is well)."""
    document = _document(files, manifest)
    document["files_checked"] = len(manifest.files)
    document["extra_files"] = check_all(files, manifest.files)
    inputs, expected = _load_cases(files, manifest)
    recorded = expected
    if arguments.variant is not None:
        manifest, comparable = _chosen(manifest, arguments.variant)
        expected = {entry.output: expected[entry.output] for entry in manifest.expected}
        recorded = expected if comparable else {}
        document["variant"] = arguments.variant
    threads = manifest.threads if arguments.threads is None else arguments.threads
    with _extracted(files, manifest, manifest.artefact) as model:
        start = time.perf_counter()
        session = _load(manifest, model, threads)
        load_ms = (time.perf_counter() - start) * 1e3
        start = time.perf_counter()
        session.run(inputs[0].copy())
        first_ms = (time.perf_counter() - start) * 1e3
        document["runtime"] = {
            "name": session.runtime,
            "version": session.version,
            "device": manifest.device,
            "threads": threads,
            "precision_hint": manifest.precision_hint,
            **session.facts,
        }
        allowed = {entry.output: entry.max_abs_error for entry in manifest.expected}
        mean = {
            entry.output: entry.max_mean_error
            for entry in manifest.expected
            if entry.max_mean_error is not None
        }
        checks = compare(session.run, inputs, recorded, allowed, mean)
        problem = failure(checks)
        document["selftest"] = {
            "passed": problem is None,
            "cases": len(inputs),
            "outputs": [check._asdict() for check in checks],
        }
        if problem is not None:
            return document, VERIFICATION, problem
        document["detections"] = _detections(manifest, session, inputs, expected)
        if arguments.verb == "verify":
            return document, OK, ""
        images = inputs[0].copy()
        found = _measure(document, session, images, load_ms, first_ms, arguments)
        if manifest.reference and not arguments.no_reference:
            document["comparison"] = _compare(files, manifest, session, images, threads, document)
        return found


def _detections(
    manifest: Manifest,
    session: runtimes.Session,
    inputs: NDArray[np.float32],
    expected: dict[str, NDArray[np.float32]],
) -> dict[str, Any]:
    """Task name -> how the detections here compare with the recorded ones, and how long they take.

    The time is the host's, for decoding and suppression; what runs inside the graph is part of the
    network's own latency.
    """
    told: dict[str, Any] = {}
    if not manifest.detection:
        return told
    answers = session.run(inputs[0].copy())
    for task in manifest.detection:
        grid = priors(task, *manifest.input_shape[2:])
        recorded = {name: values[0] for name, values in expected.items()}
        host = task._replace(kept="")
        wanted, found = decode(host, recorded, grid), decode(task, answers, grid)
        times = sample(
            partial(decode, task, answers, grid), warm_up_s=0.0, min_runs=DECODE_RUNS, min_s=0.0
        )
        told[task.name] = {
            "suppressed_by": "graph" if task.kept else "host",
            **agreement(wanted, found),
            "decode": summary(times),
        }
    return told


def _load(manifest: Manifest, model: str, threads: int) -> runtimes.Session:
    return runtimes.load(
        manifest.backend,
        model,
        manifest.device,
        threads,
        manifest.precision_hint,
        [entry.output for entry in manifest.expected]
        + [task.kept for task in manifest.detection if task.kept],
    )


def _compare(
    files: Files,
    manifest: Manifest,
    session: runtimes.Session,
    images: NDArray[np.float32],
    threads: int,
    document: dict[str, Any],
) -> dict[str, Any] | None:
    """Artefact and uncompressed network in turns; None, with a note, where that one cannot run."""
    import numpy as np

    with _extracted(files, manifest, manifest.reference) as model:
        try:
            reference = _load(manifest, model, threads)
            answers = reference.run(images)
            if not all(np.isfinite(values).all() for values in answers.values()):
                raise RunnerError(STAGE_FAILED, "its outputs are not finite")
        except RunnerError as error:
            document["comparison_note"] = f"the uncompressed network: {error.message}"
            return None
        sessions = {"A": session, "B": reference}
        found = in_turns(
            {
                name: partial(lambda one, runs: one.samples(images, 0.0, runs, 0.0), one)
                for name, one in sessions.items()
            }
        )
        reference.close()
        return found


def _measure(
    document: dict[str, Any],
    session: runtimes.Session,
    images: NDArray[np.float32],
    load_ms: float,
    first_ms: float,
    arguments: argparse.Namespace,
) -> tuple[dict[str, Any], int, str]:
    before = clocks()
    during: list[dict[str, Any]] = []
    samples = session.samples(
        images,
        arguments.warm_up,
        arguments.min_runs,
        arguments.min_seconds,
        lambda: during.append(clocks()),
    )
    after = clocks()
    reason = instability(samples) or throttled(before, after)
    document["latency"] = {
        **summary(samples),
        "clock": session.clock,
        "load_ms": load_ms,
        "first_inference_ms": first_ms,
        "stable": not reason,
        "reason": reason,
        "samples_ms": [round(value, 5) for value in samples],
    }
    document["clocks"] = {"before": before, "during": during, "after": after}
    stages = session.stages(images, arguments.min_runs)
    document["stages"] = {name: summary(values) for name, values in stages.items()}
    document["peak_memory_bytes"] = peak_memory_bytes()
    if reason:
        hint = "let the device idle or fix its clock and measure again"
        return document, UNSTABLE, f"the latency was not stable: {reason}; {hint}"
    return document, OK, ""


def _write(path: str, text: str) -> None:
    """Replace a file whole; what is no file (``/dev/null``, a FIFO) is written into."""
    path = os.path.realpath(path)
    temporary = Path(f"{path}.{os.getpid()}.part")
    try:
        data = text.encode("utf-8", "backslashreplace")
        if Path(path).exists() and not Path(path).is_file():
            Path(path).write_bytes(data)
            return
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunnerError(STAGE_FAILED, f"cannot write {path} ({error.strerror})") from error


def main(argv: list[str], default_bundle: str) -> int:
    """Run one verb.

    Args:
        argv: arguments without the program's name.
        default_bundle: the bundle when ``--bundle`` is not given.

    Returns:
        The exit code; errors are one sentence on standard error.
    """
    try:
        arguments = _arguments(argv, default_bundle)
        files = open_files(arguments.bundle)
        try:
            manifest = read_manifest(files)
            if arguments.verb == "info":
                document, code, sentence = _info(files, manifest), OK, ""
            else:
                document, code, sentence = _verify_and_measure(files, manifest, arguments)
        finally:
            files.close()
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        if arguments.output:
            _write(arguments.output, text)
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.flush()
    except RunnerError as error:
        code, sentence = error.code, error.message
    except KeyboardInterrupt:
        code, sentence = UNEXPECTED, "interrupted"
    if sentence:
        # Names in it come from the bundle: no line break or terminal control may come along.
        plain = "".join(c if c.isprintable() else " " for c in sentence)
        sys.stderr.write(f"error: {plain}\n")
    return code
