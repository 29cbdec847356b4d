"""Every construction: its groups are found, cut exactly, exported, and no fewer than a peer's."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from support.constructions import CONSTRUCTIONS
from support.constructions.peer import ENDLESS, PEER
from support.pruning import Host
from torch import Tensor

from edgemtl import targets
from edgemtl.compress.channels.cut import check_cut, cut
from edgemtl.compress.channels.discover import discover
from edgemtl.compress.channels.discovery import Discovery
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.errors import EdgemtlError
from edgemtl.exporting.network import export_network
from edgemtl.exporting.parity import onnx_runner

sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "tools"))

from networks.peer import halve

#: layers of the host that write outputs
OUTPUTS = ("parts", "distance")
#: largest difference between torch and ONNX Runtime, as a share of an output
PARITY = 1e-5


@cache
def looked_at(name: str) -> tuple[Host, Discovery]:
    """A construction's network and its channels, looked for once."""
    host = CONSTRUCTIONS[name].build()
    return host, discover(host)


def found(name: str) -> tuple[Host, tuple[ChannelGroup, ...]]:
    """Its network and the groups that can be cut."""
    host, discovery = looked_at(name)
    return host, discovery.groups


def kept(groups: tuple[ChannelGroup, ...], narrowest: bool, seed: int = 0) -> dict[str, Tensor]:
    """Half of every group, or one unit of each, chosen at random."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for group in groups:
        count = 1 if narrowest else max(1, group.width // 2)
        chosen = torch.randperm(group.width, generator=generator)[:count]
        keep[group.name] = torch.zeros(group.width, dtype=torch.bool).index_fill(0, chosen, True)
    return keep


@cache
def halved(name: str) -> Host:
    """With half of every group cut."""
    host, groups = found(name)
    smaller = cut(host, kept(groups, narrowest=False), groups)
    assert isinstance(smaller, Host)
    return smaller


def parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def module_names(groups: Mapping[str, int]) -> dict[str, int]:
    """Groups by module, where the weight is held by a parametrisation of the module."""
    return {name.replace(".parametrizations.weight", ""): n for name, n in groups.items()}


@pytest.mark.parametrize("name", list(CONSTRUCTIONS))
def test_groups_are_those_that_are_right(name: str) -> None:
    _, groups = found(name)
    expected = dict(CONSTRUCTIONS[name].groups)
    assert module_names({group.name: group.width for group in groups}) == expected


@pytest.mark.parametrize("name", [name for name in CONSTRUCTIONS if CONSTRUCTIONS[name].whole])
def test_what_stays_whole_is_listed_by_module_with_a_reason(name: str) -> None:
    _, discovery = looked_at(name)
    listed = {item.module.replace(".parametrizations.weight", ""): item for item in discovery.whole}
    for path in CONSTRUCTIONS[name].whole:
        assert path in listed, sorted(listed)
        assert listed[path].reason and listed[path].channels > 0


@pytest.mark.parametrize("name", list(CONSTRUCTIONS))
def test_masked_equals_cut_at_half_width_and_at_the_narrowest(name: str) -> None:
    host, groups = found(name)
    assert groups
    images = host.example_input(2, seed=3)
    check_cut(host, kept(groups, narrowest=False), halved(name), images, groups)
    narrowest = kept(groups, narrowest=True, seed=1)
    check_cut(host, narrowest, cut(host, narrowest, groups), images, groups)


@pytest.mark.parametrize("name", list(CONSTRUCTIONS))
def test_cut_network_is_exported_or_refused_by_name(name: str, tmp_path: Path) -> None:
    refused = CONSTRUCTIONS[name].refused
    network = halved(name)
    if refused:
        with pytest.raises(EdgemtlError, match=refused):
            export_network(network, targets.load("cpu"), tmp_path)
        return
    exported = export_network(network, targets.load("cpu"), tmp_path)
    images = network.example_input(seed=2)
    answers = onnx_runner(exported.path)(images.numpy())
    with torch.no_grad():
        expected = network(images)
    for output, value in expected.items():
        scale = max(float(value.max() - value.min()), float(value.abs().max()))
        assert float(np.abs(value.numpy() - answers[output]).max()) <= PARITY * scale, output


@pytest.mark.parametrize("name", list(CONSTRUCTIONS))
def test_no_more_parameters_stay_than_by_a_peers_exact_cut(name: str) -> None:
    if name in ENDLESS:
        pytest.skip("Torch-Pruning's walk through this graph does not end")
    host, groups = found(name)
    peer = halve(host, OUTPUTS, groups)
    outcome = "fails" if peer.network is None else "exact" if peer.exact else "differs"
    assert outcome == PEER[name], (peer.failure, peer.difference)
    if peer.exact:
        assert peer.network is not None
        assert parameters(halved(name)) <= parameters(peer.network)


def test_the_collection_is_large_and_the_record_of_the_peer_whole() -> None:
    assert len(CONSTRUCTIONS) >= 90
    assert set(PEER) | ENDLESS == set(CONSTRUCTIONS)
