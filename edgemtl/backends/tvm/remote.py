"""The program that measures on a TVM server: ``python -m edgemtl.backends.tvm.remote REQUEST``.

It runs in a process of its own (child.py): a server that is lost leaves TVM's client waiting for
ever. What it reached is written down step by step, so that whoever ends it knows where it waited.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.backends.tvm.child import serve

#: for a server or tracker to accept a connection at all
CONNECT_SECONDS = 5.0
#: timed runs per question to the server
_BATCH = 10


def _session(request: Mapping[str, Any]) -> Any:
    from tvm import rpc

    host, port, key = request["host"], int(request["port"]), request.get("key")
    # TVM tries for half a minute where nobody listens.
    socket.create_connection((host, port), CONNECT_SECONDS).close()
    seconds = int(request["session_seconds"])
    if not key:
        return rpc.connect(host, port, session_timeout=seconds)
    return rpc.connect_tracker(host, port).request(key, session_timeout=seconds, max_retry=1)


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """Upload the library, run every recorded input, time the first."""
    import tvm

    def reached(step: str) -> None:
        Path(request["step"]).write_text(step, "utf-8")

    reached("connecting")
    session = _session(request)
    reached("loading")
    if request["threads"]:
        session.get_function("runtime.config_threadpool")(1, int(request["threads"]))
    began = time.perf_counter()
    session.upload(request["library"])
    library = session.load_module(Path(request["library"]).name)
    device = session.cpu(0)
    machine = tvm.relax.VirtualMachine(library, device)
    load_ms = (time.perf_counter() - began) * 1e3
    reached("running")
    inputs = np.load(request["inputs"])
    outputs: dict[str, list[Any]] = {name: [] for name in request["outputs"]}
    for images in inputs:
        machine.set_input("main", tvm.runtime.tensor(images, device))
        machine.invoke_stateful("main")
        found = machine.get_outputs("main")
        values = [found] if hasattr(found, "numpy") else list(found)
        for name, value in zip(outputs, values, strict=True):
            outputs[name].append(value.numpy())
    for place, values in enumerate(outputs.values()):
        np.save(Path(request["answers"]) / f"{place}.npy", np.stack(values))
    images = tvm.runtime.tensor(inputs[0], device)
    timer = machine.time_evaluator("main", device, number=1, repeat=_BATCH)
    samples: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < float(request["warm_up"]):
        timer(images)
    began = time.perf_counter()
    while len(samples) < int(request["min_runs"]) or time.perf_counter() - began < float(
        request["min_seconds"]
    ):
        samples += [seconds * 1e3 for seconds in timer(images).results]
    return {"samples_ms": samples, "load_ms": load_ms}


if __name__ == "__main__":
    serve(measure, sys.argv[1])
