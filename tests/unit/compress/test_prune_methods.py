"""Pruning from end to end on a small dense-prediction network that has nothing to do with faces."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from support.data import write_dense_folder
from support.dense_family import TinyDense, build
from support.pruning import networks

from edgemtl.compress import prune as prune_module
from edgemtl.compress.augmentation import prepare_all
from edgemtl.compress.batches import images_of, losses_of, targets_of
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.compensation import check, evidence
from edgemtl.compress.context import PruneContext, PruneOptions
from edgemtl.compress.cost import CostModel, Goals
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.loss_worker import Answers, load_images, save_images
from edgemtl.compress.paper import PaperSearch
from edgemtl.compress.prune import methods, prune
from edgemtl.compress.recover import RecoverOptions
from edgemtl.compress.work import count_work
from edgemtl.data.dense import DenseFolder
from edgemtl.errors import StageFailed, UsageError
from edgemtl.logs import Lines
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
def images(tmp_path_factory: pytest.TempPathFactory) -> DenseFolder:
    root = write_dense_folder(tmp_path_factory.mktemp("dense"), "train", count=30, seed=3)
    return DenseFolder.open(root, "train")


@pytest.fixture(scope="module")
def network(images: DenseFolder) -> TinyDense:
    """Trained for a moment, so that its losses and its channels mean something."""
    torch.manual_seed(0)
    network = build()
    prepared = prepare_all(images, network.tasks, network.input_spec, 0)
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
def looks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where searches with other goals keep what they saw (see the test of one pass)."""
    return tmp_path_factory.mktemp("looks")


@pytest.fixture(scope="module")
def data(images: DenseFolder) -> DataSplits:
    return DataSplits.split([images], oracle=16, calibration=8)


def _context(
    network: TinyDense,
    data: DataSplits,
    options: PruneOptions,
    goals: Goals,
    workers: Any = None,
) -> PruneContext:
    spec = network.input_spec
    prepared = (
        prepare_all(data.oracle, network.tasks, spec, 0),
        prepare_all(data.calibration, network.tasks, spec, 0),
    )
    rest = (None, None, None, workers)
    return PruneContext(deepcopy(network), prepared, options, goals, *rest)


