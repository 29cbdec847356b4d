"""What is particular to ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import TensorProto

from edgemtl import targets
from edgemtl.backends.onnxruntime import OnnxRuntimeBackend
from edgemtl.backends.types import SessionOptions
from edgemtl.errors import StageFailed, TargetUnavailable

ReluGraph = Callable[..., Path]


def test_the_artefact_is_the_graph_itself(relu_graph: ReluGraph, tmp_path: Path) -> None:
    graph = relu_graph()
    artefact = OnnxRuntimeBackend().compile(graph, targets.load("cpu"), tmp_path / "out")
    assert (artefact.folder / artefact.files[0]).read_bytes() == graph.read_bytes()


def test_a_dynamic_input_is_refused(relu_graph: ReluGraph, tmp_path: Path) -> None:
    backend = OnnxRuntimeBackend()
    graph = relu_graph(["batch", 3, 4, 4])
    artefact = backend.compile(graph, targets.load("cpu"), tmp_path / "out")
    with pytest.raises(StageFailed, match="is not static"):
        backend.load(artefact)


def test_a_device_it_does_not_have_is_named(relu_graph: ReluGraph, tmp_path: Path) -> None:
    target = targets.load("cpu").model_copy(update={"device": "CUDA"})
    with pytest.raises(TargetUnavailable, match="no device 'CUDA'"):
        OnnxRuntimeBackend().compile(relu_graph(), target, tmp_path / "out")


def test_a_node_without_implementation_is_named(relu_graph: ReluGraph) -> None:
    # A valid graph that the checker passes; the CPU provider has no kernel for it.
    graph = relu_graph(kind=TensorProto.BFLOAT16)
    problems = OnnxRuntimeBackend().problems(graph, targets.load("cpu"))
    assert [(p.op, p.node, p.fatal) for p in problems] == [("Relu", "layer.act/Relu", True)]


def test_threads_are_passed_on(
    relu_graph: ReluGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    seen: list[onnxruntime.SessionOptions] = []
    original = onnxruntime.InferenceSession

    def spying(path: str, settings: onnxruntime.SessionOptions, **named: object) -> object:
        seen.append(settings)
        return original(path, settings, **named)

    backend = OnnxRuntimeBackend()
    artefact = backend.compile(relu_graph(), targets.load("cpu"), tmp_path / "out")
    monkeypatch.setattr(onnxruntime, "InferenceSession", spying)
    backend.load(artefact, SessionOptions(threads=3))
    assert seen[0].intra_op_num_threads == 3
    assert seen[0].execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
