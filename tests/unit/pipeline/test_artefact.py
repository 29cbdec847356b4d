"""One way to compile a graph: what the stage keeps is what every verb gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_bundle import write_network

from edgemtl import targets
from edgemtl.backends.onnxruntime import OnnxRuntimeBackend
from edgemtl.backends.types import Problem
from edgemtl.files import sha256_file
from edgemtl.pipeline.artefact import ArtefactRequest, compile_graph


def test_the_document_says_what_was_compiled(tmp_path: Path) -> None:
    graph = write_network(tmp_path / "graph.onnx")
    outcome = compile_graph(ArtefactRequest(graph, targets.load("cpu")), tmp_path / "made")
    (name,) = outcome.artefact.files
    assert sha256_file(tmp_path / "made" / name) == sha256_file(graph)
    document = outcome.documents()["artefact.json"]
    assert document["files"] == [name]
    assert document["size_bytes"] == graph.stat().st_size
    assert (document["backend"], document["target"]) == ("onnxruntime", "cpu")
    assert outcome.summary() == ["1 file(s), 0.00 MB for cpu"]


def test_what_does_not_run_as_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [Problem("head/Conv", "Conv", "runs in float32", "take fp32", fatal=False)]
    monkeypatch.setattr(OnnxRuntimeBackend, "problems_impl", lambda *_: told)
    graph = write_network(tmp_path / "graph.onnx")
    outcome = compile_graph(ArtefactRequest(graph, targets.load("cpu")), tmp_path / "made")
    assert outcome.summary()[0] == "Conv 'head/Conv': runs in float32 (take fp32)"


def test_a_graph_per_task_lies_beside_that_of_all(tmp_path: Path) -> None:
    graph = write_network(tmp_path / "graph.onnx")
    tasks = {"depth": ("depth.depth",)}
    outcome = compile_graph(ArtefactRequest(graph, targets.load("cpu"), tasks), tmp_path / "made")
    assert [one.name for one in outcome.artefact.variants] == ["depth"]
    assert all((tmp_path / "made" / name).is_file() for name in outcome.artefact.files)
