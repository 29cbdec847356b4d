"""``eval --farm``: the pictures in parts, the figures of all of them."""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.data.concat import Concatenated
from edgemtl.devices.farm.client import Farm
from edgemtl.devices.farm.work import JobResult, from_worker
from edgemtl.errors import UsageError
from edgemtl.measure.accuracy import AccuracyReport, Part, accuracy_of
from edgemtl.pipeline.datasets import layout_modules
from edgemtl.pipeline.evaluation import EvaluateFile
from edgemtl.pipeline.farm.job import STATE
from edgemtl.pipeline.farm.members import needed
from edgemtl.pipeline.farm.shipping import Luggage, data_place, job_for, pack, result_of
from edgemtl.pipeline.loaded_model import read_signature
from edgemtl.tasks.base import Metric, Task

_log = logging.getLogger(__name__)

#: a part is not worth its start with fewer
FEWEST_IMAGES = 8
#: per worker, so that a slow one does not keep the others waiting at the end
PARTS_PER_WORKER = 2


def evaluate_on_farm(asked: EvaluateFile, farm: Farm) -> AccuracyReport:
    """What :func:`edgemtl.pipeline.evaluation.evaluate_file` finds, measured in parts on a farm.

    Workers of one kind of processor come to the same report as one of them alone, to the last bit.

    Raises:
        InputRefused: the file or the data is refused.
        UsageError: a task's metric cannot be measured in parts.
        StageFailed: a part failed.
        TargetUnavailable: no worker runs this code, or the scheduler was lost.
    """
    path, data = asked.path, asked.data
    signature = read_signature(path, asked.factory)
    for task in signature.tasks:
        if not task.new_metric().found:
            raise UsageError(
                f"task '{task.name}' cannot be measured in parts",
                where="--farm",
                hint="its metric names no 'found' (edgemtl.tasks.base.Metric)",
            )
    dataset = asked.dataset(signature.tasks)
    needs = needed(signature.backend, [*signature.modules, *layout_modules(data, asked.layout)])
    workers = sum(worker.offers(needs) for worker in farm.workers())
    sources = dataset.parts if isinstance(dataset, Concatenated) else (dataset,)
    ranges = _ranges([len(source) for source in sources], max(workers, 1))
    luggage = pack(farm, path, data, [asked.split])
    order: dict[str, Any] = {
        "kind": "eval",
        "model": f"inputs/model/{path.name}",
        "factory": asked.factory,
        "data": [data_place(index, root) for index, root in enumerate(data)],
        "split": asked.split,
        "format": asked.layout,
        "limit": asked.limit,
    }
    jobs = [
        job_for(
            farm,
            f"pictures {begin + 1} to {end}",
            {**order, "begin": begin, "end": end},
            luggage,
            needs,
        )
        for of_one in ranges
        for begin, end in of_one
    ]
    answers = farm.run(
        jobs, lambda answer: _log.info(f"{answer.name}: done by {answer.worker or 'nobody'}")
    )
    parts: list[Part] = []
    following = iter(answers)
    for source, of_one in zip(sources, ranges, strict=True):
        # What was found on opening a folder is said before what was found in its pictures.
        parts.append(Part(_metrics(signature.tasks), 0, 0, tuple(source.problems)))
        parts += [_part(signature.tasks, farm, luggage, next(following)) for _ in of_one]
    return accuracy_of(parts, signature.input_spec, dataset.name)


def _ranges(lengths: Sequence[int], workers: int) -> list[list[tuple[int, int]]]:
    """Even ranges of positions, in order, those of each of several data sets by itself."""
    found, start, total = [], 0, max(sum(lengths), 1)
    for length in lengths:
        number = round(workers * PARTS_PER_WORKER * length / total)
        number = max(1, min(number, length // FEWEST_IMAGES))
        edges = [start + length * index // number for index in range(number + 1)]
        found.append(list(itertools.pairwise(edges)))
        start += length
    return found


def _metrics(tasks: Sequence[Task]) -> dict[str, Metric]:
    return {task.name: task.new_metric() for task in tasks}


def _part(tasks: Sequence[Task], farm: Farm, luggage: Luggage, answer: JobResult) -> Part:
    found = result_of(farm, luggage, answer)
    metrics = _metrics(tasks)
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder, from_worker(answer.name):
        farm.fetch({STATE: answer.files[STATE]}, Path(folder))
        with np.load(Path(folder) / STATE, allow_pickle=False) as state:
            for name, metric in metrics.items():
                inside = f"{name}/"
                keys = [key for key in state.files if key.startswith(inside)]
                metric.add({key[len(inside) :]: state[key] for key in keys})
    with from_worker(answer.name):
        problems = tuple(str(problem) for problem in found["problems"])
        return Part(metrics, int(found["images"]), int(found["lost"]), problems)
