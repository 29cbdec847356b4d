"""Published M3ViT files: every key, the same numbers, and clear refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support import published_m3vit
from support.published_m3vit import (
    NYUD,
    PASCAL,
    SMALL,
    Published,
    encoder_state,
    in_ranks,
    random_state,
)
from support.shared import published_shapes
from torch import Tensor

from edgemtl.errors import InputRefused
from edgemtl.models import checkpoint
from edgemtl.models.m3vit.importers import imagenet_encoder, import_published
from edgemtl.models.m3vit.network import M3ViT

OUTPUTS = {"semseg": "semseg.logits", "sal": "sal.logits", "depth": "depth.depth"}


def saved(folder: Path, payload: object, name: str = "net.pth.tar") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(payload, path)
    return path


def imported(path: Path, p: Published = SMALL) -> M3ViT:
    return import_published(
        path, size=(16 * p.grid[0], 16 * p.grid[1]), top_k=p.top_k, heads=p.heads
    )


@pytest.mark.parametrize(
    ("name", "described", "count"), [("nyud", NYUD, 425), ("pascal", PASCAL, 526)]
)
def test_the_generated_names_are_the_published_ones(
    name: str, described: Published, count: int
) -> None:
    assert len(published_m3vit.shapes(described)) == count
    listed = published_shapes(f"m3vit_small_{name}_keys.txt")
    assert listed == published_m3vit.shapes(described)


@pytest.mark.parametrize(
    "described",
    [
        SMALL,
        replace(SMALL, gating="task_conditioned"),
        replace(SMALL, gating="single"),
        replace(SMALL, noisy=True),
    ],
    ids=["per task", "conditioned", "single", "noisy"],
)
def test_an_imported_network_computes_what_the_published_one_does(
    described: Published, tmp_path: Path
) -> None:
    state = random_state(described)
    network = imported(saved(tmp_path, {"state_dict": state}), described)
    assert network.arguments["gating"] == described.gating
    assert [task.name for task in network.tasks] == list(described.tasks)
    images = network.example_input(seed=4)
    with torch.no_grad():
        answers = network(images)
    for task, output in OUTPUTS.items():
        wanted = published_m3vit.compute(described, state, images, task)
        torch.testing.assert_close(answers[output], wanted, rtol=1e-4, atol=1e-4)


def test_the_published_sizes_import(tmp_path: Path) -> None:
    """Small NYUD, two blocks of it: input size, heads and class count are found."""
    generated = published_m3vit.shapes(replace(NYUD, depth=2))
    state = {
        name: torch.zeros(shape, dtype=torch.long if not shape else torch.float32)
        for name, shape in generated.items()
    }
    network = import_published(saved(tmp_path, state))
    assert network.input_spec.size == (480, 640)
    assert network.backbone.blocks[0].attn.heads == 12
    assert [task.spec().options for task in network.tasks] == [
        {"classes": [f"class_{i}" for i in range(40)]},
        {},
    ]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_folder_of_ranks_is_the_same_network(ranks: int, tmp_path: Path) -> None:
    state = random_state(SMALL)
    whole = imported(saved(tmp_path, state))
    for rank, part in enumerate(in_ranks(SMALL, state, ranks)):
        payload = {"epoch": 3, "backbone": "vit", "state_dict": part, "best_result": {"x": 0.5}}
        saved(tmp_path / "many.pth.tar", payload, f"{rank}.pth")
    network = imported(tmp_path / "many.pth.tar")
    assert checkpoint.weights_hash(network) == checkpoint.weights_hash(whole)


def test_the_checkpoint_of_an_imported_network_reads_back(tmp_path: Path) -> None:
    network = imported(saved(tmp_path, random_state(SMALL)))
    checkpoint.save(checkpoint.from_network(network), tmp_path / "m.pt")
    again = checkpoint.load_network(tmp_path / "m.pt")
    assert checkpoint.weights_hash(again) == checkpoint.weights_hash(network)


def broken(change: str) -> list[dict[str, Tensor]]:
    parts = in_ranks(SMALL, random_state(SMALL), 2)
    first, second = "module.backbone.blocks.1", parts[1]
    if change == "a key is missing":
        del parts[0][f"{first}.norm1.weight"]
    elif change == "a key is unknown":
        parts[0]["module.backbone.extra"] = torch.zeros(1)
    elif change == "a shard is missing":
        del second[f"{first}.mlp.experts.htoh4.bias"]
    elif change == "a rank has more":
        second[f"{first}.norm1.weight"] = torch.zeros(16)
    elif change == "a shard has another shape":
        name = f"{first}.mlp.experts.htoh4.weight"
        second[name] = second[name][:, :3]
    elif change == "no decoder":
        parts[0] = {key: v for key, v in parts[0].items() if "decoders" not in key}
    return parts


@pytest.mark.parametrize(
    "change",
    [
        "a key is missing",
        "a key is unknown",
        "a shard is missing",
        "a rank has more",
        "a shard has another shape",
        "no decoder",
    ],
)
def test_what_does_not_fit_is_refused(change: str, tmp_path: Path) -> None:
    for rank, part in enumerate(broken(change)):
        saved(tmp_path / "bad", {"state_dict": part}, f"{rank}.pth")
    with pytest.raises(InputRefused):
        imported(tmp_path / "bad")


def test_a_missing_rank_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "bad", random_state(SMALL), "0.pth")
    saved(tmp_path / "bad", random_state(SMALL), "2.pth")
    with pytest.raises(InputRefused, match=r"\[0, 2\]"):
        imported(tmp_path / "bad")


def test_an_unknown_input_size_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="9 tokens"):
        import_published(saved(tmp_path, random_state(SMALL)), top_k=2, heads=4)


@pytest.mark.parametrize("gating", ["per_task", "task_conditioned"])
def test_an_imagenet_encoder_fills_every_gate(gating: str, tmp_path: Path) -> None:
    described = replace(SMALL, gating=gating)
    network = imported(saved(tmp_path, random_state(described)), described)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    encoder = encoder_state(SMALL, side=3)
    imagenet_encoder(network, {"model": encoder})
    now = network.state_dict()
    gates = [key for key in now if ".gates." in key]
    assert len(gates) == (6 if gating == "per_task" else 2)
    for key in gates:
        block = key.split(".")[2]
        assert torch.equal(now[key][:, :16], encoder[f"blocks.{block}.mlp.gate.w_gate"].t())
        assert torch.equal(now[key][:, 16:], before[key][:, 16:])
    assert torch.equal(now["backbone.position"][:, 0], encoder["pos_embed"][:, 0])
    plane = encoder["pos_embed"][0, 1:].t().reshape(1, 16, 3, 3)
    wanted = F.interpolate(plane, size=(2, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(now["backbone.position"][0, 1:].t(), wanted[0].flatten(1))
    assert torch.equal(
        now["backbone.blocks.3.mlp.experts.weight_in"],
        encoder["blocks.3.mlp.experts.htoh4.weight"],
    )
    kept = [key for key in now if key.startswith(("decoders.", "backbone.embedding."))]
    assert all(torch.equal(now[key], before[key]) for key in kept)


def test_an_encoder_with_unknown_keys_is_refused(tmp_path: Path) -> None:
    network = imported(saved(tmp_path, random_state(SMALL)))
    with pytest.raises(InputRefused, match="1 unknown"):
        imagenet_encoder(network, encoder_state(SMALL, 3) | {"fc_norm": torch.zeros(1)})
