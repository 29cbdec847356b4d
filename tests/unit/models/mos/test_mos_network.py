"""The MOS family: shapes, subsets of tasks, folding, size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.norms import enliven
from torch import nn

from edgemtl.errors import InputRefused, UsageError
from edgemtl.models import build
from edgemtl.models.layers import DeformableConv2d
from edgemtl.models.mos.heads import AngleHead, CrossStitch, LevelHead
from edgemtl.models.mos.network import MOS

SIZE = (64, 96)
OUTPUTS = {
    "detection.scores": 2,
    "detection.boxes": 4,
    "landmarks.points": 10,
    "pose.yaw": 66,
    "pose.pitch": 66,
    "pose.roll": 66,
}


def lively(seed: int = 0, **arguments: Any) -> MOS:
    """A seeded network in eval mode in which no norm, mix or offset is trivial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MOS(**{"variant": "mos-t", "context": "plain", "size": SIZE, **arguments})
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                enliven(module, 0.2)
            elif isinstance(module, CrossStitch):
                nn.init.uniform_(module.mix, -0.4, 1.0)
            elif isinstance(module, DeformableConv2d):
                nn.init.normal_(module.offset_mask.weight, 0, 0.02)
    return network.eval()


@pytest.mark.parametrize("variant", ["mos-m", "mos-s", "mos-t"])
@pytest.mark.parametrize("context", ["deformable", "plain"])
def test_every_variant_answers_every_prior(variant: str, context: str) -> None:
    network = lively(variant=variant, context=context)
    with torch.inference_mode():
        answers = network(network.example_input(batch=2))
    assert {name: tuple(value.shape) for name, value in answers.items()} == {
        name: (2, (8 * 12 + 4 * 6 + 2 * 3) * 2, values) for name, values in OUTPUTS.items()
    }
    assert network.output_names() == tuple(answers)
    assert all(bool(value.isfinite().all()) for value in answers.values())


@pytest.mark.parametrize(("variant", "parameters"), [("mos-m", 3_086_431), ("mos-s", 2_074_435)])
def test_published_variants_have_the_published_size(variant: str, parameters: int) -> None:
    """MOS section 2: live parameters, without the never-executed Conv_pose."""
    network = MOS(variant=variant, context="deformable")
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert sum(isinstance(m, DeformableConv2d) for m in network.modules()) == 17


def test_sizes_that_no_stride_divides() -> None:
    network = lively(size=(70, 90))
    with torch.inference_mode():
        answers = network(network.example_input())
    count = (9 * 12 + 5 * 6 + 3 * 3) * 2
    assert {value.shape[1] for value in answers.values()} == {count}
    assert network.task("detection").anchors.count((70, 90)) == count  # type: ignore[attr-defined]


@pytest.mark.parametrize("stitch", ["cross", "folded", "none"])
@pytest.mark.parametrize(
    "wanted", [["pose"], ["detection"], ["landmarks"], ["pose", "landmarks"], []]
)
def test_a_subset_of_tasks_is_that_part_of_the_whole(stitch: str, wanted: list[str]) -> None:
    network = lively(stitch=stitch)
    images = network.example_input(batch=2)
    with torch.inference_mode():
        whole, part = network(images), network(images, tasks=wanted)
    assert list(part) == [name for name in OUTPUTS if name.split(".")[0] in wanted]
    for name, value in part.items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=0)


def test_what_no_requested_task_needs_is_not_computed() -> None:
    network = lively()
    ran: set[str] = set()
    for level in network.levels:
        assert isinstance(level, LevelHead)
        for name, head in level.heads.items():
            head.register_forward_hook(lambda *_, name=name: ran.add(name))
    with torch.inference_mode():
        network(network.example_input(), tasks=["landmarks"])
    assert ran == {"landmark"}


def test_an_unknown_task_is_an_error() -> None:
    network = lively()
    with pytest.raises(UsageError, match="no task 'gaze'"):
        network(network.example_input(), tasks=["gaze"])


def test_outputs_follow_the_requested_tasks_with_what_they_require() -> None:
    network = lively()
    assert network.output_names(["pose"]) == tuple(
        name for name in OUTPUTS if not name.startswith("landmarks")
    )


@pytest.mark.parametrize("context", ["deformable", "plain"])
@pytest.mark.parametrize("variant", ["mos-m", "mos-t"])
def test_folding_changes_nothing_but_the_work(variant: str, context: str) -> None:
    network = lively(variant=variant, context=context)
    folded = network.folded()
    images = network.example_input(batch=2)
    with torch.inference_mode():
        before, after = network(images), folded(images)
    for name, value in before.items():
        scale = value.abs().max().item()
        assert (value - after[name]).abs().max().item() <= 1e-5 * max(scale, 1.0), name
    assert not any(isinstance(module, CrossStitch) for module in folded.modules())
    count = [sum(p.numel() for p in n.parameters()) for n in (network, folded)]
    assert count[1] < count[0]
    assert network.arguments["stitch"] == "cross" and folded.arguments["stitch"] == "folded"


