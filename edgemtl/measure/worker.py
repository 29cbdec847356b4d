"""The process that holds one artefact: ``python -m edgemtl.measure.worker``.

It reads one JSON command per line from standard input, answers one JSON line per command, and
blocks on the read in between, so that an idle worker costs nothing. Standard output is taken away
from whatever the runtime prints (it goes to standard error), so only answers travel on it.

Commands: ``load`` (with the request), ``warm`` (runs, seconds), ``measure`` (the stop rule or a
number of runs), ``memory``, ``stages``, ``quit``. An answer is the result, or ``{"error": ...}``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends import registry
from edgemtl.backends.session import Session
from edgemtl.data.preprocess import InputSpec, View, letterbox
from edgemtl.errors import (
    EdgemtlError,
    InputRefused,
    StageFailed,
    TargetUnavailable,
    as_data,
)
from edgemtl.measure.machine import machine_facts, peak_resident_bytes, resident_bytes
from edgemtl.measure.results import BenchRequest
from edgemtl.measure.telemetry import Recorder

#: rounds of pre- and post-processing that are timed
STAGE_RUNS = 30

Answer = dict[str, Any]


def _elapsed_ms(since_ns: int) -> float:
    return (time.perf_counter_ns() - since_ns) / 1e6


class Worker:
    """Answers commands about one artefact."""

    def __init__(self) -> None:
        self._request: BenchRequest | None = None
        self._session: Session | None = None
        self._images: NDArray[np.float32] = np.zeros(0, np.float32)

    def answer(self, command: Mapping[str, Any]) -> Answer:
        """Carry out one command.

        Raises:
            EdgemtlError: what a user can act on.
        """
        actions: dict[str, Callable[[Mapping[str, Any]], Answer]] = {
            "load": self._load,
            "warm": self._warm,
            "measure": self._measure,
            "memory": self._memory,
            "stages": self._stages,
        }
        action = actions.get(str(command.get("do")))
        if action is None:
            raise StageFailed(f"the bench worker knows no command {command.get('do')!r}")
        return action(command)

    def _load(self, command: Mapping[str, Any]) -> Answer:
        request = BenchRequest.from_dict(command["request"])
        machine = machine_facts()
        start_bytes = resident_bytes()
        began = time.perf_counter_ns()
        backend = registry.get(request.artefact.backend)
        backend.require()
        import_ms = _elapsed_ms(began)
        runtime_bytes = resident_bytes()
        began = time.perf_counter_ns()
        session = backend.load(request.artefact, request.options)
        if session.kind != "measured":
            raise TargetUnavailable(
                f"this machine is not '{request.artefact.target}': what runs here is a "
                f"{session.kind}, whose latency says nothing",
                hint="copy the bundle to the device and run 'python BUNDLE bench' there",
            )
        self._session = session
        load_ms = _elapsed_ms(began)
        loaded_bytes = resident_bytes()
        self._request = request
        self._images, fed = _input(request, self._session.input_shape)
        began = time.perf_counter_ns()
        self._session.run(self._images)
        return {
            "first_inference_ms": _elapsed_ms(began),
            "import_ms": import_ms,
            "load_ms": load_ms,
            "start_bytes": start_bytes,
            "runtime_bytes": runtime_bytes,
            "loaded_bytes": loaded_bytes,
            "batch": self._session.input_shape[0],
            "fed": fed,
            "machine": machine.to_dict(),
        }

    def _ready(self) -> tuple[BenchRequest, Session]:
        if self._request is None or self._session is None:
            raise StageFailed("the bench worker was asked to run before it loaded anything")
        return self._request, self._session

    def _warm(self, command: Mapping[str, Any]) -> Answer:
        _, session = self._ready()
        runs, seconds = int(command["runs"]), float(command["seconds"])
        began, done = time.perf_counter(), 0
        while done < runs or time.perf_counter() - began < seconds:
            session.run(self._images)
            done += 1
        return {"runs": done}

    def _measure(self, command: Mapping[str, Any]) -> Answer:
        _, session = self._ready()
        min_runs, max_runs = int(command["min_runs"]), int(command["max_runs"])
        min_ns, max_ns = (int(float(command[key]) * 1e9) for key in ("min_seconds", "max_seconds"))
        for _ in range(int(command.get("settle_runs", 0))):
            session.run(self._images)
        samples: list[int] = []
        # The collector would stop the world in the middle of a run for garbage that is not the
        # artefact's; a product that embeds the runtime has none.
        gc.collect()
        gc.disable()
        recorder = Recorder()
        try:
            began = now = time.perf_counter_ns()
            while len(samples) < max_runs:
                before = time.perf_counter_ns()
                session.run(self._images)
                now = time.perf_counter_ns()
                samples.append(now - before)
                elapsed = now - began
                enough = len(samples) >= min_runs and elapsed >= min_ns
                if enough or elapsed >= max_ns:
                    break
                recorder.between_runs()
        finally:
            gc.enable()
        recorder.between_runs(force=True)
        return {
            "samples_ms": [sample / 1e6 for sample in samples],
            "readings": recorder.to_list(),
        }

    def _memory(self, command: Mapping[str, Any]) -> Answer:
        import psutil

        return {
            "peak_bytes": peak_resident_bytes(),
            "process_threads": int(psutil.Process().num_threads()),
            "machine_after": machine_facts().to_dict(),
        }

    def _stages(self, command: Mapping[str, Any]) -> Answer:
        """Time letterboxing and decoding; asked last, because decoding imports much more."""
        request, session = self._ready()
        answer: Answer = {"preprocess_ms": None, "postprocess_ms": None}
        if request.image is None or request.input_spec is None:
            return answer
        spec = InputSpec.from_dict(request.input_spec)
        image = _read_image(request)
        answer["preprocess_ms"] = _time_each(lambda: letterbox(image, spec))
        if request.tasks:
            images, view = _image_input(request, session.input_shape)
            outputs = {name: value[0] for name, value in session.run(images).items()}
            answer["postprocess_ms"] = _time_each(_decoder(request, outputs, view))
        return answer


def _time_each(action: Callable[[], object]) -> list[float]:
    for _ in range(3):
        action()
    samples = []
    for _ in range(STAGE_RUNS):
        began = time.perf_counter_ns()
        action()
        samples.append(_elapsed_ms(began))
    return samples


def _decoder(
    request: BenchRequest, outputs: Mapping[str, NDArray[np.float32]], view: View
) -> Callable[[], object]:
    # Tasks pull in torch: imported here, after the artefact's memory has been taken.
    from edgemtl.measure.accuracy import decode_all
    from edgemtl.tasks import build, spec_from_dict

    tasks = [build(spec_from_dict(task)) for task in request.tasks]
    return lambda: decode_all(tasks, outputs, view)


def _read_image(request: BenchRequest) -> NDArray[np.uint8]:
    from edgemtl.data.images import ImageRefused, read_image

    assert request.image is not None
    try:
        return read_image(request.image)
    except ImageRefused as error:
        raise InputRefused(f"the image {error}", where=str(request.image)) from error


def _image_input(request: BenchRequest, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], View]:
    if request.input_spec is None:
        raise InputRefused("a picture can only be fed with the network's input specification")
    spec = InputSpec.from_dict(request.input_spec)
    canvas, view = letterbox(_read_image(request), spec)
    if canvas.shape != shape[1:]:
        raise InputRefused(f"the input specification gives {canvas.shape}, the artefact {shape}")
    return np.ascontiguousarray(np.broadcast_to(canvas, shape)), view


def _input(request: BenchRequest, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], str]:
    if request.input_array is not None:
        try:
            array = np.load(request.input_array, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputRefused(
                f"the input array cannot be read: {error}", where=str(request.input_array)
            ) from error
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.float32:
            raise InputRefused(
                f"the input array is not float32 of shape {shape}", where=str(request.input_array)
            )
        return np.ascontiguousarray(array), "array"
    if request.image is not None:
        return _image_input(request, shape)[0], "picture"
    noise = np.random.default_rng(request.seed).standard_normal(shape, np.float32)
    return noise, "noise"


def _error(error: EdgemtlError) -> Answer:
    return {"error": as_data(error)}


def serve(commands: IO[str], answers: IO[str]) -> None:
    """Answer commands until ``quit`` or the end of the stream."""
    worker = Worker()
    for line in commands:
        command = json.loads(line)
        if command.get("do") == "quit":
            break
        try:
            answer = worker.answer(command)
        except EdgemtlError as error:
            answer = _error(error)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Entry point of the process."""
    os.environ["EDGEMTL_ISOLATED"] = "1"  # a backend need not start another process to be safe
    private = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with os.fdopen(private, "w", encoding="utf-8") as answers:
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
