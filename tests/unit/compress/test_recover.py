"""Recovery training: it helps, it resumes to the same weights, labels stay true."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.data import write_dense_folder, write_face_folder
from support.dense_family import TinyDense, build

from edgemtl.compress.augmentation import prepare_all, random_view, rescaled
from edgemtl.compress.batches import images_of, targets_of
from edgemtl.compress.distillation import SharedFeatures, feature_loss
from edgemtl.compress.recover import RecoverOptions, Recovery, recover
from edgemtl.data.dense import DenseFolder
from edgemtl.data.faces import FaceFolder
from edgemtl.data.preprocess import InputSpec
from edgemtl.data.samples import Faces, Sample
from edgemtl.errors import StageFailed
from edgemtl.logs import Lines
from edgemtl.models.mos.network import MOS
from edgemtl.tasks import Detection, Segmentation
from edgemtl.tasks.anchors import AnchorSpec

SPEC = InputSpec((96, 128), fill=0.0)
FACES = [Detection("faces", AnchorSpec().to_dict())]
OPTIONS = RecoverOptions(steps=6, batch=4, evaluate_every=3, warmup=2, ema=0.5)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> DenseFolder:
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


def test_training_brings_the_student_closer_to_the_teacher(pictures: DenseFolder) -> None:
    teacher = build(0)
    images = images_of(prepare_all(pictures, teacher.tasks, teacher.input_spec, 0))
    with torch.no_grad():
        for _ in range(60):  # its batch statistics become those of pictures
            teacher.train()(images)
    student = _spoilt(1, teacher.eval())
    # The teacher was never trained: its answers, not the labels, are to be learnt here.
    options = replace(OPTIONS, steps=16, answers=100.0, evaluate_every=8)

    def distance() -> float:
        with torch.no_grad():
            wanted, found = teacher(images), student.eval()(images)
        return sum(float(task.distil(found, wanted, None)) for task in teacher.tasks)

    before = distance()
    recovery = Recovery(student, teacher, pictures, pictures.subset(range(4)), options)
    result = recovery.run()
    assert result.steps == 16 and [step for step, _ in result.drops] == [0, 8, 16]
    assert not student.training
    worst = {step: max(drops.values()) for step, drops in result.drops}
    assert result.best_step == min(worst, key=lambda step: worst[step])
    student.load_state_dict(recovery.average.state_dict())
    assert distance() < before
    assert set(result.to_dict()["after"]) == {"parts", "distance"}


@pytest.mark.parametrize(("at", "saved"), [(0, 0), (5, 4)])
def test_a_killed_training_goes_on_to_the_same_weights(
    at: int, saved: int, pictures: DenseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgemtl.compress.recover.SAVE_EVERY", 2)
    teacher, held_out = build(0), pictures.subset(range(4))
    whole = _spoilt(2)
    recover(whole, teacher, pictures, held_out, OPTIONS)

    original = Recovery._step

    def killed(self: Recovery, *args: object) -> None:
        if self.progress.step == at:
            raise KeyboardInterrupt
        original(self, *args)  # type: ignore[arg-type]

    state = tmp_path / "state.pt"
    with monkeypatch.context() as patch:
        patch.setattr(Recovery, "_step", killed)
        with pytest.raises(KeyboardInterrupt):
            recover(_spoilt(2), teacher, pictures, held_out, OPTIONS, state)
    lines: list[str] = []
    part = _spoilt(2)
    with Lines(lines.append).shown():
        result = recover(part, teacher, pictures, held_out, OPTIONS, state)
    assert f"recovery goes on from step {saved}" in lines
    assert [step for step, _ in result.drops] == [0, 3, 6]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(part.state_dict()[name], value, rtol=0, atol=0)


def test_a_training_that_diverges_says_so(pictures: DenseFolder) -> None:
    student = _spoilt(3)
    with torch.no_grad():
        student.stem.conv.weight.fill_(float("nan"))
    with pytest.raises(StageFailed, match="loss is nan"):
        recover(student, build(0), pictures, pictures.subset(range(3)), OPTIONS)


def test_timing_leaves_the_network_as_it_was(pictures: DenseFolder) -> None:
    student = _spoilt(4)
    before = copy.deepcopy(student.state_dict())
    recovery = Recovery(student, build(0), pictures, pictures.subset(range(3)), OPTIONS)
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


def _one_face(seed: int) -> Sample:
    """A black picture with one white box labelled as a face."""
    rng = np.random.default_rng(seed)
    image = np.zeros((120, 160, 3), np.uint8)
    x, y = (int(v) for v in rng.integers(30, 60, 2))
    cv2.rectangle(image, (x, y), (x + 39, y + 29), (255, 255, 255), -1)
    boxes = np.array([[x, y, x + 40, y + 30]], np.float32)
    points = np.full((1, 5, 2), [x + 20, y + 15], np.float32)
    return Sample("one", image, {"faces": Faces(boxes, points, np.zeros((1, 3), np.float32))})


@pytest.mark.parametrize("seed", range(8))
def test_rescaled_faces_keep_their_labels(seed: int) -> None:
    moved = rescaled(_one_face(seed), FACES, SPEC, np.random.default_rng(seed))
    faces = moved.labels["faces"]
    assert len(faces) == 1 and moved.image.shape[:2] == SPEC.size
    white = moved.image[:, :, 0] > 200
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(faces.boxes[0], found, atol=2.0)


@pytest.mark.parametrize("seed", range(6))
def test_random_views_keep_dense_labels(seed: int) -> None:
    """The label is 1 exactly where the picture is bright, before and after."""
    image = np.full((90, 120, 3), 20, np.uint8)
    label = np.zeros((90, 120), np.int64)
    image[30:60, 40:90] = 240
    label[30:60, 40:90] = 1
    view = random_view(
        Sample("one", image, {"segmentation": label}),
        [Segmentation("parts", ("dark", "bright"))],
        SPEC,
        np.random.default_rng(seed),
    )
    assert view.canvas.shape == (3, *SPEC.size)
    bright = view.canvas.astype(np.float32).mean(axis=0)
    moved = view.labels["segmentation"]
    assert moved.shape == SPEC.size
    assert bright[moved == 1].mean() > bright[moved == 0].mean() + 60


def test_views_depend_on_the_seed_only() -> None:
    sample = _one_face(0)
    a, b = (random_view(sample, FACES, SPEC, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(a.canvas, b.canvas)
    np.testing.assert_array_equal(a.labels["faces"].boxes, b.labels["faces"].boxes)


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
    pictures: DenseFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    seen: set[torch.dtype] = set()
    student = _spoilt(6)
    student.stem.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    recovery = Recovery(student, build(0), pictures, pictures.subset(range(3)), OPTIONS)
    recovery.seconds_per_step(1)
    assert expected in seen