@pytest.mark.parametrize("kind", ["tiny-dense", "mos-t-deformable", "mos-m"])
def test_the_cost_model_equals_counting_the_cut_network(kind: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    network = networks()[kind].to(memory_format=torch.channels_last)
    groups = channel_groups(network)
    model = CostModel(network, groups, count_work(network, network.example_input(2)), 2)
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
            found = replace(found, keep=whole, weights={}, steps=())
        return found, seconds

    monkeypatch.setattr(prune_module, "run_or_resume", nothing_the_second_time)
    training = replace(data, recovery=data.calibration)
    recovery = RecoverOptions(2, batch=2, evaluate_every=1, warmup=1, learning_rate=1e-3)
    options = PruneOptions("pagcp", flops=0.6, channel_multiple=2, rounds=2, recovery=recovery)
    result = prune(network, training, options)
    first, second = result.rounds
    assert second.cost == first.cost and first.cost.macs < result.dense.macs
    assert second.recovery is not None and second.steps == ()
    assert any("round 2 removed nothing" in note for note in result.notes)


class Others:
    """Two others that look at the pictures; one is lost now and then, and another takes over."""

    width = 3  # more than they are: what is sent ahead is often not needed

    def __init__(self, context: PruneContext) -> None:
        with TemporaryDirectory() as folder:
            save_images(Path(folder) / "pictures.pt", *context.images)
            oracle, calibration = load_images(Path(folder) / "pictures.pt")
        checkpoint = from_network(context.network)
        expected = context.signature
        self._make = lambda: Answers(checkpoint.network(), (oracle, calibration), expected)
        self._others = [self._make(), self._make()]
        self.asked = self.lost = 0
        self.closed = False

    def send(self, place: int, message: bytes) -> Others._Reply:
        self.asked += 1
        if self.asked % 8 == 0:
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
    """What must be the same in two runs: all but times and memory."""
    if isinstance(data, dict):
        left = {k: v for k, v in data.items() if "seconds" not in k and k != "peak_mib"}
        return {k: _without_seconds(v) for k, v in left.items()}
    return [_without_seconds(v) for v in data] if isinstance(data, list | tuple) else data


def test_budgets_hold_after_compensation(network: TinyDense, data: DataSplits) -> None:
    budgets = {"parts": 1.05, "distance": 1.6}
    result = prune(network, data, PruneOptions(budgets=budgets, channel_multiple=2))
    one = result.rounds[0]
    assert one.steps and result.goals_reached is None
    assert all(one.loss_ratio[task] <= budget for task, budget in budgets.items())
    shares = [step.macs_share for step in one.steps]
    assert shares == sorted(shares, reverse=True)
    assert result.pruned.macs == pytest.approx(shares[-1] * result.dense.macs)
    assert sum(p.numel() for p in result.network.parameters()) == result.pruned.params
    for step in one.steps:
        assert step.width_after < step.width_before and step.width_after % 2 == 0
    for task in budgets:  # what groups cost adds up to what was measured
        assert one.steps[-1].loss_ratio[task] == pytest.approx(one.loss_ratio[task])
    assert all(share <= 1 for share in one.explained.values())
    assert set(one.drops) == set(budgets)
    # the budget of the first task is what ended it: a little further it is broken
    further = prune(network, data, PruneOptions(flops=0.45, channel_multiple=2))
    assert further.rounds[0].loss_ratio["parts"] > 1.05


def test_a_goal_that_a_budget_forbids_is_missed_and_says_why(
    network: TinyDense, data: DataSplits
) -> None:
    options = PruneOptions(flops=0.3, budgets={"parts": 1.05}, channel_multiple=2)
    result = prune(network, data, options)
    assert result.goals_reached is False
    assert result.pruned.macs > 0.3 * result.dense.macs
    missed = [note for note in result.notes if "goal was missed" in note]
    assert len(missed) == 1 and "'parts'" in missed[0] and "budget 1.05" in missed[0]


def test_a_goal_below_the_narrowest_widths_is_missed_and_says_why(
    network: TinyDense, data: DataSplits
) -> None:
    result = prune(network, data, PruneOptions(flops=0.01, channel_multiple=8))
    assert result.goals_reached is False
    assert "at their narrowest" in result.stopped_by


def test_what_a_figure_may_drop_by_ends_it_without_recovery(
    network: TinyDense, data: DataSplits
) -> None:
    limits = {"parts": 0.02, "distance": 0.02}
    free = prune(network, data, PruneOptions(flops=0.4, channel_multiple=2))
    assert max(free.rounds[0].drops.values()) > 0.02
    bound = prune(network, data, PruneOptions(flops=0.4, channel_multiple=2, most_drop=limits))
    assert max(bound.rounds[0].drops.values()) <= 0.02
    assert bound.pruned.macs > free.pruned.macs
    assert any("2.0% is allowed" in note for note in bound.notes)


@pytest.mark.parametrize("kind", ["flops", "params"])
def test_asking_to_keep_more_never_keeps_less(
    network: TinyDense, data: DataSplits, looks: Path, kind: str
) -> None:
    before: dict[str, torch.Tensor] | None = None
    for goal in (0.3, 0.45, 0.62, 0.64, 0.9):
        result = prune(network, data, PruneOptions(**{kind: goal}, channel_multiple=2), looks)
        assert result.goals_reached
        keep = {group["name"]: set(group["keep"]) for group in result.network.pruning[0]["groups"]}
        if before is not None:
            for name, units in keep.items():
                assert before[name] <= units
            assert set(keep) <= set(before)
        before = keep


def test_compensation_helps_every_method_and_can_be_left_out(
    network: TinyDense, data: DataSplits
) -> None:
    context = _context(network, data, PruneOptions(), Goals())

    def losses(method: str, compensate: bool) -> np.ndarray:
        options = PruneOptions(method, flops=0.5, channel_multiple=2, compensate=compensate)
        result = prune(network, data, options)
        assert bool(result.rounds[0].explained) is compensate
        found = np.concatenate([losses_of(result.network, batch) for batch in context.batches])
        return found.mean(axis=0)

    for method in ("l1-uniform", "taylor-global", "pagcp"):
        with_it, without = losses(method, True), losses(method, False)
        assert (with_it / without).mean() < 1, method


def test_no_images_have_labels(network: TinyDense, tmp_path: Path) -> None:
    root = write_dense_folder(tmp_path, "train", count=40, kinds=["segmentation"])
    data = DataSplits.split([DenseFolder.open(root, "train")], oracle=16, calibration=16)
    result = prune(network, data, PruneOptions(flops=0.6, channel_multiple=2))
    assert result.goals_reached
    shown = [note for note in result.notes if "'distance'" in note]
    assert len(shown) == 2 and "own answers" in shown[0]
    ratio = result.rounds[0].loss_ratio["distance"]
    assert 1 < ratio < 1.5  # answers moved, by a small part of how much they vary


def test_the_same_seed_gives_the_same_bytes(network: TinyDense, data: DataSplits) -> None:
    options = PruneOptions(flops=0.5, channel_multiple=2)
    one, other = (prune(network, data, options) for _ in range(2))
    assert weights_hash(one.network) == weights_hash(other.network)
    assert _without_seconds(one.to_dict()) == _without_seconds(other.to_dict())


@pytest.mark.parametrize("when", ["calibration", "curves", "looks"])
def test_a_killed_search_goes_on_to_the_same_end(
    network: TinyDense,
    data: DataSplits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    options = PruneOptions(flops=0.5, channel_multiple=2)
    whole = prune(network, data, options, state_dir=tmp_path / "whole")

    class Killed(Exception):
        pass

    file = {"calibration": "moments.pt", "curves": "curves.pt", "looks": "judged.pt"}[when]
    write, written = evidence.write_atomically, []

    def kill(path: Path, fill: Any) -> None:
        write(path, fill)
        written.append(path.name)
        if written.count(file) == (2 if when == "looks" else 1):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(evidence, "write_atomically", kill)
        patch.setattr(check, "write_atomically", kill)
        with pytest.raises(Killed):
            prune(network, data, options, state_dir=tmp_path / "part")
    lines: list[str] = []
    with Lines(lines.append).shown():
        resumed = prune(network, data, options, tmp_path / "part")
    assert any("goes on" in line for line in lines)
    assert weights_hash(resumed.network) == weights_hash(whole.network)
    assert _without_seconds(resumed.to_dict()) == _without_seconds(whole.to_dict())
    again: list[str] = []
    with Lines(again.append).shown():
        prune(network, data, options, tmp_path / "part")
    assert any("finished before" in line for line in again)


def test_goals_and_methods_share_one_pass_over_the_images(
    network: TinyDense, data: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(method: str, flops: float) -> PruneOptions:
        return PruneOptions(method=method, flops=flops, channel_multiple=2)

    wanted = [("pagcp", 0.5), ("pagcp", 0.7), ("l1-uniform", 0.5)]
    alone = [prune(network, data, asked(*one)) for one in wanted]
    prune(network, data, asked("pagcp", 0.3), state_dir=tmp_path)

    def again(*_: Any) -> None:
        raise AssertionError("went over the calibration pictures again")

    monkeypatch.setattr(evidence, "collect", again)
    for one, found in zip(wanted, alone, strict=True):
        shared = prune(network, data, asked(*one), state_dir=tmp_path)
        assert weights_hash(shared.network) == weights_hash(found.network)
        assert _without_seconds(shared.to_dict()) == _without_seconds(found.to_dict())
    monkeypatch.undo()
    other = PruneOptions(flops=0.5, channel_multiple=2, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(evidence, "collect", again)
        with pytest.raises(AssertionError, match="again"):
            prune(network, data, other, state_dir=tmp_path)


def test_half_a_search_of_before_compensation_is_refused(
    network: TinyDense, data: DataSplits, tmp_path: Path
) -> None:
    old = tmp_path / "0123456789abcdef" / "round1" / "search.pt"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    with pytest.raises(UsageError, match="earlier version") as caught:
        prune(network, data, PruneOptions(flops=0.5), state_dir=tmp_path)
    assert "--fresh" in (caught.value.hint or "")


def test_a_step_that_breaks_the_network_is_taken_back(
    network: TinyDense, data: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = PruneOptions(flops=0.6, channel_multiple=2)
    broken = prune(network, data, options).rounds[0].steps[0].group

    def check_export(context: PruneContext, keep: Mapping[str, torch.Tensor]) -> None:
        if not bool(keep[broken].all()):
            raise StageFailed("does not work")

    monkeypatch.setattr(PruneContext, "check_export", check_export)
    result = prune(network, data, options)
    one = result.rounds[0]
    assert result.goals_reached and one.widths[broken][0] == one.widths[broken][1]
    assert [refusal.group for refusal in one.refused] == [broken]
    assert one.refused[0].width == one.widths[broken][0] > one.refused[0].width_tried
    assert any(broken in note and "does not work" in note for note in result.notes)


def test_others_that_look_at_the_images_find_the_same(network: TinyDense, data: DataSplits) -> None:
    options = PruneOptions(flops=0.3, channel_multiple=2)
    alone = prune(network, data, options)
    opened: list[Others] = []

    def others(context: PruneContext) -> Others:
        opened.append(Others(context))
        return opened[-1]

    shared = prune(network, data, options, workers=others)
    assert _without_seconds(shared.to_dict()) == _without_seconds(alone.to_dict())
    assert weights_hash(shared.network) == weights_hash(alone.network)
    assert [(one.asked >= 8, one.lost > 0, one.closed) for one in opened] == [(True, True, True)]

    found = []
    for workers in (None, others):
        context = _context(network, data, options, Goals(), workers)
        keep = {group.name: torch.arange(group.width) % 3 > 0 for group in context.groups}
        found.append(PaperSearch(context)._losses(keep).tolist())
    assert found[0] == found[1]
    assert opened[1].asked == len(context.batches) == 2


def test_the_published_scan_keeps_its_budgets_and_spends_more(
    network: TinyDense, tmp_path: Path
) -> None:
    root = write_dense_folder(tmp_path, "train", count=76, seed=4)
    data = DataSplits.split([DenseFolder.open(root, "train")], oracle=64, calibration=8)
    budgets = {"parts": 1.5, "distance": 1.5}
    found = {
        method: prune(
            network,
            data,
            PruneOptions(method, budgets=budgets, channel_multiple=1, compensate=False),
        )
        for method in ("pagcp", "pagcp-paper")
    }
    scan = found["pagcp-paper"].rounds[0]
    assert scan.steps and all(ratio <= 1.5 for ratio in scan.loss_ratio.values())
    assert all(step.checks <= 19 for step in scan.steps)
    assert found["pagcp"].rounds[0].spent.macs < scan.spent.macs


def test_clear_errors(network: TinyDense, data: DataSplits) -> None:
    with pytest.raises(UsageError, match="needs a goal"):
        prune(network, data, PruneOptions("l1-uniform"))
    with pytest.raises(UsageError, match="no pruning method"):
        prune(network, data, PruneOptions("magic"))
    with pytest.raises(UsageError, match="not pruned for"):
        prune(network, data, PruneOptions(budgets={"pose": 2.0}))
    with pytest.raises(UsageError, match="no held-out pictures"):
        prune(network, data, PruneOptions("knapsack", flops=0.5), workers=Others)
    with pytest.raises(UsageError, match="must be a share"):
        PruneOptions(flops=40)
    with pytest.raises(UsageError, match="above 1"):
        PruneOptions(budgets={"parts": 0.5})
    with pytest.raises(StageFailed, match="no channel"):
        prune(network, data, PruneOptions(budgets={"parts": 1.5}, channel_multiple=512))
    assert set(ALL_METHODS) <= set(methods())
