"""What every backend must do. A new backend joins by adding itself to ``CASES``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from support.dense_family import TinyDense, build

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.base import Backend
from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.errors import StageFailed, TargetUnavailable
from edgemtl.exporting.onnx_export import export_onnx
from edgemtl.exporting.parity import TOLERANCES, compare_outputs
from edgemtl.exporting.simplify import simplify
from edgemtl.measure.accuracy import network_runner


@dataclass(frozen=True)
class Case:
    """A backend under test.

    Attributes:
        backend: its name.
        target: a target that it compiles for and that can run here.
        package: the package it cannot do without.
    """

    backend: str
    target: str
    package: str


CASES = [
    Case("onnxruntime", "cpu", "onnxruntime"),
    Case("openvino", "intel-cpu", "openvino"),
    Case("fpga", "zcu104", "onnxruntime"),
    Case("tvm", "tvm-x86", "tvm"),
    Case("tensorrt", "jetson", "onnxruntime"),
    Case("tensorrt-rtx", "rtx", "tensorrt_rtx"),
]


@pytest.fixture(scope="module")
def network() -> TinyDense:
    return build()


@pytest.fixture(scope="module")
def graph(network: TinyDense, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    exported = export_onnx(network, folder / "exported.onnx", opset=17)
    return simplify(exported.path, folder / "model.onnx").path


@pytest.fixture(scope="module")
def images(network: TinyDense) -> NDArray[np.float32]:
    return np.asarray(network.example_input(seed=7).numpy())


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.backend)
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    state = registry.get(chosen.backend).availability()
    if not state.ok:
        pytest.skip(f"backend '{chosen.backend}' is not available here: {state.reason}")
    return chosen


@pytest.fixture(scope="module")
def backend(case: Case) -> Backend:
    return registry.get(case.backend)


@pytest.fixture(scope="module")
def artefact(
    case: Case, backend: Backend, graph: Path, tmp_path_factory: pytest.TempPathFactory
) -> Artefact:
    folder = tmp_path_factory.mktemp(case.backend)
    return backend.compile(graph, targets.load(case.target), folder)


@pytest.fixture
def session(backend: Backend, artefact: Artefact) -> Iterator[Session]:
    opened = backend.load(artefact, SessionOptions(threads=1))
    yield opened
    opened.close()


def copied(artefact: Artefact, folder: Path) -> Artefact:
    """The same artefact in another folder, to be damaged."""
    for name in artefact.files:
        (folder / name).write_bytes((artefact.folder / name).read_bytes())
    return dataclasses.replace(artefact, folder=folder)


def test_runs_like_torch(session: Session, network: TinyDense, images: NDArray[np.float32]) -> None:
    reference = network_runner(network)(images)
    report = compare_outputs(reference, session.run(images), network.tasks, TOLERANCES["fp32"])
    assert report.passed, report.to_dict()


def test_outputs_come_in_the_order_of_the_graph(
    session: Session, network: TinyDense, images: NDArray[np.float32]
) -> None:
    assert session.outputs == network.output_names()
    assert tuple(session.run(images)) == network.output_names()
    assert session.input_shape == images.shape


def test_a_result_is_not_overwritten_by_the_next_run(
    session: Session, network: TinyDense, images: NDArray[np.float32]
) -> None:
    first = session.run(images)
    kept = {name: value.copy() for name, value in first.items()}
    second = session.run(np.ascontiguousarray(images[..., ::-1]))
    for name, value in first.items():
        assert np.array_equal(value, kept[name])
        assert not np.array_equal(value, second[name])


def test_a_run_is_repeatable(session: Session, images: NDArray[np.float32]) -> None:
    first, second = session.run(images), session.run(images)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_wrong_shape_is_refused(session: Session, images: NDArray[np.float32]) -> None:
    with pytest.raises(StageFailed, match="the artefact wants float32"):
        session.run(images[:, :, :-1])


def test_a_wrong_type_is_refused(session: Session, images: NDArray[np.float32]) -> None:
    with pytest.raises(StageFailed, match="input is float64"):
        session.run(images.astype(np.float64))  # type: ignore[arg-type]


def test_the_written_graph_has_no_fatal_problem(backend: Backend, case: Case, graph: Path) -> None:
    assert [p for p in backend.problems(graph, targets.load(case.target)) if p.fatal] == []


def test_the_same_graph_gives_the_same_bytes(
    backend: Backend, case: Case, artefact: Artefact, graph: Path, tmp_path: Path
) -> None:
    again = backend.compile(graph, targets.load(case.target), tmp_path)
    assert again.files == artefact.files
    assert again.facts == artefact.facts
    if not artefact.reproducible:
        pytest.skip("this backend says that its bytes are not reproducible")
    for name in artefact.files:
        assert (again.folder / name).read_bytes() == (artefact.folder / name).read_bytes()


def test_an_artefact_tells_no_path(artefact: Artefact) -> None:
    for name in artefact.files:
        content = (artefact.folder / name).read_bytes()
        assert str(artefact.folder).encode() not in content
        assert str(Path.home()).encode() + b"/" not in content


def test_an_unknown_operator_is_told_before_compiling(
    backend: Backend, case: Case, tmp_path: Path
) -> None:
    shape = [1, 3, 8, 8]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Frobnicate", ["images"], ["out"], "layer/Frobnicate", domain="x")],
            "g",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("x", 1)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "unknown.onnx")
    target = targets.load(case.target)
    problems = backend.problems(tmp_path / "unknown.onnx", target)
    assert [problem.fatal for problem in problems] == [True]
    assert "Frobnicate" in problems[0].op
    (tmp_path / "out").mkdir()
    with pytest.raises(StageFailed, match="cannot run on"):
        backend.compile(tmp_path / "unknown.onnx", target, tmp_path / "out")


def test_a_broken_graph_is_refused(
    backend: Backend, case: Case, graph: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
    (tmp_path / "out").mkdir()
    with pytest.raises(StageFailed):
        backend.compile(broken, targets.load(case.target), tmp_path / "out")


def test_an_artefact_of_another_backend_is_refused(backend: Backend, artefact: Artefact) -> None:
    with pytest.raises(StageFailed, match="this artefact is for backend 'other'"):
        backend.load(dataclasses.replace(artefact, backend="other"))


@pytest.mark.parametrize("damage", ["empty", "half", "gone"])
def test_a_damaged_artefact_is_refused(
    backend: Backend, artefact: Artefact, tmp_path: Path, damage: str
) -> None:
    damaged = copied(artefact, tmp_path)
    for name in damaged.files:
        path = tmp_path / name
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(
                b"" if damage == "empty" else path.read_bytes()[: -path.stat().st_size // 2]
            )
    with pytest.raises(StageFailed, match="cannot load the model"):
        backend.load(damaged)


def test_each_file_of_an_artefact_is_needed(
    backend: Backend, artefact: Artefact, tmp_path: Path
) -> None:
    for name in artefact.files:
        damaged = copied(artefact, tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(StageFailed):
            backend.load(damaged)


def test_a_missing_package_is_an_answer_not_a_crash(
    case: Case,
    backend: Backend,
    artefact: Artefact,
    graph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, case.package, None)
    state = backend.availability()
    assert not state.ok and case.package in state.reason
    wanted = f"edgemtl[{backend.extra}]" if backend.extra else case.package
    with pytest.raises(TargetUnavailable) as load_error:
        backend.load(artefact)
    with pytest.raises(TargetUnavailable) as compile_error:
        backend.compile(graph, targets.load(case.target), tmp_path)
    assert wanted in str(load_error.value) and wanted in str(compile_error.value)
