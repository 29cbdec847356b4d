"""M3ViT: sizes as published, one path per task, gates, experts, training."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.m3vit import TASKS, tiny
from torch import Tensor, nn

from edgemtl.errors import InputRefused, UsageError
from edgemtl.exporting.module_cost import module_costs
from edgemtl.models import build, checkpoint
from edgemtl.models.m3vit.gates import Gate, NoiseSource, Routing, balance_loss, squared_variation
from edgemtl.models.m3vit.network import M3ViT

NYUD: list[dict[str, Any]] = [
    {"name": "semseg", "kind": "segmentation", "options": {"classes": [str(i) for i in range(40)]}},
    {"name": "depth", "kind": "depth"},
]
PASCAL: list[dict[str, Any]] = [
    {"name": "semseg", "kind": "segmentation", "options": {"classes": [str(i) for i in range(21)]}},
    {"name": "human_parts", "kind": "parts", "options": {"classes": [str(i) for i in range(7)]}},
    {"name": "sal", "kind": "saliency"},
    {"name": "normals", "kind": "normals"},
    {"name": "edge", "kind": "edges"},
]


def described(**arguments: Any) -> M3ViT:
    """A full-size network without memory for its weights."""
    with torch.device("meta"):
        return M3ViT(**arguments)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("arguments", "backbone", "decoders", "whole"),
    [
        ({"tasks": NYUD}, 43_420_032, (2_668_328, 2_658_305), 71_802_148),
        ({"tasks": NYUD, "variant": "base"}, 171_774_720, (3_553_832, 3_543_809), 201_927_844),
        ({"tasks": NYUD, "gating": "single"}, 43_383_168, (2_668_328, 2_658_305), None),
        ({"tasks": NYUD, "experts": 0, "size": (512, 512)}, None, (2_668_328, 2_658_305), None),
        (
            {"tasks": PASCAL, "size": (512, 512), "distillation_levels": 2},
            43_463_040,
            (2_663_445, 2_659_847, 2_658_305, 2_658_819, 2_658_305),
            103_983_075,
        ),
    ],
    ids=["small NYUD", "base NYUD", "single gate", "dense", "small PASCAL"],
)
def test_parameters_are_as_many_as_published(
    arguments: dict[str, Any], backbone: int | None, decoders: tuple[int, ...], whole: int | None
) -> None:
    levels = {"distillation_levels": 3} if whole else {}
    network = described(**{**levels, **arguments})
    if backbone is not None:
        assert size(network.backbone) == backbone
    assert tuple(size(decoder) for decoder in network.decoders.values()) == decoders
    if whole is not None:
        assert size(network) == whole


def test_experts_and_distillation_are_as_large_as_published() -> None:
    network = described(tasks=NYUD, distillation_levels=3)
    assert sum(size(m.experts) for m in network.backbone.mixtures()) == 28_385_280
    assert [size(level) for level in network.distillation] == [7_685_161] * 3


@pytest.mark.parametrize(
    ("arguments", "one_task", "shared_prefix"),
    [
        ({"tasks": NYUD}, {"semseg": 100.50, "depth": 99.73}, 5.40),
        ({"tasks": PASCAL, "size": (512, 512)}, {"semseg": 83.78, "sal": 83.44}, None),
        ({"tasks": NYUD, "variant": "base"}, {"semseg": 191.75}, None),
    ],
    ids=["small NYUD", "small PASCAL", "base NYUD"],
)
def test_work_of_one_task_is_as_published(
    arguments: dict[str, Any], one_task: dict[str, float], shared_prefix: float | None
) -> None:
    """Multiply-accumulates in 1e9, K of E experts counted; the published unit is misnamed FLOPs."""
    cost = module_costs(described(**arguments))
    for task, published in one_task.items():
        assert round(cost.tasks[task].macs / 1e9, 2) == published
    if shared_prefix is not None:
        naively = sum(alone.macs for alone in cost.tasks.values())
        assert round((naively - cost.macs) / 1e9, 2) == shared_prefix


def test_work_counts_the_experts_that_a_token_uses() -> None:
    network = tiny()
    used = module_costs(network).tasks["distance"].macs
    network.set_lowering("dense")
    every = module_costs(network).tasks["distance"].macs
    layers, tokens, one_expert = 2, 9, 2 * 24 * 24
    assert every - used == layers * tokens * (6 - 2) * one_expert


def test_tasks_are_in_gate_order() -> None:
    network = tiny(tasks=TASKS[::-1])
    assert [task.name for task in network.tasks] == ["rooms", "facing", "distance"]
    assert list(network.backbone.mixtures()[0].gates) == ["rooms", "facing", "distance"]


def test_outputs_have_the_size_of_the_input() -> None:
    network = tiny()
    outputs = network(network.example_input(2))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "rooms.logits": (2, 3, 32, 64),
        "facing.normals": (2, 3, 32, 64),
        "distance.depth": (2, 1, 32, 64),
    }
    assert tuple(outputs) == network.output_names()


@pytest.mark.parametrize("gating", ["per_task", "task_conditioned", "single"])
def test_one_task_alone_answers_as_among_all(gating: str) -> None:
    network = tiny(gating=gating)
    images = network.example_input(2)
    with torch.no_grad():
        together = network(images)
        for task in network.tasks:
            alone = network(images, [task.name])
            assert list(alone) == list(task.outputs)
            assert torch.equal(alone[task.outputs[0]], together[task.outputs[0]])


@pytest.mark.parametrize(
    ("gating", "patches", "first_gate", "later_attention"),
    [("per_task", 1, 2, 2), ("task_conditioned", 1, 2, 2), ("single", 1, 1, 1)],
)
def test_what_no_gate_changes_is_computed_once(
    gating: str, patches: int, first_gate: int, later_attention: int
) -> None:
    network = tiny(gating=gating)
    calls: dict[str, int] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: calls.update({name: calls.get(name, 0) + 1})
        )
    with torch.no_grad():
        network(network.example_input(), ["rooms", "distance"])
    assert calls["backbone.patch"] == patches
    assert calls["backbone.blocks.0.attn"] == calls["backbone.blocks.1.attn"] == 1
    assert calls["backbone.blocks.1.mlp"] == first_gate
    assert calls["backbone.blocks.2.attn"] == later_attention
    assert "decoders.facing" not in calls and "backbone.blocks.1.mlp.gates.facing" not in calls


@pytest.mark.parametrize("gating", ["per_task", "task_conditioned"])
def test_gates_tell_tasks_apart(gating: str) -> None:
    network = tiny(gating=gating)
    loads = [use.loads for use in network.expert_use(network.example_input())]
    assert all(int(load.sum()) == 9 * 2 for layer in loads for load in layer.values())
    assert any(not torch.equal(layer["rooms"], layer["distance"]) for layer in loads)


@pytest.mark.parametrize("gating", ["per_task", "task_conditioned", "single"])
def test_a_restricted_network_answers_the_same(gating: str) -> None:
    network = tiny(gating=gating, distillation_levels=2)
    images = network.example_input()
    smaller = network.restricted(["distance", "rooms"])
    with torch.no_grad():
        wanted, found = network(images), smaller(images)
    assert list(found) == ["rooms.logits", "distance.depth"]
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-6, atol=1e-6)
    assert size(smaller) < size(network) and len(network.decoders) == 3
    rebuilt = build("m3vit", smaller.arguments)
    assert rebuilt.state_dict().keys() == smaller.state_dict().keys()


def test_a_pruned_network_is_not_restricted() -> None:
    network = tiny()
    network.pruning = [{"what": "ever"}]
    with pytest.raises(UsageError, match="pruned"):
        network.restricted(["distance"])


def test_a_checkpoint_reads_back(tmp_path: Path) -> None:
    network = tiny(gating="task_conditioned", noise="shazeer")
    checkpoint.save(checkpoint.from_network(network), tmp_path / "m.pt")
    again = checkpoint.load_network(tmp_path / "m.pt")
    images = network.example_input()
    with torch.no_grad():
        assert torch.equal(again(images)["distance.depth"], network(images)["distance.depth"])


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "huge"},
        {"gating": "none"},
        {"noise": "white"},
        {"top_k": 7},
        {"size": (32, 60)},
        {"size": (48, 64), "distillation_levels": 1},
        {"tasks": []},
        {"tasks": [{"name": "faces", "kind": "detection"}]},
        {"tasks": TASKS[2:], "distillation_levels": 1},
        {"heads": 5},
        {"distillation_levels": 4},
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputRefused):
        build("m3vit", {**tiny().arguments, **changes})


def gate(noise: str = "vmoe", std: float = 0.0, top_k: int = 2) -> Gate:
    made = Gate(8, 5, top_k, noise, std, NoiseSource(3))  # type: ignore[arg-type]
    nn.init.normal_(made.score.weight, generator=torch.Generator().manual_seed(0))
    return made


def tokens(count: int = 40) -> Tensor:
    return torch.randn((count, 8), generator=torch.Generator().manual_seed(1))


def test_vmoe_keeps_probabilities_as_they_are_and_shazeer_renormalises() -> None:
    made = gate().eval()
    routing = made(tokens())
    shares = made.score(tokens()).softmax(dim=1)
    assert torch.equal(routing.weights, shares.gather(1, routing.experts))
    assert torch.equal(routing.weights[:, 0], shares.max(dim=1).values)
    assert (routing.weights.sum(dim=1) < 1).all()
    renormalised = gate("shazeer").eval()(tokens())
    assert torch.equal(renormalised.experts, routing.experts)
    torch.testing.assert_close(renormalised.weights.sum(dim=1), torch.ones(40))


@pytest.mark.parametrize("noise", ["vmoe", "shazeer"])
def test_noise_is_for_training_only_and_seeded(noise: str) -> None:
    made = gate(noise, std=20.0)
    quiet = made.eval()(tokens())
    assert torch.equal(made(tokens()).experts, quiet.experts)
    noisy, again = made.train()(tokens()), gate(noise, std=20.0).train()(tokens())
    assert not torch.equal(noisy.experts, quiet.experts)
    assert torch.equal(noisy.experts, again.experts)
    assert not torch.equal(made(tokens()).experts, noisy.experts)


def test_a_network_repeats_its_noise_from_a_seed() -> None:
    network = tiny(noise_std=20.0).train()
    images = network.example_input()
    answers = []
    for seed in (1, 1, 2):
        network.seed_noise(seed)
        with torch.no_grad():
            answers.append(network(images)["distance.depth"])
    assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])


@pytest.mark.parametrize("noise", ["vmoe", "shazeer"])
def test_smooth_load_is_the_chance_of_being_chosen(noise: str) -> None:
    """One expert's own noise drawn again many times, the others' kept."""
    made = gate(noise, std=3.0).train()
    x = tokens(1)
    with torch.no_grad():
        if made.spread is not None:
            nn.init.normal_(made.spread.weight, generator=torch.Generator().manual_seed(5))
        load = made(x).load
        clean = made.score(x)[0]
        std = torch.full_like(clean, 3.0 / 5)
        if made.spread is not None:
            std = (nn.functional.softplus(made.spread(x)[0]) + 1e-2) * 3.0
        noisy = clean + std * NoiseSource(3).like(clean[None])[0]
    assert load is not None
    for expert in range(5):
        others = torch.cat([noisy[:expert], noisy[expert + 1 :]]).sort(descending=True).values
        margin = float((clean[expert] - others[1]) / std[expert])
        assert float(load[expert]) == pytest.approx(0.5 * math.erfc(-margin / 2**0.5), abs=1e-5)


def test_without_noise_load_counts_tokens_and_importance_sums_weights() -> None:
    routing = gate().train()(tokens())
    assert routing.load is not None and routing.importance is not None
    assert torch.equal(routing.load, routing.experts.flatten().bincount(minlength=5).float())
    for expert in range(5):
        wanted = routing.weights[routing.experts == expert].sum()
        torch.testing.assert_close(routing.importance[expert], wanted)


def test_balance_loss_by_hand() -> None:
    assert squared_variation(torch.tensor([1.0, 3.0])).item() == pytest.approx(2 / 4)
    nothing = torch.zeros((1, 1), dtype=torch.long)
    even = Routing(nothing, nothing.float(), torch.tensor([2.0, 2.0]), torch.tensor([5.0, 5.0]))
    skewed = Routing(nothing, nothing.float(), torch.tensor([1.0, 3.0]), torch.tensor([0.0, 4.0]))
    assert balance_loss([even]).item() == 0
    assert balance_loss([even, skewed]).item() == pytest.approx(0.5 + 8 / 4)
    with pytest.raises(ValueError, match="training"):
        balance_loss([Routing(nothing, nothing.float())])


def test_training_gives_distillation_and_balance() -> None:
    network = tiny(distillation_levels=3).train()
    found = network.forward_training(network.example_input(2))
    assert len(found.auxiliary) == 3
    for level in found.auxiliary:
        assert {n: v.shape for n, v in level.items()} == {
            n: v.shape for n, v in found.outputs.items()
        }
    assert found.balance.item() > 0
    total = found.balance + sum(v.mean() for level in found.auxiliary for v in level.values())
    (total + sum(value.mean() for value in found.outputs.values())).backward()
    assert all(p.grad is not None for p in network.parameters())
    gates = [m.gates["distance"].score.weight.grad for m in network.backbone.mixtures()]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in gates)


def test_training_of_some_tasks_has_no_distillation() -> None:
    network = tiny(distillation_levels=1).train()
    found = network.forward_training(network.example_input(2), ["rooms"])
    assert found.auxiliary == () and list(found.outputs) == ["rooms.logits"]


def test_training_needs_training_mode() -> None:
    with pytest.raises(ValueError, match="train"):
        tiny().forward_training(tiny().example_input())


def test_distillation_costs_nothing_at_inference() -> None:
    assert module_costs(tiny(distillation_levels=2)).macs == module_costs(tiny()).macs


def test_a_dense_network_has_no_gates() -> None:
    network = tiny(experts=0)
    assert network.backbone.mixtures() == []
    assert network.expert_use(network.example_input()) == []
    assert network.train().forward_training(network.example_input(2)).balance.item() == 0


@pytest.mark.parametrize("lowering", ["gather", "sorted", "static"])
def test_lowerings_agree_with_the_dense_reference(lowering: Any) -> None:
    network = tiny()
    images = network.example_input(3, seed=2)
    network.set_lowering("dense")
    with torch.no_grad():
        wanted = network(images)
        network.set_lowering(lowering)
        found = network(images)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


def test_gradients_of_gather_and_dense_agree() -> None:
    grads = []
    for lowering in ("gather", "dense"):
        network = tiny()
        network.set_lowering(lowering)  # type: ignore[arg-type]
        sum(v.square().mean() for v in network(network.example_input(2)).values()).backward()
        grads.append({name: p.grad for name, p in network.named_parameters()})
    for name, grad in grads[1].items():
        assert grad is not None
        found = grads[0][name]
        torch.testing.assert_close(
            torch.zeros_like(grad) if found is None else found, grad, rtol=1e-4, atol=1e-6
        )


def test_a_gate_that_underflows_still_counts_as_a_choice() -> None:
    """A weight of exactly 0: the token stays in its queue, the answer stays finite and equal."""
    network = tiny()
    for mixture in network.backbone.mixtures():
        for made in mixture.gates.values():
            nn.init.normal_(made.score.weight, std=1e4)
    images = network.example_input()
    loads = [use.loads for use in network.expert_use(images)]
    assert all(int(load.sum()) == 18 for layer in loads for load in layer.values())
    answers = []
    for lowering in ("dense", "gather", "static"):
        network.set_lowering(lowering)  # type: ignore[arg-type]
        with torch.no_grad():
            answers.append(network(images)["distance.depth"])
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(answers[2], answers[0], rtol=1e-5, atol=1e-5)


def test_overflow_is_counted_exactly_per_image() -> None:
    network = tiny()
    images = network.example_input()
    with torch.no_grad():
        whole = network(images, ["distance"])["distance.depth"]
    load = [use.loads["distance"] for use in network.expert_use(images, ["distance"])]
    enough = [int(counts.max()) for counts in load]
    network.set_lowering("static", enough)
    with torch.no_grad():
        found = network(images, ["distance"])
    assert found["experts.overflow"].tolist() == [[0.0]]
    torch.testing.assert_close(found["distance.depth"], whole, rtol=1e-5, atol=1e-5)
    # one less in the last layer: exactly what is beyond the capacity finds no room
    network.set_lowering("static", [enough[0], enough[1] - 1])
    with torch.no_grad():
        short = network(images, ["distance"])
    beyond = int((load[1] - (enough[1] - 1)).clamp(min=0).sum())
    assert beyond > 0 and short["experts.overflow"].tolist() == [[float(beyond)]]
    assert not torch.equal(short["distance.depth"], found["distance.depth"])
    with torch.no_grad():
        pair = torch.cat([images, images])
        network.set_lowering("static", 1)
        counts = network(pair, ["distance"])["experts.overflow"][:, 0]
    assert counts[0] < counts[1], "the second picture finds the queues already full"


@pytest.mark.parametrize("capacity", [0, [3], [3, 3, 3]])
def test_capacities_that_do_not_fit_are_refused(capacity: Any) -> None:
    with pytest.raises(ValueError, match="2 positive capacities"):
        tiny().set_lowering("static", capacity)


def test_the_lowering_is_no_part_of_the_checkpoint() -> None:
    network = tiny(lowering="static", capacity=4)
    other = copy.deepcopy(network)
    other.set_lowering("gather")
    assert network.arguments == other.arguments
    assert "experts.overflow" in network.output_names()
    assert "experts.overflow" not in other.output_names()
