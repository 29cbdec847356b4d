"""Groups of the project's own families and of the foreign test networks."""

from __future__ import annotations

import pytest
import torch
from support import dense_family, vit_family
from support.pruning import GROUPS, NETWORKS, SIZE, networks

from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.groups import ChannelGroup, Member, snapped_widths
from edgemtl.errors import UsageError
from edgemtl.models import MultiTaskNetwork
from edgemtl.models.mos.network import MOS


def of(name: str) -> dict[str, ChannelGroup]:
    return {group.name: group for group in GROUPS[name]}


def tensors(group: ChannelGroup) -> set[tuple[str, int]]:
    return {(member.tensor, member.dim) for member in group.members}


@pytest.mark.parametrize("name", NETWORKS)
def test_members_partition_what_they_shrink(name: str) -> None:
    network = NETWORKS[name]
    held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    taken: set[tuple[str, int, int]] = set()
    for group in GROUPS[name]:
        assert group.width >= 2 and group.tasks
        assert group.with_role("producer") and group.with_role("consumer")
        for member in group.members:
            assert len(member.positions) == group.width * member.per_unit
            places = {(member.tensor, member.dim, position) for position in member.positions}
            assert len(places) == len(member.positions) and not places & taken
            assert max(member.positions) < held[member.tensor].shape[member.dim]
            taken |= places


@pytest.mark.parametrize("name", NETWORKS)
def test_names_are_unique_and_the_network_is_untouched(name: str) -> None:
    network = NETWORKS[name]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    again = channel_groups(network)
    assert again == GROUPS[name]
    assert len({group.name for group in again}) == len(again)
    assert not any(module._forward_pre_hooks for module in network.modules())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


def test_residual_and_depthwise_of_mobilenet() -> None:
    groups = of("mos-m")
    expand = groups["backbone.stages.0.1.expand.conv"]
    assert ("backbone.stages.0.1.depthwise.conv.weight", 0) in tensors(expand)
    assert ("backbone.stages.0.1.project.conv.weight", 1) in tensors(expand)
    assert [(a.module, a.name, a.per_unit) for a in expand.attributes] == [
        ("backbone.stages.0.1.depthwise.conv", "groups", 1)
    ]
    # Blocks 3, 4 and 5 of the first stage add up, and what they add leaves for the pyramid.
    sums = groups["backbone.stages.0.3.project.conv"]
    assert {m.tensor for m in sums.with_role("producer")} == {
        f"backbone.stages.0.{block}.project.conv.weight" for block in (3, 4, 5)
    }
    assert {m.tensor for m in sums.with_role("consumer")} == {
        "backbone.stages.0.4.expand.conv.weight",
        "backbone.stages.0.5.expand.conv.weight",
        "backbone.stages.1.0.expand.conv.weight",
        "fpn.lateral.0.conv.weight",
    }


def test_pyramid_and_side_by_side_context() -> None:
    groups = of("mos-t")
    coarse = groups["fpn.lateral.1.conv"]  # laterals 1 and 2 meet in the sum after upsampling
    assert ("fpn.lateral.2.conv.weight", 0) in tensors(coarse)
    assert ("context.2.conv3.conv.weight", 1) in tensors(coarse)
    assert groups["context.0.conv3.conv"].width == 32
    assert groups["context.0.conv5_2.conv"].width == 16
    reader = next(
        m for m in groups["context.0.conv5_2.conv"].members if "stitch.convs.class" in m.tensor
    )
    assert reader.positions == tuple(range(32, 48))


def test_cross_stitch_ties_its_streams() -> None:
    stitch = of("mos-t")["levels.0.stitch.convs.class"]
    streams = ("class", "box", "landmark", "yaw", "pitch", "roll")
    assert stitch.width == 64
    assert {m.tensor for m in stitch.with_role("producer")} == {
        f"levels.0.stitch.convs.{name}.weight" for name in streams
    }
    assert ("levels.0.stitch.mix", 2) in tensors(stitch)


def test_deformable_convolutions_lose_inputs_and_never_offsets() -> None:
    groups = GROUPS["mos-t-deformable"]
    shrunk = {key for group in groups for key in tensors(group)}
    offsets = {key for key in shrunk if "offset_mask" in key[0]}
    inputs = {key for key in offsets if key[0].endswith("weight") and key[1] == 1}
    assert inputs and offsets == inputs
    merged = of("mos-t-deformable")["fpn.merge.0.conv"]
    assert {("fpn.merge.0.conv.weight", 0), ("fpn.merge.0.conv.bias", 0)} <= tensors(merged)


def test_shuffle_units_keep_their_halves_alike() -> None:
    groups = of("mos-s")
    assert groups["backbone.stages.0.1.branch.0.conv"].width == 58
    stage = groups["backbone.stages.2.0.shortcut.1.conv"]
    first = next(m for m in stage.members if m.tensor.endswith("2.0.shortcut.1.conv.weight"))
    assert stage.channels_per_unit == first.per_unit == 8 and stage.width == 29
    assert sorted(first.positions) == list(range(232))


