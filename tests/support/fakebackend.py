"""A backend whose behaviour the artefact's facts dictate; it joins by entry point, as others do.

Facts: ``sleep_ms`` per run, ``grow_ms`` added after every run, ``megabytes`` held by the session,
``outputs`` name -> shape, ``die_at`` run number, ``hang_at`` run number, ``fail_load``,
``shape`` of the input, ``log`` file that gets a JSON line per run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.base import Backend
from edgemtl.backends.onnxruntime import OnnxRuntimeBackend
from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, Availability, Capabilities, Problem, SessionOptions
from edgemtl.errors import StageFailed
from edgemtl.targets import Target


class FakeSession(Session):
    """Sleeps, grows, prints, dies or hangs as told."""

    def __init__(self, artefact: Artefact, options: SessionOptions) -> None:
        facts = artefact.facts
        outputs = facts.get("outputs", {"y": [1, 2]})
        super().__init__(tuple(facts.get("shape", (1, 3, 32, 32))), tuple(outputs))
        self._facts = facts
        self._threads = options.threads
        self._ballast = np.ones(int(facts.get("megabytes", 0)) << 20, np.uint8)
        self._runs = 0
        self._values = {
            name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            for name, shape in outputs.items()
        }

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        facts, began = self._facts, time.monotonic_ns()
        self._runs += 1
        if self._runs == facts.get("die_at"):
            print("the driver is on fire", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if self._runs == facts.get("hang_at"):
            time.sleep(600)
        print("chatter of a runtime")
        time.sleep((facts.get("sleep_ms", 0) + facts.get("grow_ms", 0) * self._runs) / 1e3)
        if "log" in facts:
            line = {
                "began_ns": began,
                "ended_ns": time.monotonic_ns(),
                "pid": os.getpid(),
                "torch": "torch" in sys.modules,
                "threads": self._threads,
                "sum": float(images.sum()),
            }
            with Path(facts["log"]).open("a") as stream:
                stream.write(json.dumps(line) + "\n")
        return dict(self._values)


class FakeBackend(Backend):
    """Loads anything, compiles nothing."""

    name = "fake"
    capabilities = Capabilities(runner="fakerunner")

    def availability_impl(self) -> Availability:
        return Availability(True, "1")

    def problems_impl(self, onnx_path: Path, target: Target) -> list[Problem]:
        return []

    def compile_impl(self, onnx_path: Path, target: Target, folder: Path) -> Artefact:
        return Artefact(self.name, target.name, folder, ())

    def load_impl(self, artefact: Artefact, options: SessionOptions) -> Session:
        if artefact.facts.get("fail_load"):
            raise StageFailed("the artefact is spoilt", where="here", hint="compile again")
        return FakeSession(artefact, options)


class MuteBackend(OnnxRuntimeBackend):
    """ONNX Runtime under another name, whose author wrote no module for the device."""

    name = "mute"
    capabilities = Capabilities()
