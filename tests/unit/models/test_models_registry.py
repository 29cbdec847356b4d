"""Families by name, factories, and the foreign network that keeps the product general."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.data import write_dense_folder
from support.dense_family import TinyDense, build

from edgemtl.data.dense import DenseFolder
from edgemtl.data.preprocess import letterbox
from edgemtl.errors import ExitCode, InputRefused, UsageError
from edgemtl.measure.accuracy import evaluate, network_runner
from edgemtl.models import build as build_family
from edgemtl.models import families, from_factory
from edgemtl.tasks.labels import labels_on_canvas


def test_families_are_listed_and_unknown_ones_name_them() -> None:
    assert {"mos", "tiny-dense"} <= set(families())
    with pytest.raises(InputRefused, match=r"unknown network family 'x'.*mos.*--factory") as error:
        build_family("x", {})
    assert error.value.exit_code == ExitCode.INPUT_REFUSED


def test_a_family_is_rebuilt_from_its_arguments() -> None:
    network = TinyDense(width=8, classes=("a", "b"), size=(32, 48))
    again = build_family("tiny-dense", network.arguments)
    assert isinstance(again, TinyDense) and again.arguments == network.arguments
    assert again.family == "tiny-dense" and again.input_spec.size == (32, 48)


def test_a_factory_gives_a_network() -> None:
    assert isinstance(from_factory("support.dense_family:build"), TinyDense)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("", "is not a factory"),
        ("support.dense_family", "is not a factory"),
        (":build", "is not a factory"),
        ("support.dense_family:", "is not a factory"),
        ("no_such_module_here:build", "cannot be imported: ModuleNotFoundError"),
        ("support.dense_family:nothing", "cannot be imported: AttributeError"),
        ("..support:build", "cannot be imported"),
        ("support.dense_family:CLASSES", "failed: TypeError"),
        ("builtins:dict", "returned dict"),
    ],
)
def test_a_reference_that_is_no_factory_is_a_usage_error(reference: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as error:
        from_factory(reference)
    assert error.value.exit_code == ExitCode.USAGE and error.value.hint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def build(:", "cannot be imported: SyntaxError"),
        ("raise RuntimeError('at import')", "cannot be imported: RuntimeError: at import"),
        ("def build(): raise KeyError('inside')", "failed: KeyError"),
    ],
)
def test_a_users_module_that_fails_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    (tmp_path / "users_own_module.py").write_text(text, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_own_module", raising=False)
    with pytest.raises(UsageError, match=reason):
        from_factory("users_own_module:build")
    sys.modules.pop("users_own_module", None)


def test_only_requested_decoders_run() -> None:
    network = build()
    ran: list[str] = []
    for name, decoder in network.decoders.items():
        decoder.register_forward_hook(lambda *_, name=name: ran.append(name))
    images = network.example_input(batch=2)
    with torch.inference_mode():
        whole = network(images)
        assert sorted(ran) == ["distance", "parts"]
        ran.clear()
        part = network(images, tasks=["distance"])
    assert ran == ["distance"] and list(part) == ["distance.depth"]
    assert torch.equal(part["distance.depth"], whole["distance.depth"])
    assert whole["parts.logits"].shape == (2, 4, 16, 24)
    assert whole["distance.depth"].shape == (2, 1, 32, 48)


def test_the_dense_network_is_small_and_its_answers_vary() -> None:
    network = build()
    assert 10_000 < sum(p.numel() for p in network.parameters()) < 40_000
    with torch.inference_mode():
        answers = network(network.example_input())
    assert len(answers["parts.logits"].argmax(dim=1).unique()) >= 2
    assert answers["distance.depth"].std() > 0.01 and answers["distance.depth"].min() > 0


def test_the_dense_network_is_seeded_and_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    one, two, other = build(0), build(0), build(1)
    assert torch.equal(torch.rand(1), before)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert not torch.equal(one.stem.conv.weight, other.stem.conv.weight)


def test_the_dense_network_is_evaluated_like_any_other(tmp_path: Path) -> None:
    network = build()
    folder = DenseFolder.open(write_dense_folder(tmp_path, count=3), "val")
    report = evaluate(network_runner(network), network.tasks, network.input_spec, folder)
    assert report.images == 3 and set(report.tasks) == {"parts", "distance"}
    miou, rmse = report.tasks["parts"].values["miou"], report.tasks["distance"].values["rmse_m"]
    assert miou is not None and 0 <= miou < 1 and rmse is not None and rmse > 0


def test_the_dense_network_learns_from_labels_on_the_canvas(tmp_path: Path) -> None:
    """A few steps on one batch lower both losses: labels, losses and outputs fit together."""
    network = build().train()
    folder = DenseFolder.open(write_dense_folder(tmp_path, count=2), "val")
    images, labels = [], []
    for sample in folder:
        canvas, view = letterbox(sample.image, network.input_spec)
        images.append(canvas)
        labels.append(labels_on_canvas(sample.labels, network.tasks, view))
    batch = torch.from_numpy(np.stack(images))
    targets = {
        task.name: task.collate([label[task.label_kind] for label in labels], (64, 96))
        for task in network.tasks
    }
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    history = []
    for _ in range(12):
        answers = network(batch)
        losses = {task.name: task.loss(answers, targets[task.name]) for task in network.tasks}
        history.append({name: loss.item() for name, loss in losses.items()})
        optimiser.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    for name in ("parts", "distance"):
        assert history[-1][name] < 0.8 * history[0][name]