def test_transformer_heads_and_hidden_units() -> None:
    groups = of("tiny-vit")
    heads = groups["blocks.0.attn.qkv"]
    assert (heads.width, heads.channels_per_unit) == (4, 6)
    assert [(a.module, a.name) for a in heads.attributes] == [("blocks.0.attn", "heads")]
    qkv = next(m for m in heads.members if m.tensor.endswith("qkv.weight"))
    assert qkv.of(1) == tuple(start + place for start in (0, 24, 48) for place in range(6, 12))
    assert groups["blocks.1.mlp.0"].width == 72
    # The width of tokens passes layer norms, whose statistics depend on it: it stays.
    assert "patch" not in groups


def test_experts_that_share_a_weight_shrink_together() -> None:
    experts = of("m3vit")["backbone.blocks.1.mlp.experts"]
    assert (experts.width, experts.tasks) == (24, ("rooms", "facing", "distance"))
    assert [(m.tensor.rpartition(".")[2], m.dim, m.role) for m in experts.members] == [
        ("weight_in", 1, "producer"),
        ("bias_in", 1, "follower"),
        ("weight_out", 2, "consumer"),
    ]
    # How many experts there are, and what a gate reads, stays.
    shrunk = {m.tensor for g in GROUPS["m3vit"] for m in g.members}
    assert not any(".gates." in name for name in shrunk)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_keep_their_width(name: str) -> None:
    network = NETWORKS[name]
    produced = {m.tensor for g in GROUPS[name] for m in g.with_role("producer")}
    last = {
        "tiny-dense": {"decoders.parts.out.weight", "decoders.distance.out.weight"},
        "tiny-vit": {"decoders.parts.3.weight", "decoders.distance.3.weight"},
        "m3vit": {f"decoders.{task.name}.classifier.weight" for task in network.tasks},
    }.get(name, {key for key, _ in network.named_parameters() if key.endswith("out.weight")})
    if isinstance(network, MOS):
        last |= {f"levels.{i}.heads.{s}.weight" for i in range(3) for s in ("class", "box")}
    assert last and not produced & last
    assert last <= dict(network.named_parameters()).keys()


def test_tasks_are_those_whose_outputs_need_the_group() -> None:
    mos = of("mos-m")
    assert mos["backbone.stem.conv"].tasks == ("detection", "landmarks", "pose")
    assert mos["levels.2.heads.yaw.hidden.conv"].tasks == ("pose",)
    dense = of("tiny-dense")
    assert dense["decoders.parts.refine.conv"].tasks == ("parts",)
    assert dense["decoders.distance.refine.conv"].tasks == ("distance",)


def test_groups_of_some_tasks_only() -> None:
    network = dense_family.build()
    names = {group.name for group in channel_groups(network, tasks=["distance"])}
    assert "decoders.distance.refine.conv" in names and "stem.conv" in names
    assert "decoders.parts.refine.conv" not in names
    with pytest.raises(UsageError):
        channel_groups(network, tasks=["nothing"])


def test_groups_do_not_depend_on_the_mode() -> None:
    network = vit_family.build()
    expected = channel_groups(network)
    network.train()
    assert channel_groups(network) == expected
    assert network.training


@pytest.mark.parametrize("name", ["mos-s", "tiny-dense"])
def test_groups_do_not_depend_on_the_memory_format(name: str) -> None:
    network = networks()[name].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert channel_groups(network) == GROUPS[name]


def group(width: int, per_unit: int = 1) -> ChannelGroup:
    positions = tuple(range(width * per_unit))
    return ChannelGroup("g", width, (Member("w", 0, "producer", per_unit, positions),), ("t",))


@pytest.mark.parametrize(
    ("width", "per_unit", "multiple", "expected"),
    [
        (32, 1, 8, [8, 16, 24, 32]),
        (58, 1, 16, [16, 32, 48, 58]),
        (960, 1, 160, [160, 320, 480, 640, 800, 960]),
        (256, 1, 16, list(range(32, 257, 16))),  # the floor is 12.5 %
        (6, 1, 8, [6]),
        (5, 1, 1, [1, 2, 3, 4, 5]),
        (12, 32, 8, list(range(2, 13))),  # heads of 32 channels are multiples themselves
        (29, 8, 16, [*range(4, 29, 2), 29]),
        (4, 6, 8, [4]),
    ],
)
def test_snapped_widths(width: int, per_unit: int, multiple: int, expected: list[int]) -> None:
    assert snapped_widths(group(width, per_unit), multiple) == expected


def test_images_of_another_size_give_the_same_groups() -> None:
    network: MultiTaskNetwork = MOS(variant="mos-t", context="plain", size=(96, SIZE[1]))
    assert [g.name for g in channel_groups(network)] == [g.name for g in GROUPS["mos-t"]]
