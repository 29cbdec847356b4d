"""What a recovery trains and when it stops: the least that holds the gates."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from support.data import write_dense_folder
from support.dense_family import TinyDense, build

from edgemtl.compress.recover import RecoverOptions, recover
from edgemtl.compress.recover.losses import pulls
from edgemtl.compress.recover.parameters import norms_and_biases, own_parameters
from edgemtl.compress.recover.records import Verdict
from edgemtl.compress.recover.statistics import let_train, reestimated
from edgemtl.data.dense import DenseFolder
from edgemtl.data.samples import Sample
from edgemtl.logs import Lines

OPTIONS = RecoverOptions(steps=10, batch=2, evaluate_every=1, learning_rate=1e-2, patience=99)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> DenseFolder:
    root = write_dense_folder(tmp_path_factory.mktemp("dense"), "train", count=8, seed=5)
    return DenseFolder.open(root, "train")


def _changed(network: TinyDense, before: dict[str, torch.Tensor]) -> set[str]:
    return {n for n, v in network.state_dict().items() if not torch.equal(v, before[n])}


def _worse(network: TinyDense) -> TinyDense:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += (
                0.2
                * parameter.abs().mean()
                * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    return network


def test_norms_alone_leave_every_weight_as_it_was(images: DenseFolder) -> None:
    student = _worse(build(0))
    before = copy.deepcopy(student.state_dict())
    options = replace(OPTIONS, train="norms")
    result = recover(student, build(0), images, images.subset(range(4)), options)
    assert [stage.trains for stage in result.stages] == ["norms"] and result.best_step > 0
    trained = norms_and_biases(student)
    names = {n for n, p in student.named_parameters() if any(p is one for one in trained)}
    assert 0 < len(names) < len(list(student.parameters()))
    assert _changed(student, before) <= names and _changed(student, before)
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_nothing_is_trained_where_every_gate_holds(images: DenseFolder) -> None:
    student = build(0)
    options = replace(OPTIONS, train="auto", enough={"parts": 0.01, "distance": 0.01})
    result = recover(student, build(0), images, images.subset(range(4)), options)
    assert (result.steps, result.best_step, result.stages) == (0, 0, ())
    assert not _changed(student, build(0).state_dict())


def test_auto_goes_from_the_cheapest_to_everything(images: DenseFolder) -> None:
    options = replace(OPTIONS, train="auto", enough={"parts": -99.0, "distance": 9.0})
    lines: list[str] = []
    student = _worse(build(0))
    with Lines(lines.append).shown():
        result = recover(student, build(0), images, images.subset(range(4)), options)
    # 'distance' is where it may be, so that 'parts' alone is trained before everything is.
    kinds = [(one.trains, one.first, one.stop) for one in result.stages]
    assert kinds == [("norms", 0, 2), ("task parts", 2, 4), ("all", 4, 10)]
    assert sum("about" in line and "up to" in line for line in lines) == 3
    assert sum(" steps in " in line for line in lines) == 3


def test_with_two_tasks_behind_neither_is_trained_alone(images: DenseFolder) -> None:
    options = replace(OPTIONS, train="auto", enough={"parts": -99.0, "distance": -99.0})
    result = recover(_worse(build(0)), build(0), images, images.subset(range(4)), options)
    assert [one.trains for one in result.stages] == ["norms", "all"]


def test_a_tasks_own_parameters_move_no_other_task() -> None:
    network = build(0)
    own = own_parameters(network, "parts")
    decoder = network.decoders["parts"]
    assert {id(p) for p in own} == {id(p) for p in decoder.parameters()}


class Bare:
    """Pictures without labels."""

    def __init__(self, inner: DenseFolder) -> None:
        self._inner, self.name, self.problems = inner, "bare", inner.problems

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return (Sample(one.name, one.image, {}) for one in self._inner)

    def subset(self, indices):  # type: ignore[no-untyped-def]
        """These pictures."""
        return Bare(self._inner.subset(indices))


def test_images_without_labels_bring_it_back_to_the_dense_answers(images: DenseFolder) -> None:
    bare, student = Bare(images), _worse(build(0))
    options = replace(OPTIONS, steps=12, learning_rate=None, evaluate_every=4)
    result = recover(student, build(0), bare, bare.subset(range(4)), options)  # type: ignore[arg-type]
    assert result.best_step > 0 and all(not drops for _, drops in result.drops)
    found = dict(result.distances)
    assert max(found[result.best_step].values()) < 0.9 * max(found[0].values())
    assert result.to_dict()["distances"][0]["step"] == 0


def test_who_lost_more_of_what_it_may_lose_pulls_harder() -> None:
    verdict = Verdict({}, {"a": 0.04, "b": 0.04, "c": -1.0}, {"d": 9.0}, 0.0)
    found = pulls(verdict, {"a": 0.5, "b": 2.0, "c": 1.0, "d": 1.0})
    assert found == pytest.approx({"a": 2.6, "b": 1.4, "c": 0.5, "d": 3.0})


def test_frozen_statistics_stay_and_new_ones_are_the_mean() -> None:
    network = build(0)
    before = copy.deepcopy(network.state_dict())
    let_train(network, frozen=True)
    with torch.no_grad():
        network(network.example_input(2))
    assert not _changed(network, before)
    images = [network.example_input(4, seed) for seed in (1, 2)]
    found = reestimated(network.eval(), images)
    with torch.no_grad():
        means = [network.stem.conv(one).mean(dim=(0, 2, 3)) for one in images]
    new = found.stem.norm.running_mean
    torch.testing.assert_close(new, torch.stack(means).mean(dim=0), rtol=1e-4, atol=1e-5)
    assert not _changed(network, before)
