"""The search on a small dense-prediction network that has nothing to do with faces."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from support.data import write_dense_folder
from support.dense_family import TinyDense, build

from edgemtl.compress import prune as prune_module
from edgemtl.compress.augmentation import prepare_all
from edgemtl.compress.batches import images_of, targets_of
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.mask import MaskedNetwork
from edgemtl.compress.cost import CostModel, Goals
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.job import Job, PruneOptions
from edgemtl.compress.loss_worker import Answers, load_pictures, save_pictures
from edgemtl.compress.pagcp.oracle import MOST_PICTURES
from edgemtl.compress.pagcp.search import Search
from edgemtl.compress.paper import PaperSearch
from edgemtl.compress.prune import methods, prune
from edgemtl.compress.recover import RecoverOptions
from edgemtl.compress.replay.graph import State, TracedNetwork
from edgemtl.compress.replay.remote import signature
from edgemtl.data.dense import DenseFolder
from edgemtl.errors import StageFailed, UsageError
from edgemtl.models.checkpoint import from_network, weights_hash

ALL_METHODS = [
    "pagcp",
    "pagcp-paper",
    "l1-uniform",
    "l1-global",
    "taylor-global",
    "unanimous",
    "knapsack",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> DenseFolder:
    root = write_dense_folder(tmp_path_factory.mktemp("dense"), "train", count=30, seed=3)
    return DenseFolder.open(root, "train")


@pytest.fixture(scope="module")
def network(pictures: DenseFolder) -> TinyDense:
    """Trained for a moment, so that its losses and its channels mean something."""
    torch.manual_seed(0)
    network = build()
    prepared = prepare_all(pictures, network.tasks, network.input_spec, 0)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    network.train()
    for step in range(40):
        part = [prepared[(step * 8 + i) % len(prepared)] for i in range(8)]
        outputs = network(images_of(part))
        losses = [
            task.loss(outputs, targets_of(part, task, network.input_spec.size))
            for task in network.tasks
        ]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()
    return network.eval()


@pytest.fixture(scope="module")
def data(pictures: DenseFolder) -> DataSplits:
    return DataSplits.split([pictures], oracle=16, calibration=8)


def _job(
    network: TinyDense,
    data: DataSplits,
    options: PruneOptions,
    goals: Goals,
    elsewhere: Any = None,
) -> Job:
    spec = network.input_spec
    prepared = (
        prepare_all(data.oracle, network.tasks, spec, 0),
        prepare_all(data.calibration, network.tasks, spec, 0),
    )
    rest = (None, None, lambda line: None, None, elsewhere)
    return Job(deepcopy(network), prepared, options, goals, *rest)


def _search(job: Job, **changes: Any) -> Search:
    """A search towards the job's goals, as the method ``pagcp`` does it."""
    arguments = {
        "choices": job.choices,
        "oracle": job.oracle,
        "cost": job.cost,
        "dense": job.dense,
        "goals": job.goals,
        "budgets": None,
        "first": {},
        "score": job.score,
        "check": job.check,
    }
    return Search(**{**arguments, **changes})


