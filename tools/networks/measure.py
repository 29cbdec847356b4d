"""One network: its export, its channel groups, half of them cut, and the peer's half beside it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgemtl import targets
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.equivalence import differences
from edgemtl.compress.channels.groups import ChannelGroup
from edgemtl.errors import EdgemtlError
from edgemtl.exporting.module_cost import module_costs
from edgemtl.exporting.network import export_network
from edgemtl.exporting.parity import onnx_runner
from edgemtl.models import MultiTaskNetwork
from networks.peer import halve
from networks.zoo import OUTPUTS, build

#: opset that most targets ask for
TARGET = "cpu"


@dataclass(frozen=True)
class Measured:
    """What one network showed; shares are of its parameters and multiply-accumulates.

    Attributes:
        name: in the zoo.
        params, macs: of the whole network.
        export: ``ok``, or what refused or failed.
        parity: largest difference torch / ONNX Runtime, as a share of the output; NaN if none.
        groups, units: found by us.
        kept_params, kept_macs: shares kept with half of every group.
        kept_channels: rows of all weights that are left, see :func:`channels`.
        difference: masked against cut, as a share of the output.
        cut_export: as ``export``, of the cut network.
        peer: ``exact``, ``not exact`` with the difference, or what it raised.
        peer_params, peer_macs: shares it kept; NaN where it failed.
        peer_channels: as ``kept_channels``; 0 where it failed.
        seconds: of a processor, to find the groups.
        peer_seconds: of the peer's whole cut, with the check of each of its groups.
        failure: of ours, where finding or cutting raised.
    """

    name: str
    params: int
    macs: int
    export: str = ""
    parity: float = float("nan")
    groups: int = 0
    units: int = 0
    kept_params: float = float("nan")
    kept_macs: float = float("nan")
    difference: float = float("nan")
    cut_export: str = ""
    peer: str = ""
    peer_params: float = float("nan")
    peer_macs: float = float("nan")
    seconds: float = float("nan")
    peer_seconds: float = float("nan")
    failure: str = ""
    kept_channels: int = 0
    peer_channels: int = 0

    @property
    def exported(self) -> bool:
        """Whether it and its cut form left torch."""
        return self.export == "ok" and self.cut_export == "ok"

    @property
    def level(self) -> bool:
        """Whether we cut as many channels as the peer, where its cut is exact.

        Channels, not parameters: of a concatenation it may halve the one part more and the other
        less, which moves the parameters without a channel more or less.
        """
        return self.peer != "exact" or self.kept_channels <= self.peer_channels

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Measured:
        """Parse :meth:`to_dict`."""
        return Measured(**data)


def parameters(network: torch.nn.Module) -> int:
    """Trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())


def channels(network: torch.nn.Module) -> int:
    """Channels that weights of two dimensions and more write, all together."""
    total = 0
    for module in network.modules():
        turned = isinstance(module, torch.nn.ConvTranspose2d)
        for weight in module.parameters(recurse=False):
            if weight.dim() > 1:
                total += weight.shape[1] * module.groups if turned else weight.shape[0]
    return total


def measure(name: str) -> Measured:
    """Everything about one network of the zoo."""
    torch.set_num_threads(1)
    network = build(name)
    dense = module_costs(network)
    found: dict[str, Any] = {"name": name, "params": parameters(network), "macs": dense.macs}
    found["export"], found["parity"] = _export(network)
    groups: tuple[ChannelGroup, ...] = ()
    started = time.process_time()
    try:
        groups = channel_groups(network)
        found["seconds"] = time.process_time() - started
        found |= {"groups": len(groups), "units": sum(group.width for group in groups)}
        found |= _half(network, groups, dense.macs)
    except Exception as error:  # every failure is a row of the table
        found["failure"] = _told(error)
    started = time.process_time()
    peer = halve(network, OUTPUTS, groups)
    found["peer_seconds"] = time.process_time() - started
    found["peer"] = peer.failure or ("exact" if peer.exact else f"off by {peer.difference:.1g}")
    if peer.network is not None:
        found["peer_params"] = parameters(peer.network) / found["params"]
        found["peer_channels"] = channels(peer.network)
        found["peer_macs"] = module_costs(peer.network).macs / dense.macs
    return Measured(**found)


def _half(network: MultiTaskNetwork, groups: tuple[ChannelGroup, ...], macs: int) -> dict[str, Any]:
    keep = {group.name: torch.arange(group.width) < max(1, group.width // 2) for group in groups}
    smaller = cut(network, keep, groups)
    images = network.example_input(seed=1)
    answer = {
        "kept_params": parameters(smaller) / parameters(network),
        "kept_macs": module_costs(smaller).macs / macs,
        "kept_channels": channels(smaller),
        "difference": max(differences(network, keep, smaller, images, groups).values()),
    }
    return answer | {"cut_export": _export(smaller)[0]}


def _export(network: MultiTaskNetwork) -> tuple[str, float]:
    """``ok`` and the largest difference to ONNX Runtime, or what went wrong."""
    try:
        with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
            exported = export_network(network, targets.load(TARGET), Path(folder))
            images = network.example_input(seed=2)
            answers = onnx_runner(exported.path)(images.numpy())
        with torch.no_grad():
            expected = network(images)
    except Exception as error:
        return _told(error), float("nan")
    worst = 0.0
    for output, value in expected.items():
        scale = max(float(value.max() - value.min()), float(value.abs().max()))
        worst = max(worst, float(np.abs(value.numpy() - answers[output]).max()) / scale)
    return "ok", worst


def _told(error: Exception) -> str:
    """A refusal by name in our words, or the kind of a failure that nobody meant."""
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    return reason if isinstance(error, EdgemtlError) else f"{type(error).__name__}: {reason}"
