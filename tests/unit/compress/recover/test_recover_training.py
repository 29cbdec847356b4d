"""Recovery training: it helps, it resumes to the same weights, its start is never lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.data import write_dense_folder, write_face_folder
from support.dense_family import TinyDense, build
from support.matrix import only

from edgemtl.compress.augmentation import prepare_all
from edgemtl.compress.batches import images_of, targets_of
from edgemtl.compress.distillation import SharedFeatures, feature_loss
from edgemtl.compress.recover import RecoverOptions, RecoverResult, Recovery, recover
from edgemtl.compress.recover.options import Train
from edgemtl.compress.recover.trainer import Trainer
from edgemtl.data.dense import DenseFolder
from edgemtl.data.faces import FaceFolder
from edgemtl.errors import StageFailed
from edgemtl.logs import Lines
from edgemtl.models.mos.network import MOS

OPTIONS = RecoverOptions(steps=6, batch=4, evaluate_every=3, warmup=2, ema=0.5, learning_rate=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> DenseFolder:
    root = write_dense_folder(tmp_path_factory.mktemp("dense"), "train", count=16, seed=5)
    return DenseFolder.open(root, "train")


def _spoilt(seed: int, network: TinyDense | None = None) -> TinyDense:
    network = copy.deepcopy(network) if network is not None else build(0)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += 0.3 * parameter.abs().mean() * noise
    return network


def test_training_brings_the_student_closer_to_the_teacher(folder: DenseFolder) -> None:
    teacher = build(0)
    images = images_of(prepare_all(folder, teacher.tasks, teacher.input_spec, 0))
    with torch.no_grad():
        for _ in range(60):  # its batch statistics become those of pictures
            teacher.train()(images)
    student = _spoilt(1, teacher.eval())
    # The teacher was never trained: its answers, not the labels, are to be learnt here.
    options = replace(OPTIONS, steps=16, answers=100.0, evaluate_every=8, patience=9)

    def distance() -> float:
        with torch.no_grad():
            wanted, found = teacher(images), student.eval()(images)
        return sum(float(task.distil(found, wanted, None)) for task in teacher.tasks)

    before = distance()
    recovery = Recovery(student, teacher, folder, folder.subset(range(4)), options)
    result = recovery.run()
    assert result.steps == 16 and [step for step, _ in result.drops] == [0, 8, 16]
    assert not student.training
    worst = {step: max(drops.values()) for step, drops in result.drops}
    assert result.best_step == min(worst, key=lambda step: worst[step])
    (stage,) = result.stages
    assert (stage.trains, stage.taken, stage.rate) == ("all", 16, 1e-3)
    assert len(stage.trials) == 2  # with and without the statistics of the batches
    student.load_state_dict(recovery.weights.average.state_dict())
    assert distance() < before
    assert set(result.to_dict()["after"]) == {"parts", "distance"}


class Killed(Exception):
    pass


def _kinds(train: Train) -> RecoverOptions:
    enough = {"parts": -99.0} if train == "auto" else {}
    return replace(OPTIONS, learning_rate=None, train=train, enough=enough)


@pytest.fixture(scope="module")
def finished(folder: DenseFolder) -> Callable[[Train], tuple[TinyDense, RecoverResult]]:
    """What nobody kills, for each kind of training once."""

    @cache
    def train(kind: Train) -> tuple[TinyDense, RecoverResult]:
        whole = _spoilt(2)
        return whole, recover(whole, build(0), folder, folder.subset(range(4)), _kinds(kind))

    return train


@pytest.mark.parametrize(
    ("train", "after"),
    only(
        [("all", 1), ("all", 12), ("auto", 15), ("auto", 27)],
        [*(("all", n) for n in (1, 6, 9, 12, 15, 19)), *(("auto", n) for n in (9, 15, 19, 23, 27))],
    ),
)
def test_a_killed_training_goes_on_to_the_same_weights(
    train: Train,
    after: int,
    folder: DenseFolder,
    finished: Callable[[Train], tuple[TinyDense, RecoverResult]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed while moments are warmed, in a trial of rates, between steps, in a later stage."""
    monkeypatch.setattr("edgemtl.compress.recover.training.SAVE_EVERY", 2)
    monkeypatch.setattr("edgemtl.compress.recover.trial.RATES", (1e-3, 1e-4))
    monkeypatch.setattr("edgemtl.compress.recover.training.RATES", (1e-3, 1e-4))
    options, teacher, held_out = _kinds(train), build(0), folder.subset(range(4))
    whole, expected = finished(train)

    original, count = Trainer.step, 0

    def killed(self: Trainer, *args: Any) -> None:
        nonlocal count
        count += 1
        if count == after:
            raise Killed
        original(self, *args)

    state = tmp_path / "state.pt"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", killed)
        with pytest.raises(Killed):
            recover(_spoilt(2), teacher, folder, held_out, options, state)
    lines: list[str] = []
    part = _spoilt(2)
    with Lines(lines.append).shown():
        result = recover(part, teacher, folder, held_out, options, state)
    assert any(line.startswith("recovery goes on from step") for line in lines)
    assert (result.drops, result.best_step) == (expected.drops, expected.best_step)
    tried = [[(t.rate, t.frozen, t.score) for t in one.trials] for one in expected.stages]
    assert [[(t.rate, t.frozen, t.score) for t in one.trials] for one in result.stages] == tried
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(part.state_dict()[name], value, rtol=0, atol=0)