def test_re_running_the_suffix_equals_running_everything(network: TinyDense) -> None:
    groups = channel_groups(network)
    masked = MaskedNetwork(network, groups)

    def run(images: torch.Tensor, gates: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        masked.use_gates(gates)
        return masked(images)

    images = network.example_input(4)
    traced = TracedNetwork(run, images, {group.name: group.width for group in groups})
    store: dict[int, torch.Tensor] = {}
    names = list(traced.outputs)
    whole, spent = traced.evaluate(images, State(), store, 0, names, keep=True)
    assert spent == traced.macs
    masked.use_gates({})
    for group in groups:
        keep = torch.rand(group.width, generator=torch.Generator().manual_seed(1)) > 0.5
        keep[0] = True
        state = State().changed(group.name, keep.float())
        found, part = traced.evaluate(images, state, store, traced.bit[group.name], names)
        afresh, _ = traced.evaluate(images, state, {}, 0, names)
        with torch.no_grad():
            smaller = cut(network, {group.name: keep}, groups)(images)
        assert part < spent
        for name in names:
            torch.testing.assert_close(found[name], afresh[name], rtol=0, atol=0)
            span = float(smaller[name].abs().max())
            # kept outputs are rounded to half precision on the way
            torch.testing.assert_close(found[name], smaller[name], rtol=0, atol=4e-3 * span)
            if not traced.bits_of([name]) & traced.bit[group.name]:
                torch.testing.assert_close(found[name], whole[name], rtol=0, atol=0)


def test_what_does_not_fit_is_computed_again_with_the_same_answer(
    network: TinyDense, data: DataSplits
) -> None:
    found = []
    for memory in (10**9, 10**6, 0):
        options = PruneOptions(channel_multiple=1, oracle_memory_bytes=memory)
        job = _job(network, data, options, Goals())
        name = job.groups[-1].name
        gate = torch.ones(job.by_name[name].width)
        gate[::2] = 0
        trial = job.oracle.try_mask(name, gate, np.array([10.0, 10.0]))
        found.append((trial.rises.tolist(), job.oracle.spent.macs))
    assert found[0][0] == found[1][0] == found[2][0]
    assert found[0][1] <= found[1][1] <= found[2][1] and found[0][1] < found[2][1]


def test_trials_leave_statistics_alone_and_adapting_them_hurts_no_task(
    network: TinyDense, data: DataSplits
) -> None:
    job = _job(network, data, PruneOptions(channel_multiple=1), Goals())
    oracle = job.oracle
    assert not oracle.recalibrate()  # nothing was removed
    np.testing.assert_array_equal(oracle.current, oracle.dense)
    adapted = []
    for group in job.groups[:3]:
        gate = torch.ones(group.width)
        gate[: group.width // 2] = 0
        trial = oracle.try_mask(group.name, gate, np.array([10.0, 10.0]))
        assert trial.accepted and trial.state.statistics == oracle.committed.statistics
        oracle.commit(group.name, trial)
        before = oracle.exact()
        reference = oracle.reference.copy()
        adapted.append(oracle.recalibrate())
        worst = [(losses / reference).max() for losses in (before, oracle.current)]
        assert worst[1] < worst[0] if adapted[-1] else worst[1] == worst[0]
        np.testing.assert_allclose(oracle.exact(), oracle.current, rtol=1e-12)
    assert any(adapted)


def test_a_trial_looks_at_some_pictures_and_the_next_turn_at_others(
    network: TinyDense, tmp_path: Path
) -> None:
    root = write_dense_folder(tmp_path, "train", count=76, seed=4)
    data = DataSplits.split([DenseFolder.open(root, "train")], oracle=64, calibration=8)
    job = _job(network, data, PruneOptions(channel_multiple=1), Goals())
    gate = torch.ones(job.groups[0].width)
    gate[0] = 0
    seen = []
    for turn in (0, 1, 2):
        trial = job.oracle.try_mask(job.groups[0].name, gate, np.array([0.0, 0.0]), turn)
        assert trial.images <= MOST_PICTURES < 64
        seen.append(list(trial.losses))
    assert [batches[0] for batches in seen] == [0, 4, 0]  # of eight


def test_the_cost_model_equals_counting_the_cut_network(network: TinyDense) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    groups = channel_groups(network)
    masked = MaskedNetwork(network, groups)

    def run(images: torch.Tensor, gates: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        masked.use_gates(gates)
        return masked(images)

    traced = TracedNetwork(
        run, network.example_input(2), {group.name: group.width for group in groups}
    )
    model = CostModel(network, groups, traced, 2)
    keep = {}
    for number, group in enumerate(groups):
        keep[group.name] = torch.arange(group.width) % (2 + number % 3) == 0
    smaller = cut(network, keep, groups)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        smaller(network.example_input(1))
    found = model.of(keep)
    assert found.params == sum(p.numel() for p in smaller.parameters())
    assert found.macs == pytest.approx(counter.get_total_flops() / 2)


def test_budgets_hold_and_the_reference_never_falls(network: TinyDense, data: DataSplits) -> None:
    budgets = {"parts": 1.4, "distance": 1.6}
    options = PruneOptions(budgets=budgets, channel_multiple=2)
    result = prune(network, data, options)
    one = result.rounds[0]
    assert one.steps
    for task, ratio in one.loss_ratio.items():
        assert ratio <= budgets[task] + 0.02
    shares = [step.macs_share for step in one.steps]
    assert shares == sorted(shares, reverse=True)
    assert result.pruned.macs == pytest.approx(shares[-1] * result.dense.macs)
    assert sum(p.numel() for p in result.network.parameters()) == result.pruned.params
    for step in one.steps:
        assert step.width_after < step.width_before and step.width_after % 2 == 0
        assert step.checks >= 1 and step.images >= 1


def test_committed_masks_are_nested_and_references_only_rise(
    network: TinyDense, data: DataSplits
) -> None:
    job = _job(network, data, PruneOptions(channel_multiple=2), Goals(macs=0.5))
    masks: list[dict[str, torch.Tensor]] = []
    references: list[np.ndarray] = []

    def remember(search: Search) -> None:
        masks.append(dict(search.keep))
        references.append(search.oracle.reference.copy())

    search = _search(job, save=remember)
    search.run()
    assert len(masks) > 2
    for before, after in pairwise(masks):
        assert not any(bool((after[name] & ~before[name]).any()) for name in before)
    for low, high in pairwise(references):
        assert (high >= low).all()


@pytest.mark.parametrize("way", ["check", "export"])
def test_a_step_that_breaks_the_network_is_taken_back(
    network: TinyDense, data: DataSplits, way: str
) -> None:
    job = _job(network, data, PruneOptions(channel_multiple=2), Goals(macs=0.7))
    # The second of a sweep: when an export notices, several steps are there behind it.
    plain = _search(job)
    plain.run()
    broken = plain.steps[1].group
    checked: list[Mapping[str, torch.Tensor]] = []
    job = _job(network, data, job.options, job.goals)

    def check(keep: Mapping[str, torch.Tensor]) -> None:
        checked.append(dict(keep))
        if not bool(keep[broken].all()):
            raise StageFailed("does not work")

    search = _search(job, **{way: check})
    search.run()
    assert bool(search.keep[broken].all())
    assert broken not in search.oracle.committed.gates
    groups = [step.group for step in search.steps]
    assert groups[0] == plain.steps[0].group and len(groups) > 1 and broken not in groups
    assert [refusal.group for refusal in search.refused] == [broken]
    assert search.refused[0].width == job.by_name[broken].width > search.refused[0].width_tried
    assert search.refused[0].problem == "does not work"
    # The last thing that was looked at is what is left, and it is sound.
    assert all(torch.equal(checked[-1][name], mask) for name, mask in search.keep.items())
    shares = [step.macs_share for step in search.steps]
    assert shares == sorted(shares, reverse=True)
    left = search.cost.of(search.keep).macs / job.dense.macs
    assert shares[-1] == pytest.approx(left)
    assert len(search.steps) == search.position.commits and not search.points


@pytest.mark.parametrize("method", [name for name in ALL_METHODS if name != "pagcp-paper"])
def test_a_goal_is_reached_and_not_overshot_much(
    network: TinyDense, data: DataSplits, method: str
) -> None:
    result = prune(network, data, PruneOptions(method, flops=0.6, channel_multiple=1))
    assert result.goals_reached
    assert 0.45 < result.pruned.macs / result.dense.macs <= 0.6


def test_a_later_round_that_finds_nothing_only_trains(
    network: TinyDense, data: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, calls = prune_module.run_or_resume, []

    def nothing_the_second_time(*given: Any) -> Any:
        found, seconds = search(*given)
        calls.append(found)
        if len(calls) == 2:
            whole = {name: torch.ones_like(mask) for name, mask in found.keep.items()}
            found = replace(found, keep=whole, steps=())
        return found, seconds

    monkeypatch.setattr(prune_module, "run_or_resume", nothing_the_second_time)
    training = replace(data, recovery=data.calibration)
    recovery = RecoverOptions(steps=2, batch=2, evaluate_every=1, warmup=1)
    options = PruneOptions("pagcp", flops=0.6, channel_multiple=2, rounds=2, recovery=recovery)
    result = prune(network, training, options)
    first, second = result.rounds
    assert second.cost == first.cost and first.cost.macs < result.dense.macs
    assert second.recovery is not None and second.steps == ()
    assert any("round 2 removed nothing" in note for note in result.notes)


class Others:
    """Two others that look at the pictures; one is lost now and then, and another takes over."""

    width = 3  # more than they are: what is sent ahead is often not needed

    def __init__(self, job: Job) -> None:
        with TemporaryDirectory() as folder:
            save_pictures(Path(folder) / "pictures.pt", *job.pictures)
            oracle, calibration = load_pictures(Path(folder) / "pictures.pt")
        checkpoint = from_network(job.network)
        expected = signature(job.network, job.traced)
        self._make = lambda: Answers(checkpoint.network(), (oracle, calibration), expected)
        self._others = [self._make(), self._make()]
        self.asked = self.lost = 0
        self.closed = False

    def send(self, place: int, message: bytes) -> Others._Reply:
        self.asked += 1
        if self.asked % 12 == 0:
            self.lost += 1
            self._others[self.lost % 2] = self._make()
        return self._Reply(self._others[place % 2].answer(message))

    def close(self) -> None:
        self.closed = True

    class _Reply:
        def __init__(self, answer: bytes) -> None:
            self._answer = answer

        def result(self) -> bytes:
            return self._answer

        def cancel(self) -> None:
            self._answer = b""


def _without_seconds(data: Any) -> Any:
    if isinstance(data, dict):
        return {k: _without_seconds(v) for k, v in data.items() if "seconds" not in k}
    return [_without_seconds(v) for v in data] if isinstance(data, list | tuple) else data


def test_the_published_scan_keeps_its_budgets_and_spends_more(
    network: TinyDense, tmp_path: Path
) -> None:
    root = write_dense_folder(tmp_path, "train", count=76, seed=4)
    data = DataSplits.split([DenseFolder.open(root, "train")], oracle=64, calibration=8)
    budgets = {"parts": 1.5, "distance": 1.5}
    found = {
        method: prune(network, data, PruneOptions(method, budgets=budgets, channel_multiple=1))
        for method in ("pagcp", "pagcp-paper")
    }
    scan = found["pagcp-paper"].rounds[0]
    assert scan.steps and all(ratio <= 1.5 for ratio in scan.loss_ratio.values())
    assert all(step.checks <= 19 for step in scan.steps)
    assert found["pagcp"].rounds[0].spent.macs < scan.spent.macs


def test_others_that_look_at_the_pictures_find_the_same(
    network: TinyDense, data: DataSplits
) -> None:
    budgets = {"parts": 1.5, "distance": 1.5}
    # Not enough memory to keep everything that is worth it.
    options = PruneOptions(budgets=budgets, channel_multiple=4, oracle_memory_bytes=2 * 10**6)
    alone = prune(network, data, options)
    opened: list[Others] = []

    def others(job: Job) -> Others:
        opened.append(Others(job))
        return opened[-1]

    shared = prune(network, data, options, elsewhere=others)
    assert _without_seconds(shared.to_dict()) == _without_seconds(alone.to_dict())
    assert weights_hash(shared.network) == weights_hash(alone.network)
    assert len(alone.rounds[0].steps) >= 2
    assert [(one.asked > 15, one.lost > 0, one.closed) for one in opened] == [(True, True, True)]

    found = []
    for elsewhere in (None, others):
        job = _job(network, data, options, Goals(), elsewhere)
        keep = {group.name: torch.arange(group.width) % 3 > 0 for group in job.groups}
        found.append(PaperSearch(job)._losses(keep).tolist())
    assert found[0] == found[1]
    assert opened[1].asked == len(job.batches) == 2


def test_a_killed_search_goes_on_to_the_same_end(
    network: TinyDense, data: DataSplits, tmp_path: Path
) -> None:
    options = PruneOptions(flops=0.6, channel_multiple=2)
    whole = prune(network, data, options, state_dir=tmp_path / "whole")

    class Killed(Exception):
        pass

    told: list[str] = []

    def kill(line: str) -> None:
        told.append(line)
        if len([text for text in told if "->" in text]) == 2:
            raise Killed

    with pytest.raises(Killed):
        prune(network, data, options, kill, tmp_path / "part")
    lines: list[str] = []
    resumed = prune(network, data, options, lines.append, tmp_path / "part")
    assert any("goes on" in line for line in lines)
    assert resumed.rounds[0].widths == whole.rounds[0].widths
    assert resumed.network.pruning == whole.network.pruning
    again: list[str] = []
    prune(network, data, options, again.append, tmp_path / "part")
    assert any("finished before" in line for line in again)


def test_a_group_of_one_task_changes_only_that_task(network: TinyDense, data: DataSplits) -> None:
    job = _job(network, data, PruneOptions(channel_multiple=1), Goals())
    name = next(g.name for g in job.groups if g.tasks == ("distance",))
    gate = torch.zeros(job.by_name[name].width)
    gate[:2] = 1.0
    before = job.oracle.spent.macs
    trial = job.oracle.try_mask(name, gate, np.array([10.0, 10.0]))
    assert trial.rises[0] == 0.0 and trial.rises[1] != 0.0
    batches = len(job.oracle.batches)
    assert job.oracle.spent.macs - before < batches * job.traced.macs


def test_clear_errors(network: TinyDense, data: DataSplits) -> None:
    with pytest.raises(UsageError, match="needs a goal"):
        prune(network, data, PruneOptions("l1-uniform"))
    with pytest.raises(UsageError, match="no pruning method"):
        prune(network, data, PruneOptions("magic"))
    with pytest.raises(UsageError, match="not pruned for"):
        prune(network, data, PruneOptions(budgets={"pose": 2.0}))
    with pytest.raises(UsageError, match="no held-out pictures"):
        prune(network, data, PruneOptions("knapsack", flops=0.5), elsewhere=Others)
    with pytest.raises(UsageError, match="kept share"):
        PruneOptions(flops=40)
    with pytest.raises(UsageError, match="above 1"):
        PruneOptions(budgets={"parts": 0.5})
    with pytest.raises(StageFailed, match="no channel"):
        prune(network, data, PruneOptions(budgets={"parts": 1.5}, channel_multiple=512))
    assert set(ALL_METHODS) <= set(methods())


def test_unlabelled_tasks_are_named(network: TinyDense, tmp_path: Path) -> None:
    root = write_dense_folder(tmp_path, "train", count=14, kinds=["segmentation"])
    data = DataSplits.split([DenseFolder.open(root, "train")], oracle=6, calibration=4)
    with pytest.raises(StageFailed, match="'distance'"):
        prune(network, data, PruneOptions(flops=0.5))
