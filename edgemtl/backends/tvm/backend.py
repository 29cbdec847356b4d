"""CPUs by Apache TVM. Compiled in a process of its own, and run in one (child.py, session.py)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from edgemtl.backends.base import Backend
from edgemtl.backends.processor import host_flags, processor_name
from edgemtl.backends.session import Session
from edgemtl.backends.tuner import Tuner
from edgemtl.backends.tvm import board, child
from edgemtl.backends.tvm.graphs import graph_problems, read_graph
from edgemtl.backends.tvm.library import runtime_folder
from edgemtl.backends.tvm.session import DirectSession, PipeSession
from edgemtl.backends.tvm.settings import options_of, resolved, wanted_flags
from edgemtl.backends.types import (
    Artefact,
    Availability,
    Capabilities,
    Problem,
    RpcServer,
    SessionOptions,
)
from edgemtl.errors import InputRefused, StageFailed, TargetUnavailable
from edgemtl.files import read_json, sha256_file, write_json
from edgemtl.processes import python_module
from edgemtl.targets import Target

LIBRARY_FILE, DESCRIPTION_FILE = "model.so", "model.json"
#: what became of every function: its template, sizes and tile
RECORD_FILE = "schedule.json"
#: set in processes that may die without harm (the bench worker): no second process is needed there
ISOLATED = "EDGEMTL_ISOLATED"


class TvmBackend(Backend):
    """See the module."""

    name: ClassVar[str] = "tvm"
    capabilities: ClassVar[Capabilities] = Capabilities(
        int8_as_float="TVM keeps quantise and dequantise steps around convolutions in float32",
        rpc=RpcServer("tvm-rpc", "TVM", "python -m tvm.exec.rpc_server", ".so"),
        tunes=True,
        runner="tvm_board",
    )
    extra: ClassVar[str] = "tvm"

    def availability_impl(self) -> Availability:
        try:
            folder = runtime_folder()
        except (ImportError, ValueError):  # ValueError: the module is barred from import
            return Availability(False, reason="the package 'tvm' (apache-tvm) is missing")
        if not (folder / "libtvm_runtime.so").is_file():
            return Availability(False, reason="the package 'tvm' holds no libtvm_runtime.so")
        return Availability(True, metadata.version("apache-tvm"))

    def devices_impl(self) -> dict[str, str]:
        return {"CPU": processor_name()}

    def problems_impl(self, onnx_path: Path, target: Target) -> list[Problem]:
        return graph_problems(onnx_path)

    def compile_impl(self, onnx_path: Path, target: Target, folder: Path) -> Artefact:
        options = resolved(options_of(target))
        if shutil.which(options.compiler) is None:
            raise TargetUnavailable(
                f"the linker '{options.compiler}' is missing", hint=_install_hint(options.compiler)
            )
        read_graph(onnx_path)
        shapes = _shapes(onnx_path)
        told = child.ask(
            "edgemtl.backends.tvm.build",
            {
                "onnx": str(onnx_path.absolute()),
                "library": str((folder / LIBRARY_FILE).absolute()),
                "options": options.model_dump(),
            },
        )
        record = {"schema_version": 1, "options": options.model_dump(), **told}
        write_json(folder / RECORD_FILE, record)
        files = [LIBRARY_FILE, DESCRIPTION_FILE, RECORD_FILE]
        if options.emulator:
            board.add_files(folder, options.compiler)
            files += board.FILES
        facts = {
            "mcpu": options.mcpu,
            "tvm": self.availability().version,
            "templates": _counted(told),
        }
        write_json(
            folder / DESCRIPTION_FILE,
            {
                "schema_version": 1,
                **shapes,
                "library_sha256": sha256_file(folder / LIBRARY_FILE),
                "emulator": options.emulator,
                "cpu_flags": wanted_flags(options.mcpu),
                **facts,
            },
        )
        return Artefact(self.name, target.name, folder, tuple(files), facts=facts)

    def ask_server_impl(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        return child.ask("edgemtl.backends.tvm.remote", request, seconds, doing="run there")

    def tuner_impl(self) -> Tuner:
        from edgemtl.backends.tvm.tuner import TvmTuner

        return TvmTuner()

    def load_impl(self, artefact: Artefact, options: SessionOptions) -> Session:
        described = _description(artefact)
        path = artefact.folder / LIBRARY_FILE
        if not path.is_file() or sha256_file(path) != described["library_sha256"]:
            raise StageFailed("TVM cannot load the model: missing or damaged", where=path.name)
        shape = tuple(described["input_shape"])
        shapes = {output["name"]: tuple(output["shape"]) for output in described["outputs"]}
        needed = [*artefact.files, *(board.FILES if described.get("emulator") else ())]
        absent = [name for name in needed if not (artefact.folder / name).is_file()]
        if absent:
            raise StageFailed("TVM cannot load the model: missing", where=absent[0])
        surroundings = child.environment(options.threads)
        if emulator := described.get("emulator"):
            command = board.emulated(str(emulator), described["mcpu"], artefact.folder, shape)
            return PipeSession(command, surroundings, shape, shapes, "proxy")
        missing = set(described["cpu_flags"]) - host_flags()
        if missing:
            raise TargetUnavailable(
                f"this machine's processor has no {', '.join(sorted(missing))}, which code for "
                f"{described['mcpu']} needs"
            )
        if os.environ.get(ISOLATED):
            return DirectSession(path, options.threads, shape, shapes)
        module = "edgemtl.backends.tvm.library"
        command = python_module(module, str(artefact.folder / DESCRIPTION_FILE))
        return PipeSession(command, surroundings, shape, shapes, "measured")


def _install_hint(compiler: str) -> str:
    machine = compiler.removesuffix("g++").rstrip("-")
    package = f"g++-{machine}" if machine else compiler
    return f"Debian and Ubuntu: apt-get install {package}"


def _counted(told: Mapping[str, Any]) -> dict[str, int]:
    """How many functions each template took."""
    names = [str(one["template"]) for one in told["functions"].values()]
    return {name: names.count(name) for name in sorted(set(names))}


def _shapes(onnx_path: Path) -> dict[str, Any]:
    """Shape of the input, names and shapes of the outputs.

    Raises:
        StageFailed: an output's shape is not known.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(onnx_path)).graph

    def shape(value: Any) -> list[int]:
        return [int(dim.dim_value) for dim in value.type.tensor_type.shape.dim]

    outputs = [{"name": value.name, "shape": shape(value)} for value in graph.output]
    for output in outputs:
        if not all(output["shape"]):
            raise StageFailed(f"the shape of output '{output['name']}' is not static")
    return {"input_shape": shape(graph.input[0]), "outputs": outputs}


def _description(artefact: Artefact) -> dict[str, Any]:
    try:
        data = read_json(artefact.folder / DESCRIPTION_FILE)
        wanted = ("input_shape", "outputs", "library_sha256", "cpu_flags", "mcpu")
        if not isinstance(data, dict) or any(key not in data for key in wanted):
            raise InputRefused("keys are missing")
    except InputRefused as error:
        raise StageFailed(
            f"TVM cannot load the model: {error.message}", where=DESCRIPTION_FILE
        ) from error
    return data
