"""The program of a job: ``python -m edgemtl.pipeline.farm.job request.json``.

It runs in the job's folder on a worker, prints a line per step, and leaves ``out/result.json`` with
what came of it; an error that a user can meet is in there, and the exit code is 0.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemtl.errors import as_data
from edgemtl.files import as_told, read_json, write_atomically, write_json
from edgemtl.logs import Lines

if TYPE_CHECKING:
    from edgemtl.pipeline.stage import StageRecord
RESULT = "result.json"
STATE = "state.npz"
RUN = "run"


def main() -> None:
    """Do what the request says."""
    path = Path(sys.argv[1]).resolve()
    request, out = read_json(path), path.parent / "out"
    try:
        do = {"compile": _compile, "eval": _evaluate, "tune": _tune}[request["kind"]]
        with Lines(_print).shown():
            found = do(request, path.parent, out)
    except Exception as problem:
        found = {"error": as_data(as_told(problem))}
    write_json(out / RESULT, {"error": None, **found})


def _print(line: str) -> None:
    """One line, which the worker hands on."""
    print(" ".join(line.split()), flush=True)


class _Stages:
    """A reporter that prints a line per stage."""

    def __init__(self) -> None:
        self._head = ""

    def started(self, position: int, total: int, stage: str) -> None:
        self._head = f"[{position:>2}/{total}] {stage:<20}"

    def finished(self, record: StageRecord) -> None:
        told = {"cached": "cached", "skipped": "skipped", "failed": "FAILED"}
        how = told.get(record.status, f"{record.seconds:.1f} s")
        print(f"{self._head} {how:>8}  {(record.notes or ('',))[0]}", flush=True)


def _compile(request: Mapping[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    from edgemtl.pipeline.compile import CompileRequest, compile_model
    from edgemtl.recipes import validate
    from edgemtl.targets import Target

    # The run tells by which command it was made, and that was not ours.
    sys.argv = ["edgemtl", *request["arguments"]]
    places = {root: folder / place for root, place in request["data"].items()}
    # Its name stands in the report.
    run = out / RUN / request["name"]
    result = compile_model(
        CompileRequest(
            folder / request["model"],
            Target.model_validate(request["target"]),
            validate(request["recipe"], "recipe").with_data_at(places),
            request["factory"],
            run,
            use_cache=request["use_cache"],
            from_stage=request["from_stage"],
            until_stage=request["until_stage"],
            reference=folder / request["reference"] if request["reference"] else None,
        ),
        _Stages(),
    )
    (run / ".lock").unlink(missing_ok=True)
    return {
        "exit_code": int(result.exit_code),
        "bundle": None if result.bundle is None else str(result.bundle.relative_to(run)),
        "error": None if result.error is None else as_data(result.error),
    }


def _evaluate(request: Mapping[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    from edgemtl.measure.accuracy import measure
    from edgemtl.pipeline.evaluation import EvaluateFile
    from edgemtl.pipeline.loaded_model import open_model

    asked = EvaluateFile(
        folder / request["model"],
        [folder / place for place in request["data"]],
        *(request["split"], request["format"], request["limit"], request["factory"]),
    )
    with open_model(asked.path, asked.factory) as loaded:
        dataset = asked.dataset(loaded.tasks)
        part = measure(
            loaded.run,
            loaded.tasks,
            loaded.input_spec,
            dataset.subset(range(request["begin"], request["end"])),
        )
    state: dict[str, Any] = {
        f"{task}/{key}": value
        for task, metric in part.metrics.items()
        for key, value in metric.state().items()
    }
    write_atomically(out / STATE, lambda stream: np.savez_compressed(stream, **state))
    print(f"{part.images} pictures", flush=True)
    return {"images": part.images, "lost": part.lost, "problems": list(part.problems)}


def _tune(request: Mapping[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    from itertools import islice

    from edgemtl.backends import registry
    from edgemtl.backends.processor import processor_name
    from edgemtl.targets import Target

    target = Target.model_validate(request["target"])
    tuner = registry.get(target.backend).tuner()
    machine, processor = processor_name(), tuner.processor(target)
    known = {
        key for level, kind, key in request["known"] if level == processor and kind in ("", machine)
    }
    operators, measurements = tuner.measure(
        folder / request["model"],
        target,
        machine,
        known,
        request["wanted"],
        request["tiles"],
        request["seconds"],
    )
    records = []
    for found in islice(measurements, request["most"]):
        records += [dict(one.data) for one in found]
        print(tuner.told(found), flush=True)
    facts = {"processor": processor, "machine": machine}
    return {**facts, "operators": operators, "records": records}


if __name__ == "__main__":
    main()
