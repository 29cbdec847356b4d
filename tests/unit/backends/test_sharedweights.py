"""Weights of prototypes are rows and columns of the full network's, stored once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from support.dense_family import TinyDense
from support.pruning import liven, random_keep

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.base import Backend
from edgemtl.backends.routed import NETWORKS, ROUTING
from edgemtl.backends.session import Session
from edgemtl.backends.sharedweights import PREFIX, inlined, is_shared
from edgemtl.backends.types import Artefact, Availability, Problem, SessionOptions
from edgemtl.backends.weightsfile import WEIGHTS_FILE
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.dynamic.router import Router
from edgemtl.compress.dynamic.subnets import recalibrate
from edgemtl.errors import StageFailed
from edgemtl.exporting.routed import FULL_FILE, SINGLE_FILE, export_routed, single_file
from edgemtl.targets import Target

FULL = TinyDense(48)
liven(FULL)
FULL.eval()
GROUPS = channel_groups(FULL)
COUNT = 2


def router() -> Router:
    """Always prototype 2, and sure of it."""
    made = Router(COUNT, FULL.input_spec.size).eval()
    with torch.no_grad():
        made.answer.weight.zero_()
        made.answer.bias.copy_(torch.tensor([0.0, 9.0]))
    return made


@dataclass(frozen=True)
class Built:
    """A routed set, and the same files before their weights were shared."""

    folder: Path
    apart: int
    shared: int
    cut: int
    own: int


def built(folder: Path, trained: bool) -> Built:
    prototypes = []
    for seed in range(COUNT):
        smaller = cut(FULL, random_keep(GROUPS, seed, 0.6), GROUPS)
        recalibrate(smaller, [FULL.example_input(2, seed=seed)])
        if trained:
            with torch.no_grad():
                for parameter in smaller.parameters():
                    parameter += 1e-3 * parameter.abs().mean() * torch.randn(parameter.shape)
        prototypes.append(smaller)
    sharing = export_routed(router(), FULL, prototypes, 0.5, folder, targets.load("cpu"))
    single_file(folder, folder / SINGLE_FILE)
    return Built(folder, sharing.bytes_apart, sharing.bytes_shared, sharing.cut, sharing.own)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Prototypes with batch statistics of their own: a factor per row of every weight."""
    return built(tmp_path_factory.mktemp("calibrated"), trained=False)


def image() -> NDArray[np.float32]:
    return FULL.example_input(1, seed=5).numpy()


def answers(path: Path) -> dict[str, NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": image()}), strict=True))


def alike(
    found: Mapping[str, NDArray[np.float32]], wanted: Mapping[str, NDArray[np.float32]]
) -> None:
    for name, value in wanted.items():
        span = float(value.max() - value.min())
        np.testing.assert_allclose(found[name], value, atol=2e-5 * span, rtol=0)


def test_one_copy_of_the_weights_serves_all_networks(calibrated: Built) -> None:
    assert calibrated.cut == 14
    assert calibrated.own == 0
    whole = sum(t.ByteSize() for t in onnx.load(calibrated.folder / FULL_FILE).graph.initializer)
    assert calibrated.apart > 1.5 * whole
    assert calibrated.shared < 1.3 * whole, "graphs, indices and norms on top of one copy"
    on_disk = sum(
        (calibrated.folder / name).stat().st_size
        for name in (FULL_FILE, "prototype-1.onnx", "prototype-2.onnx", WEIGHTS_FILE)
    )
    assert on_disk == calibrated.shared


def test_a_shared_graph_answers_as_with_its_weights_put_in_again(
    calibrated: Built, tmp_path: Path
) -> None:
    for name in (FULL_FILE, "prototype-1.onnx", "prototype-2.onnx"):
        path = calibrated.folder / name
        model = inlined(path)
        assert not is_shared(model)
        assert not any(node.name.startswith(PREFIX) for node in model.graph.node)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, tmp_path / name)
        alike(answers(path), answers(tmp_path / name))


