"""A bundle is packed in one place: what goes in, what goes along, what its user is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.dense_family import build
from support.tiny_bundle import SIZE, write_network

from edgemtl import targets
from edgemtl.backends.artefacts import compile_for
from edgemtl.backends.onnxruntime import OnnxRuntimeBackend
from edgemtl.bundle import open_bundle
from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import StageFailed
from edgemtl.models.checkpoint import from_network, save, weights_hash
from edgemtl.pipeline.bundle import BundleRequest, Findings, make_bundle
from edgemtl.recipes import Recipe
from edgemtl.tasks import Depth


@pytest.fixture
def request_of(tmp_path: Path) -> BundleRequest:
    """A bundle of a tiny graph, from a checkpoint with a licence."""
    network = build()
    network.input_spec = InputSpec(SIZE)
    save(from_network(network, {"licence": "Ours to give."}), tmp_path / "street.pt")
    graph, cpu = write_network(tmp_path / "graph.onnx"), targets.load("cpu")
    return BundleRequest(
        model=tmp_path / "street.pt",
        factory=None,
        network=network,
        tasks=(Depth("depth"),),
        graph=graph,
        artefact=compile_for(cpu, graph, tmp_path / "made"),
        target=cpu,
        recipe=Recipe(),
        inputs=np.random.default_rng(0).normal(size=(1, 3, *SIZE)).astype(np.float32),
    )


def test_it_says_where_it_comes_from_and_what_was_found(
    request_of: BundleRequest, tmp_path: Path
) -> None:
    found = Findings(parity={"passed": True}, gates={"cost": {"macs_ratio": 1.0}})
    make_bundle(replace(request_of, found=found), tmp_path / "a.edgemtl")
    bundle = open_bundle(tmp_path / "a.edgemtl")
    assert bundle.manifest.name == "street"
    assert bundle.manifest.source_sha256 == weights_hash(request_of.network)
    assert bundle.manifest.parity == {"passed": True}
    assert bundle.manifest.gates == {"cost": {"macs_ratio": 1.0}}
    assert bundle.read("LICENSES/model.txt") == b"Ours to give.\n"
    assert bundle.session_options().threads == 1
    assert np.array_equal(bundle.selftest().inputs[0], request_of.inputs[0][None])


def test_a_state_dict_has_no_licence(request_of: BundleRequest, tmp_path: Path) -> None:
    torch.save(request_of.network.state_dict(), request_of.model)
    make_bundle(replace(request_of, factory="package:build"), tmp_path / "a.edgemtl")
    assert "LICENSES/model.txt" not in open_bundle(tmp_path / "a.edgemtl").manifest.files


def test_equal_requests_give_equal_bytes(request_of: BundleRequest, tmp_path: Path) -> None:
    paths = [tmp_path / "a.edgemtl", tmp_path / "b.edgemtl"]
    for path in paths:
        outcome = make_bundle(request_of, path)
        assert outcome.summary() == [f"{path.stat().st_size / 1e6:.2f} MB"]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_uncompressed_network_goes_along_where_only_the_device_can_time_it(
    request_of: BundleRequest, tmp_path: Path
) -> None:
    there = request_of.target.model_copy(update={"measured_here": False})
    dense = compile_for(request_of.target, write_network(tmp_path / "d.onnx", 1), tmp_path / "d")

    def packed(request: BundleRequest) -> bool:
        make_bundle(request, tmp_path / "a.edgemtl")
        return open_bundle(tmp_path / "a.edgemtl").manifest.reference is not None

    assert packed(replace(request_of, target=there, dense=dense))
    assert not packed(replace(request_of, dense=dense))
    assert not packed(replace(request_of, target=there, dense=request_of.artefact))
    assert not packed(replace(request_of, target=there))


def test_a_bundle_that_cannot_run_itself_says_so(
    request_of: BundleRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    able = OnnxRuntimeBackend.capabilities
    monkeypatch.setattr(OnnxRuntimeBackend, "capabilities", replace(able, runner=""))
    (note, _) = make_bundle(request_of, tmp_path / "a.edgemtl").summary()
    assert note.startswith("the bundle cannot run itself: backend 'onnxruntime'")


def test_answers_that_are_not_finite_are_not_packed(
    request_of: BundleRequest, tmp_path: Path
) -> None:
    broken = replace(request_of, inputs=np.full((1, 3, *SIZE), np.nan, np.float32))
    with pytest.raises(StageFailed, match="not finite"):
        make_bundle(broken, tmp_path / "a.edgemtl")
    assert not (tmp_path / "a.edgemtl").exists()
