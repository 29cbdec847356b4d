"""A graph per task with one copy of the weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.m3vit import tiny

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.taskfiles import (
    WEIGHTS_FILE,
    TaskSessions,
    for_task,
    with_task_files,
)
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.errors import StageFailed, UsageError
from edgemtl.exporting.onnx_export import export_onnx
from edgemtl.exporting.simplify import simplify
from edgemtl.models.m3vit.network import M3ViT


@pytest.fixture(scope="module")
def network() -> M3ViT:
    return tiny(depth=4, lowering="sorted")


@pytest.fixture(scope="module")
def compiled(network: M3ViT, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    folder = tmp_path_factory.mktemp("compiled")
    raw = export_onnx(network, folder / "raw.onnx", opset=17).path
    simplify(raw, folder / "net.onnx")
    place = folder / "artefact"
    place.mkdir()
    cpu = targets.load("cpu")
    return registry.get(cpu.backend).compile(folder / "net.onnx", cpu, place)


@pytest.fixture
def artefact(compiled: Artefact, tmp_path: Path) -> Artefact:
    """A copy, to be changed."""
    place = shutil.copytree(compiled.folder, tmp_path / "artefact")
    return replace(compiled, folder=place)


def outputs_of(network: M3ViT) -> dict[str, tuple[str, ...]]:
    return {task.name: task.outputs for task in network.tasks}


def test_every_task_alone_answers_as_before(network: M3ViT, artefact: Artefact) -> None:
    before = sum((artefact.folder / name).stat().st_size for name in artefact.files)
    split = with_task_files(artefact, outputs_of(network))
    assert set(split.files) == {
        "model.onnx",
        "task-rooms.onnx",
        "task-facing.onnx",
        "task-distance.onnx",
        WEIGHTS_FILE,
    }
    assert split.files[0] == "model.onnx", "what opens an artefact opens all of its tasks"
    weights = (split.folder / WEIGHTS_FILE).stat().st_size
    assert weights < 1.05 * before, "one copy of the weights"
    images = network.example_input(seed=2)
    with torch.no_grad():
        wanted = network(images)
    sessions = TaskSessions(split, options=SessionOptions(threads=1))
    for task in ("distance", "rooms", "facing", "distance"):
        found = sessions.run(task, images.numpy())
        assert tuple(found) == network.task(task).outputs
        for name, value in found.items():
            np.testing.assert_allclose(value, wanted[name].numpy(), rtol=1e-5, atol=1e-5)
    sessions.close()
    whole = registry.get("onnxruntime").load(split, SessionOptions(threads=1))
    assert set(whole.run(images.numpy())) == set(wanted)


def test_a_task_without_a_graph_is_asked_for_in_vain(network: M3ViT, artefact: Artefact) -> None:
    with pytest.raises(UsageError, match="no graph of task 'rooms'"):
        for_task(artefact, "rooms")
    split = with_task_files(artefact, outputs_of(network))
    with pytest.raises(UsageError, match="no graph of task 'nobody'"):
        TaskSessions(split, ["nobody"])
    assert for_task(split, "facing").files[0] == "task-facing.onnx"


def test_odd_names_become_files_of_their_own(network: M3ViT, artefact: Artefact) -> None:
    names = {"a/b": ["rooms.logits"], "a b": ["distance.depth"]}
    split = with_task_files(artefact, names)
    opened = {one.name: one.files[0] for one in split.variants}
    assert opened == {"a/b": "task-a_b.onnx", "a b": "task-a_b-1.onnx"}


def test_other_runtimes_refuse(artefact: Artefact) -> None:
    with pytest.raises(StageFailed, match="ONNX Runtime only"):
        with_task_files(replace(artefact, backend="openvino"), {})
