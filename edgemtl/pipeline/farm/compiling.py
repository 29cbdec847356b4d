"""``compile --farm``: a job per target; run folder and bundle come back."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edgemtl.compress.prune import method_module, methods
from edgemtl.devices.farm.client import Farm
from edgemtl.devices.farm.store import plain_path
from edgemtl.devices.farm.work import Job, JobResult, from_worker
from edgemtl.errors import EdgemtlError, ExitCode, InputRefused, StageFailed, from_data
from edgemtl.files import read_json, write_json
from edgemtl.gates.judge import GateReport
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline.compile import CompileRequest, RunResult, folder_of
from edgemtl.pipeline.datasets import layout_modules
from edgemtl.pipeline.farm.job import RESULT
from edgemtl.pipeline.farm.job import RUN as RUN_PLACE
from edgemtl.pipeline.farm.members import needed
from edgemtl.pipeline.farm.shipping import (
    REFERENCE,
    Luggage,
    check_there,
    data_place,
    job_for,
    pack,
)
from edgemtl.pipeline.loaded_model import modules_of
from edgemtl.pipeline.reference import find_reference
from edgemtl.pipeline.run_folder import LOCK, RunFolder
from edgemtl.record.run_record import GATES, RUN

_log = logging.getLogger(__name__)


def compile_on_farm(
    requests: Sequence[CompileRequest],
    farm: Farm,
    done: Callable[[RunResult], None],
) -> list[RunResult]:
    """Compile each on a worker that runs the same code; results in the order of the requests.

    What stops one of them is in its result, with a run folder that says so. What the workers say
    is logged line by line, behind the target's name.

    Args:
        requests: one model for several targets; what they read goes to the farm, each file once.
        farm: connected.
        done: called with each result as soon as its files are here.

    Raises:
        EdgemtlError: before anything ran: a model, data or an output folder that is refused.
        TargetUnavailable: the scheduler was lost.
    """
    for request in requests:
        check_there(request.model, request.recipe.data.root)
    folders = [folder_of(request) for request in requests]
    with contextlib.ExitStack() as held:
        runs = []
        for folder in folders:
            run = RunFolder(folder)
            try:
                held.enter_context(FileLock(folder / LOCK, timeout=0))
            except Timeout as error:
                raise StageFailed("another run is using this folder", where=str(folder)) from error
            runs.append(run)
        packed = [
            _packed(request, folder, farm)
            for request, folder in zip(requests, folders, strict=True)
        ]
        for request, run in zip(requests, runs, strict=True):
            run.begin({"name": request.model.stem, "target": {"name": request.target.name}})
        results: dict[str, RunResult] = {}

        def end(answer: JobResult) -> None:
            index = [job.name for job, _ in packed].index(answer.name)
            result = _received(runs[index], farm, packed[index][1], answer)
            results[answer.name] = result
            done(result)

        try:
            farm.run(
                [job for job, _ in packed], end, lambda name, line: _log.info(f"{name:<12} {line}")
            )
        except EdgemtlError as error:
            for (job, _), run in zip(packed, runs, strict=True):
                if job.name not in results:
                    _failed(run, error)
            raise
        return [results[job.name] for job, _ in packed]


def _name(folder: Path) -> str:
    """What a run folder is called in its report."""
    return folder.resolve().name or "run"


def _packed(request: CompileRequest, folder: Path, farm: Farm) -> tuple[Job, Luggage]:
    data = request.recipe.data
    splits = (data.training, data.calibration, data.evaluation)
    network = load_network(request.model, request.factory)
    dense = _reference(request, network)
    luggage = pack(farm, request.model, data.root, splits, dense)
    asked: dict[str, Any] = {
        "kind": "compile",
        "name": _name(folder),
        "model": f"inputs/model/{request.model.name}",
        "target": request.target.model_dump(mode="json"),
        "recipe": request.recipe.to_dict(),
        "data": {str(root): data_place(i, root) for i, root in enumerate(data.root)},
        "factory": request.factory,
        "reference": None if dense is None else f"{REFERENCE}/{dense.name}",
        "use_cache": request.use_cache,
        "from_stage": request.from_stage,
        "until_stage": request.until_stage,
        "arguments": sys.argv[1:],
    }
    used = [*modules_of(network), *layout_modules(data.root, data.format)]
    if request.recipe.prune.enabled is not False and request.recipe.prune.method in methods():
        used.append(method_module(request.recipe.prune.method))
    needs = needed(request.target.backend, used)
    return job_for(farm, request.target.name, asked, luggage, needs), luggage


def _reference(request: CompileRequest, network: MultiTaskNetwork) -> Path | None:
    """The dense network's file, which a worker would not find by itself."""
    if request.reference is not None:
        return request.reference
    found = find_reference(request.model, network, request.factory, None, network.tasks)
    return None if found.reference is None else found.reference.path


def _received(run: RunFolder, farm: Farm, luggage: Luggage, answer: JobResult) -> RunResult:
    """Lay the run out here; its worker and the farm are told in ``run.json``."""
    try:
        with from_worker(f"{answer.name} on {answer.worker}"):
            return _laid_out(run, farm, luggage, answer)
    except EdgemtlError as error:
        _failed(run, error)
        return RunResult(run.folder, error.exit_code, error=error)


def _laid_out(run: RunFolder, farm: Farm, luggage: Luggage, answer: JobResult) -> RunResult:
    problem = answer.problem()
    if problem is not None:
        raise problem
    result = _result_of(farm, answer, run.folder)
    error = None if result["error"] is None else _known(result["error"], luggage, answer)
    inside = f"{RUN_PLACE}/{_name(run.folder)}/"
    if inside + RUN not in answer.files:  # it stopped before its first stage
        raise error or StageFailed("the job left no run", where=answer.name)
    run.clear()
    # run.json last: it says that the run is over.
    names = sorted(n for n in answer.files if n.startswith(inside) and n != inside + RUN)
    for part in (names, [inside + RUN]):
        farm.fetch({name[len(inside) :]: answer.files[name] for name in part}, run.folder)
    luggage.put_right_below(run.folder, answer.folder)
    facts = {**read_json(run.folder / RUN)}
    facts["farm"] = {"scheduler": str(farm.address), "worker": answer.worker}
    write_json(run.folder / RUN, facts)
    gates = run.folder / GATES
    return RunResult(
        run.folder,
        ExitCode(result["exit_code"]),
        GateReport.from_dict(read_json(gates)) if gates.exists() else None,
        None if result["bundle"] is None else run.folder / plain_path(result["bundle"]),
        error,
    )


def _failed(run: RunFolder, error: EdgemtlError) -> None:
    run.update(status="failed", exit_code=int(error.exit_code), error=error.to_dict())


def _result_of(farm: Farm, answer: JobResult, folder: Path) -> dict[str, Any]:
    """``result.json`` of a job."""
    if RESULT not in answer.files:
        raise StageFailed("the job left no result", where=f"{answer.name} on {answer.worker}")
    place = folder / f".{RESULT}"
    farm.fetch({place.name: answer.files[RESULT]}, folder)
    try:
        found = read_json(place)
    finally:
        place.unlink(missing_ok=True)
    if not isinstance(found, dict) or "error" not in found:
        raise InputRefused("the result of a job is not one", where=answer.name)
    return found


def _known(error: dict[str, str | None], luggage: Luggage, answer: JobResult) -> EdgemtlError:
    """An error of a job in the words of this machine."""
    told = {
        key: None if text is None else luggage.put_right(text, answer.folder)
        for key, text in error.items()
    }
    return from_data(told)
