"""What a network costs: its float32 graph, the artefact made from it, and its torch network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.tiny_bundle import write_network

from edgemtl import targets
from edgemtl.backends.artefacts import compile_for
from edgemtl.files import sha256_file
from edgemtl.pipeline.cost import CostRequest, network_cost


@pytest.fixture
def request_of(tmp_path: Path) -> CostRequest:
    """A graph and the artefact that is the same file."""
    graph = write_network(tmp_path / "graph.onnx")
    artefact = compile_for(targets.load("cpu"), graph, tmp_path / "made")
    return CostRequest(graph, artefact, 1234)


def test_the_artefacts_bytes_are_those_that_were_compiled(request_of: CostRequest) -> None:
    data = network_cost(request_of).documents()["cost.json"]
    assert data["size_bytes"] == 1234
    assert set(data["artefact_sha256"].values()) == {sha256_file(request_of.graph)}
    # 2 classes of 3x3x3 and 1 depth of 3 products, at 6x8 pixels
    assert data["macs"] == (2 * 27 + 3) * 6 * 8
    assert data["peak_activation_bytes"] > 0


def test_in_lower_precision_the_bytes_of_activations_are_not_known(
    request_of: CostRequest, tmp_path: Path
) -> None:
    def known(lowered: Path) -> bool:
        found = network_cost(replace(request_of, lowered=lowered)).documents()["cost.json"]
        assert ("activation_bytes" in found) == ("peak_activation_bytes" in found)
        return "activation_bytes" in found

    # A quantiser that kept float32 leaves a copy.
    assert known(write_network(tmp_path / "same.onnx"))
    assert not known(write_network(tmp_path / "other.onnx", seed=1))


def test_the_torch_networks_figures_are_told_where_they_differ(request_of: CostRequest) -> None:
    graph = network_cost(request_of).graph
    same = {"macs": graph.macs, "parameters": graph.parameters}
    more = {"macs": 2_000_000, "parameters": 70}
    assert len(network_cost(replace(request_of, network=same)).summary()) == 1
    told = network_cost(replace(request_of, network=more)).summary()[1]
    assert "2.0 M MACs, 70 parameters" in told
