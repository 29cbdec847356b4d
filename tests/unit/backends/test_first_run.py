"""A stranger's network is tried in a process with limits; stand-ins sleep, allocate and die."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from support import plugins
from support.small_graphs import write_graph

from edgemtl import targets
from edgemtl.backends.first_run import FEWEST_BYTES, Limits, try_artefact, try_graph
from edgemtl.backends.registry import REFERENCE
from edgemtl.backends.types import Artefact
from edgemtl.errors import EdgemtlError, StageFailed, UsageError


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in runtime, known here and in processes that we start."""
    backends = {"fake": "support.fakebackend:FakeBackend"}
    plugins.install(tmp_path, monkeypatch, {"edgemtl.backends": backends})
    return tmp_path


def refused(folder: Path, **facts: Any) -> EdgemtlError:
    with pytest.raises(EdgemtlError) as raised:
        try_artefact(Artefact("fake", "cpu", folder, (), facts=facts), folder / "given.edgemtl")
    return raised.value


def test_one_that_behaves_is_run_once_in_another_process(fake: Path) -> None:
    log = fake / "log"
    try_artefact(Artefact("fake", "cpu", fake, (), facts={"log": str(log)}), fake / "x")
    (line,) = log.read_text("utf-8").splitlines()
    assert f'"pid": {os.getpid()},' not in line and '"threads": 1' in line and '"sum": 0.0' in line


def test_one_that_never_ends_is_ended(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEMTL_FIRST_RUN_SECONDS", "1.5")
    began = time.monotonic()
    error = refused(fake, hang_at=1)
    assert time.monotonic() - began < 60
    assert type(error) is StageFailed and error.where == str(fake / "given.edgemtl")
    assert "not loaded and run once within 1.5 s" in error.message
    assert "EDGEMTL_FIRST_RUN_SECONDS" in str(error.hint)


def test_one_that_wants_too_much_memory_does_not_get_it(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEMTL_FIRST_RUN_MB", "900")
    try_artefact(Artefact("fake", "cpu", fake, (), facts={"megabytes": 64}), fake / "x")
    error = refused(fake, megabytes=900)
    assert type(error) is StageFailed and "more memory than it may take" in error.message
    assert "EDGEMTL_FIRST_RUN_MB" in str(error.hint) and "0.9 GB" in str(error.hint)


def test_one_that_takes_its_process_with_it_does_not_take_ours(fake: Path) -> None:
    error = refused(fake, die_at=1)
    assert type(error) is StageFailed and "died with signal SIGKILL" in error.message


def test_what_it_raises_is_raised_here(fake: Path) -> None:
    error = refused(fake, fail_load=True)
    assert (error.message, error.where, error.hint) == (
        "the artefact is spoilt",
        "here",
        "compile again",
    )


def test_the_limits_grow_with_the_network_and_stay_below_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import psutil

    assert Limits.of(0).memory_bytes <= FEWEST_BYTES
    assert Limits.of(1 << 60).memory_bytes < psutil.virtual_memory().total
    for bad in ("x", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("EDGEMTL_FIRST_RUN_MB", bad)
        with pytest.raises(UsageError, match="EDGEMTL_FIRST_RUN_MB"):
            Limits.of(0)


def bomb(path: Path, shape: list[int]) -> Path:
    """A graph that asks for a tensor of this shape; its file has a few hundred bytes."""
    nodes = [
        helper.make_node("Expand", ["one", "large"], ["b"]),
        helper.make_node("ReduceMax", ["b"], ["m"], keepdims=0),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    made = write_graph(path, nodes, {"one": (1,)}, ([1, 3, 4, 4], [1, 3, 4, 4]))
    import onnx

    model = onnx.load(made)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), "large"))
    onnx.save(model, made)
    return made


def test_a_graph_that_asks_for_gigabytes_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEMTL_FIRST_RUN_MB", "1000")
    graph = bomb(tmp_path / "bomb.onnx", [1 << 28])
    with pytest.raises(StageFailed) as raised:
        try_artefact(Artefact(REFERENCE, "cpu", tmp_path, (graph.name,)), graph)
    assert "EDGEMTL_FIRST_RUN_MB" in str(raised.value.hint)
    with pytest.raises(StageFailed):
        try_graph(graph, targets.load("cpu"))
    try_graph(bomb(tmp_path / "small.onnx", [4]), targets.load("cpu"))
