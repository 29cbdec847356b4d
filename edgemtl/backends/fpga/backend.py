"""FPGA boards: HLS C++ for the int8 part, ONNX graphs for the processor, a model of the device.

Nothing here has been on a board. What is known here, and said to be known that way:

- the emitted C++ computes what the NumPy reference defines, bit by bit (compiled with g++ and
  checked on a random input at every compile; accuracy and parity run on it);
- cycles, multipliers, memory blocks and traffic are *modelled*, latency is never measured here;
- logic, routing and the clock are for a synthesis tool to find, which is not part of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.base import Backend
from edgemtl.backends.fpga import simulate
from edgemtl.backends.fpga.design import Design
from edgemtl.backends.fpga.device import FpgaOptions, options_of
from edgemtl.backends.fpga.emit import Emitted, emit
from edgemtl.backends.fpga.execute import Engine, Execution, reference_engine
from edgemtl.backends.fpga.graph import Graph
from edgemtl.backends.fpga.onnx_work import network_work
from edgemtl.backends.fpga.partition import Partition, partition
from edgemtl.backends.fpga.plan import KIND, Plan
from edgemtl.backends.fpga.sweep import EMITTED, Point, choose
from edgemtl.backends.fpga.work import Array
from edgemtl.backends.onnxruntime import OnnxRuntimeBackend, first_line
from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, Availability, Capabilities, Problem, SessionOptions
from edgemtl.errors import InputRefused, StageFailed, TargetUnavailable
from edgemtl.files import read_json, sha256_file, write_atomically, write_json
from edgemtl.targets import Target

if TYPE_CHECKING:
    from edgemtl.models.base import MultiTaskNetwork

MODEL_FILE, PLAN_FILE = "model.onnx", "plan.json"
#: what plays the accelerator here
SIMULATION = "the emitted C++, compiled with g++"
NUMPY = "the NumPy reference (g++ is not installed)"
NO_INT8 = "no layer is int8, so all of it runs on the board's processor and none on the accelerator"


@dataclass(frozen=True)
class _Prepared:
    """A graph that was split and given a design; ``plan`` is None where nothing is int8."""

    graph: Graph
    found: Partition
    plan: Plan | None
    points: tuple[Point, ...]


class FpgaSession(Session):
    """The split network: ONNX Runtime for the processor, a simulation for the accelerator."""

    kind: ClassVar[str] = "proxy"

    def __init__(self, graph: Graph, execution: Execution) -> None:
        (name,) = graph.inputs
        super().__init__(graph.shapes[name], graph.outputs)
        self._name, self._execution = name, execution

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        try:
            return self._execution.run(self._name, images)
        except StageFailed:
            raise
        except Exception as error:  # the runtime raises many kinds
            raise StageFailed(f"the simulation failed: {first_line(error)}") from error


class FpgaBackend(Backend):
    """See the module."""

    name: ClassVar[str] = "fpga"
    capabilities: ClassVar[Capabilities] = Capabilities(
        unmeasured="no way to measure; what a compile says of its speed is modelled"
    )

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Prepared] = {}

    def availability_impl(self) -> Availability:
        state = OnnxRuntimeBackend().availability()
        if not state.ok:
            return state
        version = simulate.compiler_version()
        player = f"g++ {version}" if version else "NumPy"
        return Availability(True, f"modelled, simulated by {player}")

    def problems_impl(self, onnx_path: Path, target: Target) -> list[Problem]:
        found = [p for p in OnnxRuntimeBackend().problems_impl(onnx_path, target) if p.fatal]
        if found:
            return found
        try:
            ready = self._prepare(onnx_path, target)
        except StageFailed as error:
            return [Problem("", "", error.message, error.hint or "see docs/fpga.md")]
        if ready.plan is None:
            advice = "'edgemtl compile' quantises for this target unless told otherwise"
            return [Problem("", "", NO_INT8, advice, fatal=False)]
        if ready.plan.design.weight_buffer != EMITTED:
            kind = ready.plan.design.weight_buffer
            reason = f"a {kind} weight buffer can be modelled, but code is emitted for {EMITTED}"
            return [Problem("", "", reason, f"weight_buffer = '{EMITTED}'")]
        return [*_left_to_the_processor(ready), *_without_program(options_of(target))]

    def modelled_impl(
        self, onnx_path: Path, target: Target, network: MultiTaskNetwork | None
    ) -> dict[str, Any]:
        """The plan of the graph's convolutions and matrix products, all taken as int8.

        A M3ViT's is that of one task's path through the expert schedules.
        """
        from edgemtl.backends.fpga import m3vit
        from edgemtl.models.m3vit.network import M3ViT

        board = options_of(target)
        if isinstance(network, M3ViT):
            task = network.tasks[0].name
            works = m3vit.task_works(network, task)
            plan, points = choose(works, board)
            told = _told(plan, points, {})
            return {**told, "task": task, "schedules": m3vit.schedules(works, plan, board)}
        work = network_work(_read(onnx_path))
        plan, points = choose(work.works, board)
        return _told(plan, points, dict(work.host))

    def compile_impl(self, onnx_path: Path, target: Target, folder: Path) -> Artefact:
        ready = self._prepare(onnx_path, target)
        _write(folder / MODEL_FILE, onnx_path.read_bytes())
        host = ready.found.nodes["host"]
        if ready.plan is None:
            write_json(folder / PLAN_FILE, {"kind": KIND, "note": NO_INT8})
            facts: dict[str, Any] = {"note": NO_INT8, "host": host}
        else:
            write_json(folder / PLAN_FILE, _told(ready.plan, ready.points, host))
            facts = {**_figures(ready.plan), **ready.found.program.facts(), "host": host}
        for name, content in _files(ready.found, ready.plan).items():
            _write(folder / name, content)
        files = sorted(path.name for path in folder.iterdir())
        files.remove(MODEL_FILE)
        artefact = Artefact(
            self.name, target.name, folder, (MODEL_FILE, *files), facts={"kind": KIND, **facts}
        )
        if ready.plan is None:
            return artefact
        more = {"bit_exact": _check_exact(artefact, ready)}
        more |= _processor_program(folder, ready, options_of(target))
        added = {path.name for path in folder.iterdir()} - set(artefact.files)
        return Artefact(
            artefact.backend,
            artefact.target,
            folder,
            (MODEL_FILE, *sorted({*files, *added})),
            facts={**artefact.facts, **more},
        )

    def load_impl(self, artefact: Artefact, options: SessionOptions) -> Session:
        return _load(artefact, options)

    def _prepare(self, onnx_path: Path, target: Target) -> _Prepared:
        # A compile asks twice, before and while compiling.
        key = (sha256_file(onnx_path), target.model_dump_json())
        if key not in self._known:
            graph, found = _split(onnx_path)
            plan, points = None, list[Point]()
            if found.program.steps:
                plan, points = choose(found.program.works(), options_of(target), _outside(found))
            self._known[key] = _Prepared(graph, found, plan, tuple(points))
        return self._known[key]


def _outside(found: Partition) -> set[str]:
    return {*found.program.inputs, *found.program.outputs}


def _read(path: Path) -> Any:
    import onnx

    try:
        return onnx.load(path)
    except Exception as error:  # protobuf and onnx raise many kinds
        raise StageFailed(f"the ONNX file is not valid: {first_line(error)}") from error


def _split(path: Path) -> tuple[Graph, Partition]:
    """A graph and its split.

    Raises:
        StageFailed: the file cannot be read, or is no network with one static input.
    """
    model = _read(path)
    graph = Graph(model)
    if len(graph.inputs) != 1 or graph.inputs[0] not in graph.shapes:
        raise StageFailed(
            f"the graph must have one input of static shape, it has {list(graph.inputs)}"
        )
    return graph, partition(model)


def _files(found: Partition, plan: Plan | None) -> dict[str, bytes]:
    """What is derived from the graph and the design: name -> contents."""
    files = {
        f"host_{host.stage}.onnx": host.model.SerializeToString(deterministic=True)
        for host in found.hosts
        if host.model is not None
    }
    if plan is not None:
        files |= emit(found.program, plan.design).files
    return files


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda stream: stream.write(content))


def _left_to_the_processor(ready: _Prepared) -> list[Problem]:
    """Which operators the processor runs; one note, they do run."""
    host = ready.found.nodes["host"]
    if not host:
        return []
    named = ", ".join(f"{count} {op}" for op, count in sorted(host.items()))
    return [
        Problem(
            "",
            ", ".join(sorted(host)),
            f"left to the board's processor, whose time is not modelled: {named}",
            "fine for reshapes at the ends; docs/fpga.md lists what the accelerator takes",
            fatal=False,
        )
    ]


def _without_program(options: FpgaOptions) -> list[Problem]:
    """A note where the processor's program cannot be made here; the accelerator's part can."""
    from edgemtl.backends.fpga import board

    reason = board.lacking(options) if options.processor else None
    if reason is None:
        return []
    return [
        Problem(
            "",
            "",
            f"the bundle has no program for the board's processor: {reason}",
            "pip install 'edgemtl[tvm]'; Debian and Ubuntu: apt-get install g++-aarch64-linux-gnu",
            fatal=False,
        )
    ]


def _figures(plan: Plan) -> dict[str, Any]:
    """What people look at first."""
    taken = plan.resources
    return {
        "modelled_latency_ms": round(plan.latency_ms, 4),
        "modelled_energy_j": round(plan.energy_j, 6),
        "modelled_ddr_bytes": round(plan.ddr_bytes),
        "clock_mhz": plan.board.clock_mhz,
        "rows": plan.design.array.rows,
        "columns": plan.design.array.columns,
        "dsp": taken.dsp,
        "bram36": taken.bram36,
        "uram": taken.uram,
        "memory_bytes": taken.memory_bytes,
    }


def _told(plan: Plan, points: Sequence[Point], host: Mapping[str, int]) -> dict[str, Any]:
    return {**plan.to_dict(), "host": dict(host), "sweep": [point.to_dict() for point in points]}


def _check_exact(artefact: Artefact, ready: _Prepared) -> str:
    """Hold the emitted code against the NumPy reference.

    Raises:
        StageFailed: they differ.
    """
    if simulate.compiler_version() is None:
        return "not checked: g++ is not installed"
    assert ready.plan is not None
    images = np.random.default_rng(0).normal(0, 60, ready.graph.shapes[ready.graph.inputs[0]])
    emitted = emit(ready.found.program, ready.plan.design)
    simulated = _simulation(artefact.folder, ready.found, emitted)
    runs = [
        Execution(ready.found, ready.graph.shapes, engine).trace(
            ready.graph.inputs[0], images.astype(np.float32)
        )
        for engine in (reference_engine(ready.found), simulated)
    ]
    for name in ready.found.program.outputs:
        wanted, found = (memory[name] for _, memory in runs)
        if not np.array_equal(wanted, found):
            raise StageFailed(
                f"the emitted C++ differs from the NumPy reference in {(wanted != found).sum()} "
                f"of {wanted.size} numbers of '{name}'",
                hint="this is a defect in EdgeMTL or in the compiler; please report it",
            )
    return "equal to the NumPy reference on a random input"


def _processor_program(folder: Path, ready: _Prepared, options: FpgaOptions) -> dict[str, Any]:
    """What the board's processor runs, put beside the rest where it can be made here.

    Raises:
        StageFailed: it was made and does not compute what it should.
    """
    from edgemtl.backends.fpga import board
    from edgemtl.backends.tvm.graphs import graph_problems

    if not options.processor:
        return {}
    lacking = board.lacking(options)
    if lacking is None and simulate.compiler_version() is None:
        lacking = "g++ is not installed"
    if lacking is None and (unknown := graph_problems(folder / MODEL_FILE)):
        lacking = unknown[0].reason
    if lacking is None:
        assert ready.plan is not None
        emitted = emit(ready.found.program, ready.plan.design)
        parts = board.Parts(ready.graph, ready.found, emitted)
        try:
            return {"processor": options.processor, **board.add_program(folder, parts, options)}
        except TargetUnavailable as error:
            lacking = error.message
    return {"processor": f"no program for it: {lacking}"}


def _simulation(folder: Path, found: Partition, emitted: Emitted) -> Engine:
    return simulate.Simulation(folder, found.program, emitted.external, emitted.external_bytes)


def _load(artefact: Artefact, options: SessionOptions) -> Session:
    """Derive everything from the graph again; what lies in the folder must be equal to it.

    Raises:
        StageFailed: a file is missing or not what the graph and the design give.
    """
    for name in artefact.files:
        path = artefact.folder / name
        if not path.is_file() or not path.stat().st_size:
            raise StageFailed("the simulation cannot load the model: missing or empty", where=name)
    try:
        graph, found = _split(artefact.folder / artefact.files[0])
        design = _design(read_json(artefact.folder / PLAN_FILE))
        emitted = None if design is None else emit(found.program, design)
    except (StageFailed, InputRefused, KeyError, TypeError, ValueError) as error:
        raise StageFailed(f"the simulation cannot load the model: {first_line(error)}") from error
    hosts = {
        f"host_{h.stage}.onnx": h.model.SerializeToString(deterministic=True)
        for h in found.hosts
        if h.model is not None
    }
    for name, content in {**hosts, **(emitted.files if emitted else {})}.items():
        path = artefact.folder / name
        if not path.is_file() or path.read_bytes() != content:
            raise StageFailed(
                "the simulation cannot load the model: not what the graph gives", where=name
            )
    engine: Engine = reference_engine(found)
    if emitted is not None and simulate.compiler_version() is not None:
        engine = _simulation(artefact.folder, found, emitted)
    return FpgaSession(graph, Execution(found, graph.shapes, engine, options.threads))


def _design(told: Mapping[str, Any]) -> Design | None:
    """The design of a stored plan; None where nothing runs on the accelerator."""
    if "design" not in told:
        return None
    data = told["design"]
    return Design(
        Array(int(data["rows"]), int(data["columns"])),
        data["weight_buffer"],
        int(data["weight_buffer_bytes"]),
        int(data["activation_buffer_bytes"]),
    )