def test_the_folded_form_is_a_network_of_its_own() -> None:
    network = lively()
    folded = network.folded()
    again = build("mos", folded.arguments)
    again.load_state_dict(folded.state_dict())
    images = network.example_input()
    with torch.inference_mode():
        before = network(images)["pose.yaw"].clone()
        torch.testing.assert_close(again.eval()(images)["pose.yaw"], folded(images)["pose.yaw"])
        for parameter in folded.parameters():
            parameter.zero_()
        torch.testing.assert_close(network(images)["pose.yaw"], before, rtol=0, atol=0)


@pytest.mark.parametrize("stitch", ["folded", "none"])
def test_where_nothing_is_to_fold_a_copy_comes_back(stitch: str) -> None:
    network = lively(stitch=stitch)
    folded = network.folded()
    assert folded is not network and folded.arguments == network.arguments
    images = network.example_input()
    with torch.inference_mode():
        torch.testing.assert_close(folded(images)["pose.yaw"], network(images)["pose.yaw"])


@torch.no_grad()
def _keep(head: AngleHead, stitch: CrossStitch, keep: list[int]) -> None:
    """Cut the hidden channels of an angle head and the stitched channels by hand."""
    conv, norm = head.hidden.conv, head.hidden.norm
    smaller = nn.Conv2d(conv.in_channels, len(keep), 3, padding=1, bias=False)
    smaller.weight.copy_(conv.weight[keep])
    new_norm = nn.BatchNorm2d(len(keep)).eval()
    for name, value in norm.state_dict().items():
        if value.ndim:
            getattr(new_norm, name).copy_(value[keep])
    out = nn.Conv2d(len(keep), head.out.out_channels, 1)
    out.weight.copy_(head.out.weight[:, keep])
    assert out.bias is not None and head.out.bias is not None
    out.bias.copy_(head.out.bias)
    head.hidden.conv, head.hidden.norm, head.out = smaller, new_norm, out


def test_a_pruned_network_folds_too() -> None:
    network = lively()
    for level in network.levels:
        assert isinstance(level, LevelHead) and level.stitch is not None
        head = level.heads["yaw"]
        assert isinstance(head, AngleHead)
        _keep(head, level.stitch, list(range(0, 128, 3)))
    images = network.example_input()
    with torch.inference_mode():
        before, after = network(images), network.folded()(images)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-5, rtol=1e-4)


def test_stitching_starts_as_published() -> None:
    """36 vectors of 64 per level: 0.9 on the own stream, 0.1 on the others."""
    stitch = CrossStitch(("a", "b", "c"))
    assert stitch.mix.shape == (3, 3, 64)
    wanted = torch.full((3, 3), 0.1).fill_diagonal_(0.9)
    torch.testing.assert_close(stitch.mix.detach(), wanted[:, :, None].expand(3, 3, 64))


def test_a_transparent_stitch_passes_its_own_stream_through() -> None:
    stitch = CrossStitch(("a", "b"), own=1.0, other=0.0)
    x = torch.randn(1, 64, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stitch(x, ["b"])["b"], stitch.convs["b"](x))


def test_a_network_is_rebuilt_from_its_arguments() -> None:
    network = lively(
        tasks=("detection", "pose"), channel_order="rgb", activation="relu", stitch="none"
    )
    again = build("mos", network.arguments)
    assert again.arguments == network.arguments and again.input_spec == network.input_spec
    assert again.input_spec.mean == (123.0, 117.0, 104.0)
    again.load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    "arguments",
    [
        {"variant": "mos-xl"},
        {"variant": ["mos-m"]},
        {"context": "wavy"},
        {"stitch": "maybe"},
        {"activation": "gelu"},
        {"channel_order": "grb"},
        {"size": [64]},
        {"size": 64},
        {"size": [0, 64]},
        {"size": [10**7, 64]},
        {"tasks": ["gaze"]},
        {"tasks": 3},
        {"tasks": ["detection", "detection"]},
        {"tasks": ["pose"]},
        {"anchors": {"strides": [8]}},
        {"anchors": {"strides": [8, 16, 32], "sizes": [[], [], []], "variances": [0.1, 0.2]}},
        {"surprise": 1},
        {1: 2},
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[Any, Any]) -> None:
    with pytest.raises(InputRefused):
        build("mos", arguments)


def test_example_input_is_seeded_and_normalised() -> None:
    network = lively()
    a, b, c = (network.example_input(2, seed) for seed in (0, 0, 1))
    assert a.shape == (2, 3, *SIZE) and torch.equal(a, b) and not torch.equal(a, c)
    assert a.min() >= -123 and a.max() <= 255 - 104