def test_a_weight_that_was_trained_on_its_own_is_stored_on_its_own(
    calibrated: Built, tmp_path: Path
) -> None:
    trained = built(tmp_path, trained=True)
    assert trained.own == calibrated.cut
    assert trained.cut == 0
    assert trained.shared > calibrated.shared
    alike(answers(tmp_path / SINGLE_FILE), answers(tmp_path / "prototype-2.onnx"))


@pytest.mark.parametrize("target", ["cpu", "intel-cpu"])
def test_a_compiled_set_holds_one_file_of_weights(
    calibrated: Built, tmp_path: Path, target: str
) -> None:
    from edgemtl.devices.runner import runtimes

    backend = registry.get(targets.load(target).backend)
    if not backend.availability().ok:
        pytest.skip(f"{backend.name}: {backend.availability().reason}")
    artefact = backend.compile(calibrated.folder / ROUTING, targets.load(target), tmp_path)
    assert f"{NETWORKS}/{WEIGHTS_FILE}" in artefact.files
    assert len(set(artefact.files)) == len(artefact.files)
    on_disk = sum((tmp_path / name).stat().st_size for name in artefact.files)
    everything = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    assert on_disk == everything, "nothing lies there that is not listed"
    weights = (tmp_path / NETWORKS / WEIGHTS_FILE).stat().st_size
    assert weights < 0.7 * calibrated.apart
    wanted = answers(calibrated.folder / "prototype-2.onnx")
    session = backend.load(artefact, SessionOptions(threads=1))
    alike(session.run(image()), wanted)
    session.close()
    on_board = runtimes.load(
        backend.name, str(tmp_path / ROUTING), "CPU", 1, "f32", FULL.output_names()
    )
    alike(on_board.run(image()), wanted)


def test_a_graph_whose_weights_lie_beside_it_compiles_alone(
    calibrated: Built, tmp_path: Path
) -> None:
    backend = registry.get("onnxruntime")
    path = calibrated.folder / "prototype-1.onnx"
    artefact = backend.compile(path, targets.load("cpu"), tmp_path)
    session = backend.load(artefact, SessionOptions(threads=1))
    alike(session.run(image()), answers(path))


class Reading(Backend):
    """A backend that cannot share weights and keeps what it was given."""

    name = "reading"

    def __init__(self) -> None:
        self.given: list[onnx.ModelProto] = []

    def availability_impl(self) -> Availability:
        return Availability(True, "1")

    def problems_impl(self, onnx_path: Path, target: Target) -> list[Problem]:
        return []

    def compile_impl(self, onnx_path: Path, target: Target, folder: Path) -> Artefact:
        self.given.append(onnx.load(onnx_path, load_external_data=False))
        shutil.copyfile(onnx_path, folder / "model.onnx")
        return Artefact(self.name, target.name, folder, ("model.onnx",))

    def load_impl(self, artefact: Artefact, options: SessionOptions) -> Session:
        raise NotImplementedError


def test_a_backend_that_does_not_share_gets_graphs_with_their_weights_inside(
    calibrated: Built, tmp_path: Path
) -> None:
    backend = Reading()
    artefact = backend.compile(calibrated.folder / ROUTING, targets.load("cpu"), tmp_path)
    assert len(backend.given) == 2 + COUNT
    for model in backend.given:
        assert not is_shared(model)
        assert not any(node.name.startswith(PREFIX) for node in model.graph.node)
    assert "prototype-1/model.onnx" in artefact.files
    assert all((tmp_path / name).is_file() for name in artefact.files)


def test_missing_weights_are_told(calibrated: Built, tmp_path: Path) -> None:
    for path in calibrated.folder.iterdir():
        if path.name != WEIGHTS_FILE:
            shutil.copyfile(path, tmp_path / path.name)
    (tmp_path / "out").mkdir()
    backend = registry.get("onnxruntime")
    with pytest.raises(StageFailed, match="weights cannot be read"):
        backend.compile(tmp_path / ROUTING, targets.load("cpu"), tmp_path / "out")
