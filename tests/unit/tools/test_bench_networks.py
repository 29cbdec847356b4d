"""The comparison with Torch-Pruning says what is exact, and the table what happened."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.constructions import CONSTRUCTIONS
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

from bench_networks import header, summary, table
from networks.measure import Measured
from networks.peer import halve
from networks.zoo import ZOO, TwoHeads

from edgemtl.compress.channels.discover import channel_groups

ROW = Measured(
    "resnet18", 11_000_000, 160_000_000, "ok", 2e-7, 13, 1000, 0.3, 0.3, 1e-7, "ok", "exact",
    0.3, 0.3, 2.0, 1.0, kept_channels=500, peer_channels=500,
)  # fmt: skip


class Plain(nn.Module):
    """Two maps of one stage each."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        fine = self.fine(x).relu()
        return [fine, self.coarse(fine).relu()]


def test_an_exact_cut_of_the_peer_is_told_from_one_that_is_not() -> None:
    network = TwoHeads(Plain(), (32, 32)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    groups = channel_groups(network)
    peer = halve(network, ("heads.parts.out", "heads.distance.out"), groups)
    assert peer.exact and peer.groups == len(groups)
    assert peer.network is not None and peer.network.backbone.fine.out_channels == 4
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), "the network is left as it is"
    normed = CONSTRUCTIONS["layer norm of a map"].build()
    other = halve(normed, ("parts", "distance"), channel_groups(normed))
    assert not other.exact and other.network is not None and other.difference > 1e-3


def test_a_walk_that_does_not_end_is_ended() -> None:
    # In a process of its own, as the tool does it: an alarm in the middle of torch's threads can
    # leave a process that has run other tests waiting for ever.
    program = (
        "from networks.peer import halve; from support.constructions import CONSTRUCTIONS; "
        "host = CONSTRUCTIONS['circular padding'].build(); "
        "peer = halve(host, ('parts', 'distance'), limit_s=1); print(peer.network, peer.failure)"
    )
    root = Path(__file__).resolve().parents[3]
    paths = [str(root), str(root / "tools"), str(root / "tests")]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith("None"), done.stdout + done.stderr
    assert "not done after 1 s" in done.stdout


def test_the_table_shows_what_was_measured_and_what_was_not() -> None:
    nan = float("nan")
    failed = replace(
        ROW, peer="RuntimeError: no", peer_params=nan, peer_macs=nan,
        export="module 'a': refused", parity=nan,
    )  # fmt: skip
    lines = table([ROW, failed])
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "exact | 30.0 % | 30.0 %" in lines[2]
    assert "fails | - | -" in lines[3] and "module 'a': refused" in lines[3]
    assert "Random weights" in " ".join(header()) and "torch 2" in " ".join(header())


@pytest.mark.parametrize(
    ("row", "good"),
    [
        (ROW, True),
        (replace(ROW, kept_channels=501), False),  # the peer keeps less, exactly
        (replace(ROW, kept_params=0.31), True),  # other channels, not more
        (replace(ROW, kept_channels=501, peer="off by 0.1"), True),  # what it keeps is no answer
        (replace(ROW, export="module 'a' (B): refused"), True),
        (replace(ROW, export="something went wrong"), False),
        (replace(ROW, difference=0.1), False),
    ],
)
def test_goals_are_met_or_not(row: Measured, good: bool) -> None:
    assert summary([row], 1)[1] is good
    assert not summary([row], 2)[1], "one that died is no success"


def test_there_are_enough_architectures_of_three_packages() -> None:
    assert len(ZOO) >= 20 and len({package for package, _, _ in ZOO.values()}) == 3
