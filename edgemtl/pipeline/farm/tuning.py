"""``tune --farm``: operators in parts, each measured whole by one worker of one kind."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemtl.backends import registry
from edgemtl.backends.tuner import Measurement, Tuner
from edgemtl.devices.farm.client import Farm
from edgemtl.devices.farm.work import Job, JobResult, from_worker
from edgemtl.errors import EdgemtlError, InputRefused
from edgemtl.pipeline.farm.members import needed, of_one_kind, processor
from edgemtl.pipeline.farm.shipping import job_for, pack, result_of
from edgemtl.pipeline.tuning import Log, Tuning, onnx_of, tunable
from edgemtl.progress import Progress, report

#: of a job: what a worker that is lost, or a run that is stopped, had measured is measured again
MOST_OPERATORS = 4


def tune_on_farm(
    model: Path,
    target_name: str,
    output: Path,
    farm: Farm,
    factory: str | None = None,
    tiles: int = 6,
    seconds: float = 1.0,
) -> Tuning:
    """What :func:`edgemtl.pipeline.tuning.tune` finds, measured on processors of one kind.

    All tiles of an operator are compared in one process of one worker. The records come in as they
    are measured, and at the end stand in the order in which one machine would have left them.

    Args:
        model, target_name, output, factory, tiles, seconds: as there; the target is what the
            workers are.
        farm: connected. Of several kinds of processors that its workers have, the one that
            ``output`` has records of is taken, else the one that most of them have.

    Raises:
        UsageError: not such a target.
        InputRefused: ``output`` is not a file of records.
        StageFailed: a part failed; what the others measured is kept.
        TargetUnavailable: no worker runs this code with TVM, or the scheduler was lost.
    """
    target = tunable(target_name)
    tuner = registry.get(target.backend).tuner()
    log = Log.open(output, tuner)
    kinds = {processor(one.machine) for one in log.records if one.machine}
    needs = of_one_kind(farm, needed(target.backend), kinds)
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        luggage = pack(farm, onnx_of(model, Path(folder), target_name, factory), [], [])
    (inside,) = luggage.files
    asked: dict[str, Any] = {
        "kind": "tune",
        "model": inside,
        "target": target.model_dump(mode="json"),
        "tiles": tiles,
        "seconds": seconds,
    }

    def part(name: str, wanted: Sequence[str] | None, known: Sequence[Sequence[str]]) -> Job:
        most = 1 if wanted is None else len(wanted)
        words = {"wanted": wanted, "known": known, "most": most}
        return job_for(farm, name, {**asked, **words}, luggage, needs)

    # The first part measures the first operator that is not known, and says which there are.
    (answer,) = farm.run([part("the first operator", None, log.keys())])
    first = result_of(farm, luggage, answer)
    with from_worker(answer.name):
        level, machine = str(first["processor"]), str(first["machine"])
        operators = [str(key) for key in first["operators"]]
    needs = {**needs, processor(machine): 1.0}
    have = log.measured(level, machine)
    lacking = [key for key in operators if key not in have]
    total, begun = len(operators), len(operators) - len(lacking)
    done = begun

    def said(detail: str) -> None:
        report(Progress("measuring tiles", done, total, "operators", detail=detail))

    said(f"measured on {machine}")

    def add(found: Mapping[str, Any], wanted: Sequence[str]) -> None:
        nonlocal done
        for records in _by_operator(found, wanted, level, tuner):
            log.add(records)
            done += 1
            said(tuner.told(records))

    add(first, lacking[:1])
    rest = lacking[1:]
    workers = sum(worker.offers(needs) for worker in farm.workers())
    size = max(1, min(MOST_OPERATORS, len(rest) // max(workers, 1)))
    jobs = {}
    for start in range(0, len(rest), size):
        wanted = rest[start : start + size]
        name = f"operators {start + 2} to {start + 1 + len(wanted)} of {len(lacking)}"
        jobs[name] = (part(name, wanted, []), wanted)
    problems: list[EdgemtlError] = []

    def end(answer: JobResult) -> None:
        try:
            add(result_of(farm, luggage, answer), jobs[answer.name][1])
        except EdgemtlError as error:
            problems.append(error)

    try:
        farm.run([job for job, _ in jobs.values()], end)
    finally:
        log.sort(operators)
    if problems:
        raise problems[0]
    return Tuning(total, done - begun, output, log.write_target(target, level, machine))


def _by_operator(
    found: Mapping[str, Any], wanted: Sequence[str], level: str, tuner: Tuner
) -> list[list[Measurement]]:
    """Records of the operators of a part, one list each.

    Raises:
        InputRefused: they are not those that were asked for.
    """
    try:
        records = [tuner.parse(one) for one in found["records"]]
    except (ValueError, TypeError) as error:
        raise InputRefused(f"a part's records are not readable: {error}") from error
    parts = [[one for one in records if one.operator == key] for key in wanted]
    if not all(parts) or any(one.processor != level for one in records):
        # Processors of one name whose flags a virtual machine hides differ all the same.
        raise InputRefused(f"a part measured something else than these operators for {level}")
    return parts
