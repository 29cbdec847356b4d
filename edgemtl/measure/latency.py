"""Latency of one artefact, and the speed-up of one over another.

Each artefact lives in a process of its own, so that no other runtime's threads, memory or
allocator are part of what is measured.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgemtl.measure.machine import MachineFacts
from edgemtl.measure.results import (
    BenchRequest,
    Comparison,
    InterleaveRule,
    LatencyResult,
    Memory,
    StopRule,
)
from edgemtl.measure.statistics import FEWEST_FOR_DRIFT, drift, ratio_of_medians, summarise
from edgemtl.measure.telemetry import Reading, readings_from, summarise_readings
from edgemtl.measure.workerlink import WorkerLink
from edgemtl.progress import Progress, report

__all__ = [
    "BenchRequest",
    "Comparison",
    "InterleaveRule",
    "LatencyResult",
    "Memory",
    "StopRule",
    "bench",
    "compare",
]

#: pause before a turn when the other worker has a thread pool, whose threads spin for a while
#: after their last run
SPIN_PAUSE_SECONDS = 0.05
CALIBRATION_RUNS = 5
FEWEST_RUNS_PER_BLOCK = 3
MOST_RUNS_PER_BLOCK = 500


def bench(request: BenchRequest) -> LatencyResult:
    """Measure one artefact in a process of its own.

    An unstable measurement is repeated up to ``request.attempts`` times; the last one is what is
    reported, with the number of attempts beside it.

    Raises:
        StageFailed: the worker died, or did not answer within the time limit.
        InputRefused: the picture or the input array cannot be used.
        TargetUnavailable: the artefact's backend does not work here.
    """
    stop = request.stop
    with _worker(request) as worker:
        report(Progress("loading"))
        loaded = worker.ask("load", request=request.to_dict())
        report(Progress("warming up"))
        warm = worker.ask("warm", runs=stop.warmup_runs, seconds=stop.warmup_seconds)["runs"]
        attempts = 0
        while True:
            attempts += 1
            report(Progress("measuring" if attempts == 1 else f"measuring again ({attempts})"))
            answer = worker.ask(
                "measure",
                min_runs=stop.min_runs,
                max_runs=stop.max_runs,
                min_seconds=stop.min_seconds,
                max_seconds=stop.max_seconds,
            )
            taken = _Taken(
                [float(v) for v in answer["samples_ms"]], readings_from(answer["readings"])
            )
            # Too few samples for the time allowed stay too few however often they are taken.
            too_few = len(taken.samples_ms) < max(stop.min_runs, FEWEST_FOR_DRIFT)
            if too_few or attempts >= request.attempts or not taken.problem():
                break
            # What made it unsteady, heat or another program, may pass.
            time.sleep(stop.cooldown_seconds)
        return _result(worker, request, loaded, taken, warm + 1, attempts)


def compare(
    a: BenchRequest,
    b: BenchRequest,
    rule: InterleaveRule | None = None,
    seed: int = 0,
) -> Comparison:
    """Measure how much faster A is than B, in turns.

    Both workers are alive at once, but only one runs at a time. Blocks come in random ABBA or BAAB
    quartets, in which a linear drift of the machine cancels. Where a request leaves the number of
    threads to the runtime (0), one thread is used: an idle pool of several threads spins for a
    while after its last run and would slow the other one down. Where several threads are asked
    for, a pause before each turn lets the other pool fall asleep. The requests' stop rules count
    for warm-up only.

    Raises:
        StageFailed: a worker died, or did not answer within the time limit.
        InputRefused: a picture or an input array cannot be used.
        TargetUnavailable: a backend does not work here.
    """
    rule = rule or InterleaveRule()
    requests = [_with_known_threads(request) for request in (a, b)]
    pause = SPIN_PAUSE_SECONDS if any(r.options.threads > 1 for r in requests) else 0.0
    with _worker(requests[0]) as worker_a, _worker(requests[1]) as worker_b:
        workers = (worker_a, worker_b)
        loaded, warm, medians = [], [], []
        for name, worker, request in zip("AB", workers, requests, strict=True):
            report(Progress(f"loading and warming up {name}"))
            loaded.append(worker.ask("load", request=request.to_dict()))
            stop = request.stop
            runs = worker.ask("warm", runs=stop.warmup_runs, seconds=stop.warmup_seconds)["runs"]
            warm.append(1 + runs + CALIBRATION_RUNS)
            medians.append(float(np.median(_block(worker, CALIBRATION_RUNS, 0).samples_ms)))
        per_block = round(rule.block_seconds * 1e3 / max(max(medians), 1e-3))
        per_block = min(max(per_block, FEWEST_RUNS_PER_BLOCK), MOST_RUNS_PER_BLOCK)
        blocks: tuple[list[_Taken], list[_Taken]] = ([], [])
        order = ""
        began = time.monotonic()
        for turn in block_order(rule.pairs, seed):
            # Only whole pairs count, so that both have as many blocks.
            done, half = divmod(len(order), 2)
            if not half:
                late = time.monotonic() - began > rule.max_seconds
                if done >= rule.min_pairs and late:
                    break
                report(Progress("turns", done, rule.pairs, "pairs"))
            time.sleep(pause)
            which = "AB".index(turn)
            blocks[which].append(_block(workers[which], per_block, rule.settle_runs))
            order += turn
        results = [
            _result(worker, request, facts, _joined(taken), runs, 1)
            for worker, request, facts, taken, runs in zip(
                workers, requests, loaded, blocks, warm, strict=True
            )
        ]
    series_a, series_b = ([block.samples_ms for block in taken] for taken in blocks)
    speedup = ratio_of_medians(series_b, series_a, seed=seed)
    return Comparison(speedup, results[0], results[1], len(blocks[0]), per_block, order, seed)


def block_order(pairs: int, seed: int) -> str:
    """``pairs`` times A and B: quartets ABBA or BAAB by the toss of a seeded coin."""
    coin = random.Random(seed)
    order = ""
    for _ in range((pairs + 1) // 2):
        order += coin.choice(("ABBA", "BAAB"))
    return order[: 2 * pairs]


def _worker(request: BenchRequest) -> WorkerLink:
    asked = max(request.stop.max_seconds, request.stop.warmup_seconds)
    return WorkerLink(str(request.artefact.folder), request.time_limit_seconds + asked)


def _with_known_threads(request: BenchRequest) -> BenchRequest:
    threads = request.options.threads or 1
    return replace(request, options=replace(request.options, threads=threads))


@dataclass(frozen=True)
class _Taken:
    """Timed runs, and what the machine did meanwhile."""

    samples_ms: list[float]
    readings: list[Reading]

    def problem(self) -> str:
        """Why these timings may not be quoted; empty when they may."""
        judged = drift(self.samples_ms)
        if not judged.stable:
            return judged.reason
        telemetry = summarise_readings(self.readings)
        return telemetry.problem if telemetry else ""


def _joined(blocks: list[_Taken]) -> _Taken:
    return _Taken(
        [v for b in blocks for v in b.samples_ms], [r for b in blocks for r in b.readings]
    )


def _block(worker: WorkerLink, runs: int, settle_runs: int) -> _Taken:
    answer = worker.ask(
        "measure",
        min_runs=runs,
        max_runs=runs,
        min_seconds=0.0,
        max_seconds=1e6,
        settle_runs=settle_runs,
    )
    return _Taken([float(v) for v in answer["samples_ms"]], readings_from(answer["readings"]))


def _result(
    worker: WorkerLink,
    request: BenchRequest,
    loaded: Mapping[str, Any],
    taken: _Taken,
    warmup_runs: int,
    attempts: int,
) -> LatencyResult:
    memory = worker.ask("memory")
    stages = worker.ask("stages")
    samples_ms, reason = taken.samples_ms, taken.problem()
    summary = summarise(samples_ms)
    pre, post = stages["preprocess_ms"], stages["postprocess_ms"]
    batch = int(loaded["batch"])
    return LatencyResult(
        samples_ms=tuple(samples_ms),
        summary=summary,
        throughput_per_s=1e3 * batch / max(summary.mean_ms, 1e-9),
        import_ms=float(loaded["import_ms"]),
        load_ms=float(loaded["load_ms"]),
        first_inference_ms=float(loaded["first_inference_ms"]),
        batch=batch,
        threads=request.options.threads,
        process_threads=int(memory["process_threads"]),
        memory=Memory(
            int(loaded["start_bytes"]),
            int(loaded["runtime_bytes"]),
            int(loaded["loaded_bytes"]),
            int(memory["peak_bytes"]),
        ),
        preprocess=None if pre is None else summarise(pre),
        postprocess=None if post is None else summarise(post),
        machine=MachineFacts.from_dict(loaded["machine"]),
        machine_after=MachineFacts.from_dict(memory["machine_after"]),
        fed=str(loaded["fed"]),
        warmup_runs=warmup_runs,
        attempts=attempts,
        trend=drift(samples_ms).trend,
        stable=not reason,
        reason=reason,
        telemetry=summarise_readings(taken.readings),
    )
