"""Where the tasks come before the goal, the last round that kept them all is the result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.data import write_dense_folder
from support.dense_family import build

from edgemtl.compress import prune as prune_module
from edgemtl.compress.best_round import BudgetViolation, furthest_over
from edgemtl.compress.context import PruneOptions
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.outcome import PruneResult
from edgemtl.compress.prune import prune
from edgemtl.compress.recover import RecoverOptions, RecoverResult
from edgemtl.data.dense import DenseFolder
from edgemtl.errors import UsageError
from edgemtl.logs import Lines
from edgemtl.models.checkpoint import weights_hash
from edgemtl.pipeline.prune import PruneOutcome

MOST = {"parts": 0.01, "distance": 0.02}
INSIDE, OVER = {"parts": 0.01, "distance": -0.1}, {"parts": 0.0, "distance": 0.05}


def _recovery(*drops: Mapping[str, float], best: int = 0) -> RecoverResult:
    return RecoverResult(len(drops), best, {}, {}, {}, tuple(enumerate(drops)), 0.0)


def test_the_task_furthest_over_is_named() -> None:
    assert furthest_over(_recovery(INSIDE), MOST) is None
    assert furthest_over(_recovery(OVER), MOST) == BudgetViolation("distance", 0.05, 0.02)
    both = {"parts": 0.05, "distance": 0.055}
    assert furthest_over(_recovery(both), MOST) == BudgetViolation("parts", 0.05, 0.01)
    assert furthest_over(_recovery({"parts": math.inf}), MOST) == BudgetViolation(
        "parts", math.inf, 0.01
    )


def test_what_is_judged_is_the_network_that_was_kept() -> None:
    assert furthest_over(_recovery(OVER, INSIDE, OVER, best=1), MOST) is None
    assert furthest_over(_recovery(INSIDE, OVER, best=1), MOST) is not None


def test_what_has_no_limit_or_no_figure_is_not_judged() -> None:
    assert furthest_over(_recovery({"parts": 0.9}), {"distance": 0.02}) is None
    assert furthest_over(_recovery(OVER), {}) is None


@dataclass
class Pruned:
    """A pruning in rounds, with the drops that its recoveries are said to have ended with.

    Attributes:
        left: hash of what each recovery left.
        options: of the pruning, less what the tasks may lose.
    """

    data: DataSplits
    drops: list[Mapping[str, float]]
    left: list[str]
    options: PruneOptions

    def run(self, most: Mapping[str, float], state: Path | None = None) -> PruneResult:
        self.left.clear()
        torch.manual_seed(0)
        options = replace(self.options, most_drop=most)
        return prune(build().eval(), self.data, options, state)


@pytest.fixture
def pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pruned:
    root = write_dense_folder(tmp_path / "dense", "train", count=12, seed=3)
    data = DataSplits.split([DenseFolder.open(root, "train")], oracle=4, calibration=4)
    recovery = RecoverOptions(4, batch=2, evaluate_every=2, warmup=1, learning_rate=1e-3)
    options = PruneOptions("l1-uniform", flops=0.5, channel_multiple=1, rounds=2, recovery=recovery)
    found = Pruned(data, [INSIDE, OVER], [], options)
    real = prune_module.recover

    def recover(network: Any, *rest: Any) -> RecoverResult:
        result = real(network, *rest)
        drops = found.drops[len(found.left)]
        found.left.append(weights_hash(network))
        return replace(result, drops=((result.best_step, drops),))

    monkeypatch.setattr(prune_module, "recover", recover)
    return found


def test_an_earlier_round_is_kept_where_the_last_costs_a_task_too_much(pruned: Pruned) -> None:
    told: list[str] = []
    with Lines(told.append).shown():
        result = pruned.run(MOST)
    assert result.kept_round == 1 and len(result.rounds) == 2
    assert weights_hash(result.network) == pruned.left[0] != pruned.left[1]
    assert not result.network.training
    assert result.pruned == result.rounds[0].cost
    assert result.goals_reached is False
    (note,) = result.notes
    assert note in told
    share = result.rounds[0].cost.macs / result.dense.macs
    assert note == (
        "the result is the network of round 1: after round 2 of 2 'distance' is 5.0% worse than in "
        "the dense network on the held-out pictures, 2.0% is allowed; "
        f"{share:.1%} of the multiply-accumulates are left, 50.0% was the goal"
    )


def test_what_is_written_speaks_of_the_round_that_was_kept(pruned: Pruned) -> None:
    result = pruned.run(MOST)
    outcome = PruneOutcome(result, pruned.options, "dense.pt")
    written = outcome.story()
    assert (written["kept_round"], len(written["rounds"])) == (1, 2)
    assert written["steps"] == written["rounds"][0]["steps"]
    assert written["notes"] == list(result.notes)
    share = result.rounds[0].cost.macs / result.dense.macs
    assert outcome.summary()[0].startswith(f"{share:.1%} of the multiply-accumulates")


@pytest.mark.parametrize("drops", [[INSIDE, INSIDE], [OVER, INSIDE]])
def test_a_last_round_that_keeps_every_task_is_the_result(
    pruned: Pruned, drops: list[Mapping[str, float]]
) -> None:
    pruned.drops = drops
    result = pruned.run(MOST)
    assert result.kept_round == 2 and result.goals_reached and result.notes == ()
    assert weights_hash(result.network) == pruned.left[1]


def test_where_no_round_keeps_every_task_the_gates_judge_the_last(pruned: Pruned) -> None:
    pruned.drops = [OVER, {"parts": math.inf}]
    result = pruned.run(MOST)
    assert result.kept_round == 2 and result.goals_reached
    assert weights_hash(result.network) == pruned.left[1]
    (note,) = result.notes
    assert "'parts' is infinitely worse" in note and "no earlier round kept every task" in note


def test_the_deepest_of_several_is_kept(pruned: Pruned) -> None:
    pruned.options = replace(pruned.options, rounds=3)
    pruned.drops = [INSIDE, INSIDE, OVER]
    result = pruned.run(MOST)
    assert result.kept_round == 2 and weights_hash(result.network) == pruned.left[1]


def test_without_limits_the_goal_comes_first(pruned: Pruned) -> None:
    result = pruned.run({})
    assert result.kept_round == 2 and result.goals_reached and result.notes == ()


def test_after_a_kill_the_earlier_round_is_there_again(pruned: Pruned, tmp_path: Path) -> None:
    whole = pruned.run(MOST)

    class Killed(Exception):
        pass

    def kill(line: str) -> None:
        if line == "round 2 of 2":
            raise Killed

    # What the tasks may lose is no part of what a round does: with other limits it goes on too.
    with pytest.raises(Killed), Lines(kill).shown():
        pruned.run({}, tmp_path / "state")
    told: list[str] = []
    with Lines(told.append).shown():
        resumed = pruned.run(MOST, tmp_path / "state")
    assert any("recovery goes on" in line for line in told)
    assert resumed.kept_round == 1 and resumed.notes == whole.notes
    assert weights_hash(resumed.network) == weights_hash(whole.network)


def test_limits_are_checked(pruned: Pruned) -> None:
    with pytest.raises(UsageError, match="0 or more"):
        PruneOptions(most_drop={"parts": -0.01})
    with pytest.raises(UsageError, match="'pose', which is not pruned for"):
        pruned.run({"pose": 0.01})


def test_one_cut_is_all_where_it_reaches_the_goal_and_keeps_every_task(pruned: Pruned) -> None:
    pruned.options = replace(pruned.options, one_cut_first=True)
    result = pruned.run(MOST)
    assert len(result.rounds) == 1 and result.goals_reached and result.notes == ()
    assert len(pruned.left) == 1


def test_rounds_follow_where_one_cut_costs_a_task_too_much(pruned: Pruned) -> None:
    pruned.options = replace(pruned.options, one_cut_first=True)
    pruned.drops = [OVER, INSIDE, INSIDE]
    result = pruned.run(MOST)
    assert len(result.rounds) == 2 and result.goals_reached
    assert result.notes == ("one cut left 'distance' 5.0% worse, so it was cut in 2 rounds",)
    pruned.options = replace(pruned.options, one_cut_first=False)
    pruned.drops = [INSIDE, INSIDE]
    assert weights_hash(pruned.run(MOST).network) == weights_hash(result.network)
