"""A network without the heads nobody asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.dense_family import build

from edgemtl.errors import UsageError
from edgemtl.models.checkpoint import from_network, load, save
from edgemtl.models.mos.network import MOS


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (["pose"], ["detection", "pose"]),
        (["detection"], ["detection"]),
        (["detection", "landmarks", "pose"], ["detection", "landmarks", "pose"]),
    ],
)
def test_the_kept_tasks_answer_as_before(
    wanted: list[str], kept: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = MOS(variant="mos-t", context="plain", size=(64, 64)).eval()
    smaller = network.restricted(wanted)
    assert [task.name for task in smaller.tasks] == kept
    images = network.example_input(1)
    with torch.no_grad():
        expected, found = network(images, kept), smaller(images)
    assert set(found) == set(expected)
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)
    if len(kept) < 3:
        assert sum(p.numel() for p in smaller.parameters()) < sum(
            p.numel() for p in network.folded().parameters()
        )
    save(from_network(smaller), tmp_path / "model.pt")
    again = load(tmp_path / "model.pt").network()
    with torch.no_grad():
        torch.testing.assert_close(again(images), found)


def test_what_cannot_be_left_out_is_refused() -> None:
    network = MOS(variant="mos-t", context="plain", size=(64, 64))
    with pytest.raises(UsageError):
        network.restricted(["depth"])
    network.pruning = [{"format": 1}]
    with pytest.raises(UsageError, match="was pruned"):
        network.restricted(["pose"])
    with pytest.raises(UsageError, match="cannot leave out"):
        build().restricted(["parts"])
