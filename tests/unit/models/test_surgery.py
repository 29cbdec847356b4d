"""Pruning records come from files: what does not fit is refused, and says why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import dense_family, vit_family

from edgemtl.compress.channels.cut import cut
from edgemtl.errors import InputRefused
from edgemtl.models import checkpoint
from edgemtl.models.registry import build
from edgemtl.models.surgery import apply_records

NETWORK = vit_family.build()
KEEP = {
    "blocks.0.attn.qkv": torch.tensor([1, 0, 1, 1]).bool(),
    "blocks.1.mlp.0": torch.arange(72) < 24,
}
CUT = cut(NETWORK, KEEP)
RECORD = CUT.pruning[0]

Change = Callable[[dict[str, Any]], object]


def test_record_is_plain_data_that_says_what_was_cut() -> None:
    assert RECORD["groups"] == [
        {"name": "blocks.0.attn.qkv", "width": 4, "keep": [0, 2, 3]},
        {"name": "blocks.1.mlp.0", "width": 72, "keep": list(range(24))},
    ]
    assert RECORD["attributes"] == [
        {"module": "blocks.0.attn", "name": "heads", "before": 4, "after": 3}
    ]

    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and plain(item) for key, item in value.items())
        if isinstance(value, list):
            return all(plain(item) for item in value)
        return type(value) in (str, int)

    assert plain(RECORD)


def test_record_gives_a_fresh_network_the_shapes() -> None:
    fresh = build("tiny-vit", NETWORK.arguments)
    apply_records(fresh, [RECORD])
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {
        k: v.shape for k, v in CUT.state_dict().items()
    }
    assert fresh.training


TAMPERED: dict[str, Change] = {
    "format": lambda r: r.update(format=2),
    "format of another type": lambda r: r.update(format=True),
    "no tensors": lambda r: r.pop("tensors"),
    "a field more": lambda r: r.update(run="rm"),
    "tensors are no list": lambda r: r.update(tensors={}),
    "entry is no dict": lambda r: r["tensors"].append("x"),
    "entry lacks a field": lambda r: r["tensors"][0].pop("size"),
    "unknown tensor": lambda r: r["tensors"][0].update(name="nobody.weight"),
    "a dimension it has not": lambda r: r["tensors"][0].update(dim=2),
    "negative dimension": lambda r: r["tensors"][0].update(dim=-1),
    "another size": lambda r: r["tensors"][0].update(size=71),
    "nothing kept": lambda r: r["tensors"][0].update(keep=[]),
    "kept twice": lambda r: r["tensors"][0]["keep"].insert(1, 0),
    "kept out of range": lambda r: r["tensors"][0]["keep"].append(72),
    "negative": lambda r: r["tensors"][0]["keep"].insert(0, -1),
    "a number that is none": lambda r: r["tensors"][0]["keep"].append(70.5),
    "a tensor twice": lambda r: r["tensors"].append(r["tensors"][0]),
    "a tensor less": lambda r: r["tensors"].pop(),
    "one channel less in one place": lambda r: r["tensors"][0]["keep"].pop(),
    "an output narrower": lambda r: r["tensors"].extend(
        [
            {"name": f"decoders.parts.3.{part}", "dim": 0, "size": 3, "keep": [0, 1]}
            for part in ("weight", "bias")
        ]
    ),
    "another attribute": lambda r: r["attributes"][0].update(name="forward"),
    "an attribute of a class": lambda r: r["attributes"][0].update(name="training"),
    "an attribute it has not": lambda r: r["attributes"][0].update(module="nobody"),
    "another value before": lambda r: r["attributes"][0].update(before=5),
    "grown": lambda r: r["attributes"][0].update(after=5),
    "zero": lambda r: r["attributes"][0].update(after=0),
    "no attribute": lambda r: r["attributes"].clear(),
    "group keeps nothing": lambda r: r["groups"][0].update(keep=[]),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_tampered_records_are_refused(name: str) -> None:
    record = copy.deepcopy(RECORD)
    TAMPERED[name](record)
    with pytest.raises(InputRefused) as caught:
        apply_records(build("tiny-vit", NETWORK.arguments), [record])
    assert "\n" not in str(caught.value)


def test_a_record_fits_only_once_and_only_its_family() -> None:
    with pytest.raises(InputRefused, match="record 2"):
        apply_records(build("tiny-vit", NETWORK.arguments), [RECORD, RECORD])
    with pytest.raises(InputRefused, match="record 1"):
        apply_records(dense_family.build(), [RECORD])


def test_checkpoint_with_weights_of_other_shapes_is_refused(tmp_path: Path) -> None:
    described = checkpoint.from_network(CUT)
    other = checkpoint.Checkpoint(
        described.family,
        described.arguments,
        NETWORK.state_dict(),
        described.tasks,
        described.input,
        described.pruning,
    )
    path = tmp_path / "model.pt"
    checkpoint.save(other, path)
    with pytest.raises(InputRefused, match="shape"):
        checkpoint.load_network(path)