def test_what_an_earlier_version_left_is_not_gone_on_from(
    folder: DenseFolder, tmp_path: Path
) -> None:
    state = tmp_path / "state.pt"
    torch.save({"progress": {"step": 3}}, state)
    lines: list[str] = []
    with Lines(lines.append).shown():
        result = recover(_spoilt(2), build(0), folder, folder.subset(range(3)), OPTIONS, state)
    assert any("starts anew" in line for line in lines) and result.steps == 6


def test_a_training_that_cannot_begin_says_so(folder: DenseFolder) -> None:
    student = _spoilt(3)
    with torch.no_grad():
        student.stem.conv.weight.fill_(float("nan"))
    with pytest.raises(StageFailed, match="not finite before the first step"):
        recover(student, build(0), folder, folder.subset(range(3)), OPTIONS)


@pytest.mark.parametrize("rate", [10.0, 1e30])
def test_an_absurd_rate_costs_nothing(rate: float, folder: DenseFolder) -> None:
    student = _labelled_start(folder)
    before = copy.deepcopy(student.state_dict())
    options = replace(OPTIONS, learning_rate=rate)
    result = recover(student, copy.deepcopy(student), folder, folder.subset(range(6)), options)
    assert result.best_step == 0 and result.after == result.before
    for name, value in before.items():
        torch.testing.assert_close(student.state_dict()[name], value, rtol=0, atol=0)


def _labelled_start(folder: DenseFolder) -> TinyDense:
    """A network that has learnt the pictures a little, so that random steps make it worse."""
    network = build(0)
    options = replace(OPTIONS, steps=30, answers=0.0, evaluate_every=30, learning_rate=3e-3)
    recover(network, build(0), folder, folder.subset(range(6)), options)
    return network


def test_where_every_step_hurts_none_is_taken(
    folder: DenseFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgemtl.compress.recover.training.RATES", (3.0, 1.0))
    student = _labelled_start(folder)
    options = replace(OPTIONS, learning_rate=None)
    result = recover(student, copy.deepcopy(student), folder, folder.subset(range(6)), options)
    (stage,) = result.stages
    assert [trial.rate for trial in stage.trials] == [3.0, 1.0, 0.125]
    assert all(trial.score > 0 for trial in stage.trials)
    assert (result.steps, result.best_step, stage.rate) == (0, 0, 0.0)
    assert stage.ended == "no rate was better than no step"


def test_timing_leaves_the_network_as_it_was(folder: DenseFolder) -> None:
    student = _spoilt(4)
    before = copy.deepcopy(student.state_dict())
    recovery = Recovery(student, build(0), folder, folder.subset(range(3)), OPTIONS)
    assert recovery.seconds_per_step(1) > 0
    for name, value in before.items():
        torch.testing.assert_close(student.state_dict()[name], value, rtol=0, atol=0)
    assert recovery.progress.step == 0


def test_face_tasks_are_distilled_where_faces_are(tmp_path: Path) -> None:
    folder = FaceFolder.open(write_face_folder(tmp_path, "train", count=3), "train")
    torch.manual_seed(0)
    size = (64, 64)
    network = MOS(variant="mos-t", context="plain", size=size).eval()
    prepared = prepare_all(folder, network.tasks, network.input_spec, 0)
    images = images_of(prepared)
    with torch.no_grad():
        wanted = network(images)
    for task in network.tasks:
        targets = targets_of(prepared, task, size)
        assert float(task.distil(wanted, wanted, targets)) < 4.0  # entropy is not counted
        found = {name: value.clone().requires_grad_() for name, value in wanted.items()}
        task.distil(found, {k: v + 0.5 for k, v in wanted.items()}, targets).backward()
        if task.name != "detection":
            gradient = found[task.outputs[0]].grad
            assert gradient is not None
            touched = gradient.abs().sum(dim=2) > 0
            assert 0 < int(touched.sum()) <= len(targets.match(task.anchors).prior)


def test_features_are_compared_whatever_their_width() -> None:
    network, other = build(0), TinyDense(width=8).eval()
    mine, theirs = SharedFeatures(other), SharedFeatures(network)
    images = network.example_input(2)
    with torch.no_grad():
        other(images)
        network(images)
    assert set(mine.maps) == set(theirs.maps) and mine.maps
    assert 0 < float(feature_loss(mine.maps, theirs.maps)) < 1
    assert float(feature_loss(theirs.maps, theirs.maps)) == pytest.approx(0, abs=1e-5)
    assert float(feature_loss({}, theirs.maps)) == 0
    theirs.remove()
    with torch.no_grad():
        network(images)
    assert not theirs.maps


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),
    ],
)
def test_it_computes_in_bfloat16_where_the_processor_does(
    able: dict[str, bool],
    expected: torch.dtype,
    folder: DenseFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    seen: set[torch.dtype] = set()
    student = _spoilt(6)
    student.stem.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    recovery = Recovery(student, build(0), folder, folder.subset(range(3)), OPTIONS)
    recovery.seconds_per_step(1)
    assert expected in seen
