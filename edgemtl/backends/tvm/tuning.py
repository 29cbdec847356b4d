"""The program that measures tiles: ``python -m edgemtl.backends.tvm.tuning REQUEST.json``.

For every operator of a network that has a tile, the likeliest tiles by the cost rule are compiled
and timed in turns, on one thread, with random numbers. It writes a JSON line per measured operator
on its standard output, so that whoever reads may stop it and go on later.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.backends.tvm.build import imported, llvm_target, machine_of
from edgemtl.backends.tvm.schedule.machine import Machine, Tile, candidates, cost
from edgemtl.backends.tvm.schedule.tuned import Tuned, key_of, record
from edgemtl.backends.tvm.settings import TvmOptions


def operators(module: Any, machine: Machine) -> dict[str, Any]:
    """Operators of a module that have a tile: key -> fused function, the largest first."""
    from tvm import tirx

    from edgemtl.backends.tvm.schedule.fused import spec_of
    from edgemtl.backends.tvm.schedule.templates import prepared

    found: dict[str, tuple[int, Any]] = {}
    for function in prepared(module, machine, Tuned()).functions.values():
        spec = spec_of(function) if isinstance(function, tirx.PrimFunc) else None
        if spec is not None and "tile" in spec:
            found.setdefault(key_of(spec["kind"], spec["sizes"]), (spec["macs"], function))
    ordered = sorted(found, key=lambda key: -found[key][0])
    return {key: found[key][1] for key in ordered}


def _likely(spec: Mapping[str, Any], machine: Machine, most: int) -> list[Tile]:
    if spec["kind"] == "conv":
        shape = spec["geometry"]
        rows, depth = shape["out_width"], shape["channels"] * int(np.prod(shape["kernel"]))
    else:
        rows, depth = spec["rows"], spec["depth"]
    columns = spec["columns"]
    offered = candidates(rows, columns, machine)
    return sorted(offered, key=lambda tile: cost(tile, rows, columns, depth, machine))[:most]


def measured(
    function: Any, options: TvmOptions, machine: Machine, most: int, seconds: float
) -> list[dict[str, Any]]:
    """Records of one operator: the shortest time of each tile."""
    import tvm

    from edgemtl.backends.tvm.schedule.fused import take_apart
    from edgemtl.backends.tvm.schedule.templates import TEMPLATES

    fused = take_apart(function)
    spec = fused.spec
    tiles = _likely(spec, machine, most)
    made = {}
    for place, tile in enumerate(tiles):
        changed = dataclasses.replace(fused, spec={**spec, "tile": [tile.rows, tile.columns]})
        loops = TEMPLATES[spec["kind"]](changed, machine)
        made[f"tile{place}"] = loops.with_attr("global_symbol", f"tile{place}")
    library = tvm.compile(tvm.IRModule(made), target=llvm_target(options))
    random = np.random.default_rng(0)
    shapes = [[int(n) for n in parameter.shape] for parameter in function.params]
    values = [tvm.runtime.tensor(random.standard_normal(n).astype(np.float32)) for n in shapes]
    calls = [library[name] for name in made]
    best = [float("inf")] * len(calls)
    ends = time.perf_counter() + seconds
    turn = 0
    while turn < 3 or time.perf_counter() < ends:
        for place, call in enumerate(calls):
            call(*values)
            began = time.perf_counter()
            call(*values)
            best[place] = min(best[place], time.perf_counter() - began)
        turn += 1
    return [
        record(options.mcpu, spec["kind"], spec["sizes"], tile, taken)
        for tile, taken in zip(tiles, best, strict=True)
    ]


def steps(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What is said: first which operators there are, then the records of each.

    Of those that are not ``known`` the ``wanted`` ones are measured, all where it is None.
    """
    options = TvmOptions.model_validate(request["options"])
    machine = machine_of(options)
    assert machine is not None
    machine = dataclasses.replace(machine, cores=1)
    found = operators(imported(Path(request["onnx"])), machine)
    known, wanted = set(request["known"]), request["wanted"]
    yield {"operators": list(found)}
    for key, function in found.items():
        if key not in known and (wanted is None or key in wanted):
            seconds = float(request["seconds"])
            yield {"records": measured(function, options, machine, int(request["tiles"]), seconds)}


def main(arguments: Sequence[str]) -> int:
    """Program of the child process."""
    sys.modules["torch"] = None  # type: ignore[assignment] # TVM would load it for nothing
    request = json.loads(Path(arguments[0]).read_text("utf-8"))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what TVM prints is no answer
    for said in steps(request):
        answers.write(json.dumps(said) + "\n")
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
