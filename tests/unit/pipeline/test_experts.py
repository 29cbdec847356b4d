"""Experts on their way to ONNX, and published M3ViT files through ``import``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import published_m3vit
from support.dense_family import build
from support.m3vit import tiny
from support.published_m3vit import encoder_state, in_ranks, random_state

from edgemtl import targets
from edgemtl.data.calibration import embedded
from edgemtl.data.concat import concatenate
from edgemtl.data.preprocess import letterbox
from edgemtl.errors import InputRefused, UsageError
from edgemtl.exporting.onnx_export import export_onnx
from edgemtl.exporting.parity import onnx_runner
from edgemtl.measure.accuracy import evaluate, network_runner
from edgemtl.models.checkpoint import load_network
from edgemtl.models.m3vit.network import OVERFLOW, M3ViT
from edgemtl.pipeline import experts as pipeline
from edgemtl.pipeline.experts import ExpertsChoice, check_experts, experts_told, prepare_experts
from edgemtl.pipeline.importing import ImportOptions, import_file, parse_size
from edgemtl.recipes import ExportSection, Recipe

ROOMS = embedded({"depth"}, "train").subset([0, 1, 2])
SMALL = replace(published_m3vit.SMALL, tasks={"semseg": 3, "depth": 1})


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ({"experts": "gather"}, "export.experts"),
        ({"experts": "static"}, "export.experts"),
        ({"drop_experts": True}, "export.drop_experts"),
    ],
)
def test_experts_that_cannot_be_written_so_are_refused(asked: dict[str, Any], key: str) -> None:
    recipe = Recipe(export=ExportSection(**asked))
    check_experts(tiny(experts=4), recipe)
    with pytest.raises(UsageError, match="no mixture of experts") as error:
        check_experts(build(), recipe)
    assert error.value.where == key
    check_experts(build(), Recipe(export=ExportSection(experts="dense", drop_experts=False)))


def test_unused_experts_go_and_the_answers_stay() -> None:
    network = tiny(experts=16)
    choice = ExpertsChoice("sorted", drop_unused=True, images=3, headroom=1.25)
    prepared, facts = prepare_experts(network, ["distance"], choice, ROOMS)
    assert facts["dropped"] > 0 and f"{facts['dropped']} that no" in experts_told(facts)
    assert facts["dropped"] == sum(16 - len(layer) for layer in facts["kept"])
    for layer, kept in zip(facts["tokens"], facts["kept"], strict=True):
        assert [number for number, count in enumerate(layer) if count] == kept
        assert sum(layer) == 3 * 9 * 2, "three pictures of nine tokens, two experts each"
    wanted = evaluate(
        network_runner(network, ["distance"]), network.tasks[-1:], network.input_spec, ROOMS
    )
    found = evaluate(
        network_runner(prepared, ["distance"]), network.tasks[-1:], network.input_spec, ROOMS
    )
    assert found.tasks["distance"].values["rmse_m"] == pytest.approx(
        wanted.tasks["distance"].values["rmse_m"], rel=1e-5
    )
    assert found.tasks["distance"].note == ""


def test_all_experts_stay_when_nobody_asked() -> None:
    choice = ExpertsChoice("gather", drop_unused=False, images=1, headroom=1.0)
    prepared, facts = prepare_experts(tiny(experts=16), ["distance"], choice, ROOMS)
    assert facts["dropped"] == 0 and OVERFLOW not in prepared.output_names()


def test_static_queues_have_room_for_what_was_seen() -> None:
    network, tasks = tiny(), ["rooms", "distance"]
    choice = ExpertsChoice("static", drop_unused=False, images=3, headroom=1.0)
    prepared, facts = prepare_experts(network, tasks, choice, ROOMS)
    assert all(capacity % 8 == 0 for layer in facts["capacity"] for capacity in layer)
    told = " | ".join(", ".join(map(str, layer)) for layer in facts["capacity"])
    assert f"room for {told} tokens" in experts_told(facts)
    run = network_runner(prepared, tasks)
    report = evaluate(run, network.tasks[2:], network.input_spec, ROOMS)
    assert report.tasks["distance"].note == ""
    assert isinstance(prepared, M3ViT)
    prepared.set_lowering("static", 1)
    report = evaluate(run, network.tasks[2:], network.input_spec, ROOMS)
    assert (
        "3 of 3 pictures chose an expert that was dropped or full" in report.tasks["distance"].note
    )


@pytest.mark.parametrize("drop", [False, True])
def test_every_expert_has_the_room_that_it_needed(drop: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(pipeline, "CAPACITY_MULTIPLE", 1)
    monkeypatch.setattr(pipeline, "DEVIATIONS", 0.0)
    network = tiny(experts=16)
    tasks = ["rooms", "distance"]
    choice = ExpertsChoice("static", drop_unused=drop, images=3, headroom=1.0)
    prepared, facts = prepare_experts(network, tasks, choice, ROOMS)
    assert isinstance(prepared, M3ViT)
    seen = []
    for sample in ROOMS:
        canvas = torch.from_numpy(letterbox(sample.image, network.input_spec)[0])[None]
        seen.append([use.queues for use in network.expert_use(canvas, tasks)])
        with torch.no_grad():
            assert float(prepared(canvas, tasks)[OVERFLOW]) == 0
    for layer, (lengths, kept) in enumerate(zip(facts["capacity"], facts["kept"], strict=True)):
        longest = torch.stack([image[layer] for image in seen]).amax(dim=0)[kept]
        assert lengths == longest.clamp(min=1).tolist() and len(set(lengths)) > 1
    assert drop == (facts["dropped"] > 0) == (len(facts["capacity"][0]) < 16)
    # with a place less for any of them some picture misses it
    for layer, lengths in enumerate(facts["capacity"]):
        place = max(range(len(lengths)), key=lengths.__getitem__)
        shorter = [list(other) for other in facts["capacity"]]
        shorter[layer][place] -= 1
        prepared.set_lowering("static", shorter)
        lost = 0.0
        for sample in ROOMS:
            canvas = torch.from_numpy(letterbox(sample.image, network.input_spec)[0])[None]
            with torch.no_grad():
                lost += float(prepared(canvas, tasks)[OVERFLOW])
        assert lost > 0


@pytest.mark.parametrize(
    ("lengths", "headroom", "room"),
    [
        ([30, 30, 30], 1.0, 32),
        ([33, 33, 33], 1.0, 40),
        ([30, 30, 30], 1.25, 40),
        ([0, 0, 0], 1.0, 8),
        ([20], 1.0, 24),  # a single picture says nothing of how much they differ
        ([10, 20, 30, 20], 1.0, 48),  # mean 20, deviation 8.2: more than the longest
    ],
)
def test_room_for_a_queue(lengths: list[int], headroom: float, room: int) -> None:
    assert pipeline._capacity(torch.tensor(lengths), headroom) == room


def test_images_that_count_are_spread_over_all_data_sets() -> None:
    """Tasks are labelled in different folders, one of which comes first."""
    network = tiny(experts=16)
    choice = ExpertsChoice("sorted", drop_unused=False, images=2, headroom=1.0)
    parts = [ROOMS.subset([0, 1]), ROOMS.subset([2, 2])]
    _, facts = prepare_experts(network, ["distance"], choice, concatenate(parts))
    _, both = prepare_experts(network, ["distance"], choice, ROOMS.subset([0, 2]))
    assert facts["tokens"] == both["tokens"]


@pytest.mark.parametrize("lowering", ["gather", "sorted", "static"])
def test_a_dropped_expert_is_told_by_the_exported_graph(lowering: Any, tmp_path: Path) -> None:
    network = tiny(depth=2).keeping_experts([[0, 2, 5]])
    network.set_lowering(lowering)
    path = export_onnx(network, tmp_path / "net.onnx", opset=17, tasks=["distance"]).path
    images = network.example_input(seed=1)
    with torch.no_grad():
        wanted = network(images, ["distance"])
    found = onnx_runner(path)(images.numpy())
    assert float(wanted[OVERFLOW]) > 0
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["file", "module.", "ranks"])
def test_published_layouts_import(layout: str, tmp_path: Path) -> None:
    state = random_state(SMALL)
    source = tmp_path / "net.pth.tar"
    if layout == "ranks":
        source.mkdir()
        for number, rank in enumerate(in_ranks(SMALL, state, 2)):
            torch.save({"state_dict": rank}, source / f"{number}.pth")
    else:
        prefix = "module." if layout == "module." else ""
        torch.save({"state_dict": {prefix + k: v for k, v in state.items()}}, source)
    options = ImportOptions(size=(32, 64), top_k=2, heads=4)
    found = import_file(source, "m3vit", tmp_path / "model.pt", options)
    assert found["tasks"] == ["semseg", "depth"] and found["notes"] == []
    network = load_network(tmp_path / "model.pt")
    assert network.input_spec.size == (32, 64) and network.arguments["top_k"] == 2
    weight = network.state_dict()["backbone.blocks.3.mlp.experts.weight_in"]
    assert torch.equal(weight, state["backbone.blocks.3.mlp.experts.htoh4.weight"])


def test_an_encoder_becomes_a_network_with_untrained_decoders(tmp_path: Path) -> None:
    source = tmp_path / "encoder.pth"
    encoder = encoder_state(SMALL, side=3)
    torch.save({"model": encoder}, source)
    options = ImportOptions("imagenet-nyud", (32, 64), top_k=2, heads=4)
    found = import_file(source, "m3vit", tmp_path / "model.pt", options)
    assert found["tasks"] == ["semseg", "depth"] and "random weights" in found["notes"][0]
    state = load_network(tmp_path / "model.pt").state_dict()
    for gate in ("semseg", "depth"):
        weight = state[f"backbone.blocks.1.mlp.gates.{gate}.score.weight"]
        assert torch.equal(weight, encoder["blocks.1.mlp.gate.w_gate"].t())
    with pytest.raises(InputRefused, match="cls_token"):
        torch.save(random_state(SMALL), source)
        import_file(source, "m3vit", tmp_path / "model.pt", options)


def test_what_an_import_does_not_know_is_asked_for(tmp_path: Path) -> None:
    source = tmp_path / "net.pth"
    torch.save(random_state(SMALL), source)
    with pytest.raises(InputRefused, match="which input size"):
        import_file(source, "m3vit", tmp_path / "m.pt", ImportOptions(top_k=2, heads=4))
    with pytest.raises(InputRefused, match="heads"):
        import_file(source, "m3vit", tmp_path / "m.pt", ImportOptions(size=(32, 64)))
    with pytest.raises(InputRefused, match="5 of 4 experts"):
        import_file(source, "m3vit", tmp_path / "m.pt", ImportOptions(None, (32, 64), 5, 4))
    with pytest.raises(UsageError, match="no preset 'nyud'"):
        import_file(source, "m3vit", tmp_path / "m.pt", ImportOptions("nyud"))
    assert not (tmp_path / "m.pt").exists()


def test_sizes_are_read() -> None:
    assert parse_size("640") == (640, 640) and parse_size("480x640") == (480, 640)
    for wrong in ("", "x", "480x", "31", "480x640x3", "-5", "99999"):
        with pytest.raises(UsageError, match="is not a size"):
            parse_size(wrong)


def test_fewer_gates_than_published_are_refused(tmp_path: Path) -> None:
    state = random_state(replace(SMALL, gating="per_task"))
    del state["backbone.blocks.3.mlp.gate.1.w_gate"]
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(InputRefused, match="1 keys missing"):
        import_file(
            tmp_path / "net.pth", "m3vit", tmp_path / "m.pt", ImportOptions(None, (32, 64), 2, 4)
        )


def test_targets_with_static_shapes_get_static_experts() -> None:
    """Neither TensorRT nor TVM takes queues whose length depends on the picture."""
    every = [targets.load(name) for name in targets.names()]
    found = {target.experts for target in every if target.backend in ("fpga", "tensorrt", "tvm")}
    assert found == {"static"}
