"""Importers: every published key, the same numbers, and clear refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import published_mos
from support.shared import data_folder, published_shapes
from torch import Tensor

from edgemtl.data.faces import FaceFolder
from edgemtl.errors import InputRefused
from edgemtl.measure.accuracy import evaluate, network_runner
from edgemtl.models.checkpoint import load_tensors
from edgemtl.models.mos.importers import (
    RETINAFACE_PRESETS,
    imagenet_backbone,
    import_published_mos,
    import_retinaface,
    mobilenet_v1_names,
    mobilenet_v2_names,
    retinaface_names,
)
from edgemtl.models.mos.network import MOS

OUTPUTS = {
    "detection.scores": "ClassHead",
    "detection.boxes": "BboxHead",
    "landmarks.points": "LandmarkHead",
    "pose.yaw": "PoseHead_y",
    "pose.pitch": "PoseHead_p",
    "pose.roll": "PoseHead_r",
}
COUNTS = {"mos-m": 717, "mos-s": 741}


@pytest.fixture(scope="module", params=["mos-m", "mos-s"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_generated_names_are_as_many_as_published(variant: str) -> None:
    assert len(published_mos.shapes(variant)) == COUNTS[variant]


def test_the_generated_names_are_the_published_ones(variant: str) -> None:
    listed = published_shapes(f"{variant.replace('-', '_')}_keys.txt")
    assert listed == published_mos.shapes(variant)


def test_an_imported_network_computes_what_the_published_one_does(variant: str) -> None:
    """All outputs, from backbone to heads, against the description read off the key names."""
    state = published_mos.random_state(variant)
    network = import_published_mos(state, variant)
    assert not network.training
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2
    with torch.inference_mode():
        ours, theirs = network(images), published_mos.Published(state, variant)(images)
    for name, head in OUTPUTS.items():
        scale = theirs[head].abs().max().item()
        assert 0.05 < scale < 1e4, f"{head} must be alive for the comparison to mean something"
        assert (ours[name] - theirs[head]).abs().max().item() < 2e-4 * scale, name


def test_the_swap_of_class_and_box_is_kept() -> None:
    """One level by hand: the class head is fed by the convolution named after the box head."""
    state = published_mos.random_state("mos-m")
    network = import_published_mos(state, "mos-m")
    x = torch.randn(1, 64, 3, 4, generator=torch.Generator().manual_seed(2))
    published = published_mos.Published(state, "mos-m")
    with torch.inference_mode():
        level: dict[str, Tensor] = network.levels[1](x, ["class", "box"])
        wanted = published.heads(x, 1)
    torch.testing.assert_close(level["class"], wanted["ClassHead"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(level["box"], wanted["BboxHead"], rtol=1e-4, atol=1e-4)
    # Without the swap the numbers differ: the test could fail.
    swapped = dict(state)
    for part in ("weight", "bias"):
        a, b = (f"stitch_{n}.1.conv1x1.{part}" for n in ("BboxHead", "classhead"))
        swapped[a], swapped[b] = state[b], state[a]
    with torch.inference_mode():
        other = published_mos.Published(swapped, "mos-m").heads(x, 1)
    assert (other["ClassHead"] - level["class"]).abs().max() > 0.01


def test_every_published_key_is_used_or_dropped_by_name() -> None:
    """Changing any tensor but the never-executed one changes the imported weights."""
    state = published_mos.random_state("mos-m")
    network = import_published_mos(state, "mos-m")
    kept = sum(value.numel() for value in network.state_dict().values())
    dropped = [name for name in state if name.startswith("Conv_pose.")]
    assert len(dropped) == 6
    assert kept == sum(v.numel() for name, v in state.items() if name not in dropped)
    sums = sorted(round(v.double().sum().item(), 3) for v in state.values() if v.ndim == 4)
    for name in dropped:
        if state[name].ndim == 4:
            sums.remove(round(state[name].double().sum().item(), 3))
    found = [v.double().sum().item() for v in network.state_dict().values() if v.ndim == 4]
    assert sorted(round(v, 3) for v in found) == sums


@pytest.mark.parametrize("wrap", ["plain", "module", "state_dict", "both"])
def test_the_usual_wrappings_are_taken_off(wrap: str) -> None:
    state: dict[str, Any] = published_mos.random_state("mos-m")
    wanted = import_published_mos(state, "mos-m").state_dict()
    if wrap in ("module", "both"):
        state = {f"module.{name}": value for name, value in state.items()}
    if wrap in ("state_dict", "both"):
        state = {"state_dict": state, "epoch": 3}
    found = import_published_mos(state, "mos-m").state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_old_files_without_batch_counters_are_taken() -> None:
    state = published_mos.random_state("mos-m")
    older = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        a, b = (import_published_mos(s, "mos-m")(images) for s in (state, older))
    assert torch.equal(a["pose.yaw"], b["pose.yaw"])


@pytest.mark.parametrize(
    "key",
    [
        "body.feature_4.2.conv.1.0.weight",
        "ssh2.conv7x7_3.conv.bias",
        "cross_stitch.fpn3.cross_stitch_unit.pose_y.bboxhead.param",
        "PoseHead_r.2.Conv_pose.1.running_var",
    ],
)
def test_a_missing_misshaped_or_broken_tensor_refuses_the_file(key: str) -> None:
    state = published_mos.random_state("mos-m")
    without = {name: value for name, value in state.items() if name != key}
    with pytest.raises(InputRefused):
        import_published_mos(without, "mos-m")
    with pytest.raises(InputRefused):
        import_published_mos({**state, key: torch.zeros(7)}, "mos-m")
    with pytest.raises(InputRefused, match="NaN"):
        import_published_mos({**state, key: torch.full_like(state[key], float("nan"))}, "mos-m")


def test_files_of_another_layout_are_refused() -> None:
    state = published_mos.random_state("mos-m")
    with pytest.raises(InputRefused, match="right family and preset"):
        import_published_mos(state, "mos-s")
    with pytest.raises(InputRefused, match=r"1 unknown, first unknown 'stranger'"):
        import_published_mos({**state, "stranger": torch.ones(1)}, "mos-m")
    with pytest.raises(InputRefused, match="right family and preset"):
        import_retinaface(state, "retinaface-rgb-leaky")
    with pytest.raises(InputRefused, match=r"unknown preset 'x'.*retinaface-rgb-leaky"):
        import_retinaface(state, "x")
    with pytest.raises(InputRefused, match="right family and preset"):
        imagenet_backbone(MOS("mos-m", "plain"), state)


@pytest.mark.parametrize("payload", [None, 3, [], {}, {"a": 1}, {"state_dict": {}}, "weights"])
def test_what_is_no_state_dict_is_refused(payload: Any) -> None:
    for load in (
        lambda: import_published_mos(payload, "mos-m"),
        lambda: import_retinaface(payload, "retinaface-bgr-relu"),
        lambda: imagenet_backbone(MOS("mos-t", "plain"), payload),
    ):
        with pytest.raises(InputRefused, match="state dict"):
            load()


def test_presets_say_what_the_file_does_not() -> None:
    rgb, bgr = (
        import_retinaface(_retinaface_state(), name, (64, 96))
        for name in ("retinaface-rgb-leaky", "retinaface-bgr-relu")
    )
    assert rgb.input_spec.channel_order == "rgb" and rgb.input_spec.mean == (123.0, 117.0, 104.0)
    assert bgr.input_spec.channel_order == "bgr" and bgr.input_spec.mean == (104.0, 117.0, 123.0)
    anchors = [network.arguments["anchors"]["sizes"] for network in (rgb, bgr)]
    assert anchors == [
        [[16, 32], [64, 128], [256, 512]],
        [[10, 20], [32, 64], [128, 256]],
    ]
    assert [network.arguments["activation"] for network in (rgb, bgr)] == ["leaky_relu", "relu"]
    assert rgb.output_names() == ("detection.scores", "detection.boxes", "landmarks.points")
    assert rgb.input_spec.size == (64, 96)


def _retinaface_state() -> dict[str, Tensor]:
    """Random weights under RetinaFace's names."""
    network = MOS("mos-t", "plain", tasks=("detection", "landmarks"), stitch="none")
    values = network.state_dict()
    return {theirs: values[ours].clone() for theirs, ours in retinaface_names().items()}


