"""The FPGA backend on a quantised graph: artefact, problems, refusals, what it says of itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.fpga_graphs import convolutional
from support.small_graphs import GraphBuilder

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.base import Backend
from edgemtl.backends.fpga import simulate
from edgemtl.backends.types import Artefact
from edgemtl.errors import ExitCode, StageFailed, UsageError
from edgemtl.targets import Target

SOURCES = {"accelerator.cpp", "program.h", "weights.bin", "parameters.bin"}


def board(name: str = "zcu104", **options: object) -> Target:
    """A board without the processor's program, which test_fpga_processor.py is about."""
    target = targets.load(name)
    return target.model_copy(update={"options": {**target.options, "processor": "", **options}})


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(convolutional()[0], path)
    return path


@pytest.fixture(scope="module")
def backend() -> Backend:
    return registry.get("fpga")


@pytest.fixture(scope="module")
def artefact(backend: Backend, graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return backend.compile(graph, board(rows=16, columns=8), tmp_path_factory.mktemp("artefact"))


def test_the_artefact_is_source_weights_host_graphs_and_plan(artefact: Artefact) -> None:
    assert artefact.files[0] == "model.onnx"
    assert set(artefact.files[1:]) == {*SOURCES, "host_0.onnx", "host_2.onnx", "plan.json"}
    plan = json.loads((artefact.folder / "plan.json").read_text("utf-8"))
    assert plan["kind"] == artefact.facts["kind"] == "modelled"
    assert plan["host"] == {"Sigmoid": 1}
    names = [layer["name"] for layer in plan["layers"]]
    assert "stem/Conv" in names and "skip/Add" in names
    assert plan["design"]["rows"] == 16 and plan["design"]["columns"] == 8
    assert artefact.facts["modelled_latency_ms"] == pytest.approx(plan["latency_ms"], abs=1e-4)


@pytest.mark.skipif(simulate.compiler_version() is None, reason="g++ is not installed")
def test_every_compile_checks_that_the_code_is_exact(artefact: Artefact) -> None:
    assert artefact.facts["bit_exact"] == "equal to the NumPy reference on a random input"


def test_without_a_compiler_the_reference_plays_the_accelerator(
    backend: Backend, graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "compiler_version", lambda: None)
    artefact = backend.compile(graph, board(rows=8, columns=8), tmp_path)
    assert artefact.facts["bit_exact"] == "not checked: g++ is not installed"
    assert "NumPy" in backend.availability().version
    session = backend.load(artefact)
    images = np.random.default_rng(0).normal(0, 1, session.input_shape).astype(np.float32)
    assert set(session.run(images)) == set(session.outputs)


@pytest.mark.skipif(simulate.compiler_version() is None, reason="g++ is not installed")
def test_the_session_and_the_reference_answer_the_same(
    backend: Backend, artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = backend.load(artefact)
    assert session.kind == "proxy"  # right answers, and no latency
    monkeypatch.setattr(simulate, "compiler_version", lambda: None)
    reference = backend.load(artefact)
    rng = np.random.default_rng(1)
    for _ in range(3):
        images = rng.normal(0, 1, session.input_shape).astype(np.float32)
        found, wanted = session.run(images), reference.run(images)
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_what_the_processor_runs_is_told_and_does_not_stop(backend: Backend, graph: Path) -> None:
    (problem,) = backend.problems(graph, board())
    assert not problem.fatal
    assert "1 Sigmoid" in problem.reason and "not modelled" in problem.reason


def test_a_bundle_without_the_processors_program_says_why(backend: Backend, graph: Path) -> None:
    target = board(processor="cortex-a53", compiler="no-such-compiler")
    *_, problem = backend.problems(graph, target)
    assert not problem.fatal and "no program for the board's processor" in problem.reason
    assert "missing" in problem.reason and "apt-get install" in problem.advice


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rows": 64, "columns": 64}, "DSP: an array of 64 x 64 needs 4224, the board has 1728"),
        ({"rows": 8, "columns": 8, "activation_buffer_kib": 1 << 20}, "BRAM and URAM: the act"),
        ({"weight_buffer": "single"}, "a single weight buffer can be modelled"),
    ],
)
def test_a_design_that_does_not_fit_is_refused_with_the_resource(
    backend: Backend, graph: Path, tmp_path: Path, options: dict[str, object], named: str
) -> None:
    with pytest.raises(StageFailed, match=named) as refused:
        backend.compile(graph, board(**options), tmp_path)
    assert refused.value.exit_code == ExitCode.STAGE_FAILED
    assert refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_is_named(backend: Backend, graph: Path) -> None:
    with pytest.raises(UsageError, match=r"options\.lutz"):
        backend.problems(graph, board(lutz=4))


def test_a_float_graph_runs_on_the_processor_and_says_so(backend: Backend, tmp_path: Path) -> None:
    b = GraphBuilder()
    path = tmp_path / "float.onnx"
    onnx.save(b.build(b.node("Relu", [b.conv("images", "c", 4, 3)], "c")), path)
    (problem,) = backend.problems(path, board())
    assert not problem.fatal and "no layer is int8" in problem.reason
    (tmp_path / "out").mkdir()
    artefact = backend.compile(path, board(), tmp_path / "out")
    assert not SOURCES & set(artefact.files)
    assert "no layer is int8" in artefact.facts["note"]


def test_the_model_of_a_float_graph_is_that_of_the_int8_one(
    backend: Backend, graph: Path, artefact: Artefact, tmp_path: Path
) -> None:
    found = backend.modelled(graph, board(rows=16, columns=8))
    assert found is not None and found["kind"] == "modelled"
    assert found["design"]["rows"] == 16
    assert {point["weight_buffer"] for point in found["sweep"]} == {
        "single",
        "ping-pong",
        "resident",
    }
    plan = json.loads((artefact.folder / "plan.json").read_text("utf-8"))
    assert found["macs"] == plan["macs"]
    # Sums, upsampling and padding words are told apart a little differently after the split.
    assert found["latency_ms"] == pytest.approx(plan["latency_ms"], rel=0.1)


def test_a_changed_weight_is_noticed(backend: Backend, artefact: Artefact, tmp_path: Path) -> None:
    for name in artefact.files:
        (tmp_path / name).write_bytes((artefact.folder / name).read_bytes())
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[100] ^= 1
    (tmp_path / "weights.bin").write_bytes(bytes(weights))
    with pytest.raises(StageFailed, match="not what the graph gives") as refused:
        backend.load(dataclasses.replace(artefact, folder=tmp_path))
    assert refused.value.where == "weights.bin"


@pytest.mark.parametrize("name", ["zcu104", "zcu102"])
def test_the_boards_are_int8_and_never_measured_here(name: str) -> None:
    target = targets.load(name)
    assert target.backend == "fpga"
    assert target.precisions == ("int8",)
    assert not target.measured_here
    assert target.options["processor"] == "cortex-a53"
    assert target.defaults["quantize"] == {"enabled": True, "precision": "int8"}