@pytest.mark.parametrize(
    ("variant", "backbone", "names"),
    [("mos-m", "features.18.0.weight", mobilenet_v2_names()),
     ("mos-t", "module.fc.weight", mobilenet_v1_names())],
)  # fmt: skip
def test_imagenet_weights_reach_the_backbone_alone(
    variant: str, backbone: str, names: dict[str, str]
) -> None:
    network = MOS(variant, "plain", size=(64, 96))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prefix = "module." if backbone.startswith("module.") else ""
    state = {prefix + k: torch.full_like(before[ours], 2) for k, ours in names.items()}
    state[backbone] = torch.ones(3)
    imagenet_backbone(network, state)
    for name, value in network.state_dict().items():
        if name.startswith("backbone."):
            assert bool((value == 2).all()), name
        else:
            assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("variant", "file"),
    [("mos-m", "mobilenet_v2-b0353104.pth"), ("mos-t", "mobilenetv1_x025_imagenet.tar")],
)
def test_the_real_imagenet_files_are_taken(variant: str, file: str) -> None:
    network = MOS(variant, "plain", size=(64, 96))
    before = network.backbone.stem.conv.weight.clone()  # type: ignore[union-attr]
    imagenet_backbone(network, load_tensors(data_folder("weights", file)))
    assert not torch.equal(network.backbone.stem.conv.weight, before)  # type: ignore[union-attr]


def test_the_right_retinaface_preset_detects_and_the_wrong_one_does_not() -> None:
    """Both pairings load without an error, so only accuracy tells them apart."""
    crowd = FaceFolder.open(data_folder("faces_crowd"), "val")
    crowd = crowd.subset(range(0, 120, 4))
    reached: dict[tuple[str, str], float] = {}
    for right in RETINAFACE_PRESETS:
        file = f"retinaface_mobilenet025_{right.removeprefix('retinaface-').replace('-', '_')}.pth"
        payload = load_tensors(data_folder("weights", file))
        for preset in RETINAFACE_PRESETS:
            network = import_retinaface(payload, preset, (320, 320))
            report = evaluate(
                network_runner(network, ["detection"]),
                [network.task("detection")],
                network.input_spec,
                crowd,
            )
            value = report.tasks["detection"].values["ap_20px"]
            assert value is not None
            reached[right, preset] = value
    for right in RETINAFACE_PRESETS:
        for preset in RETINAFACE_PRESETS:
            if preset == right:
                assert reached[right, preset] > 0.5, reached
            else:
                assert reached[right, preset] < 0.75 * reached[right, right], reached
