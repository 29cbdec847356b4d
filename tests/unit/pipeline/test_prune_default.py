"""Whether a run prunes where its recipe leaves that open, what it says, and what it asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.data import write_dense_folder
from support.dense_family import build
from support.dense_work import DenseWork

from edgemtl import recipes, targets
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.errors import TargetUnavailable, UsageError
from edgemtl.pipeline import prune_default
from edgemtl.pipeline.defaults import recipe_for
from edgemtl.pipeline.plan import plan
from edgemtl.pipeline.prune import latency_on, prune_options
from edgemtl.pipeline.prune_default import decide
from edgemtl.pipeline.stage import Decision
from edgemtl.pipeline.task_limits import most_drops
from edgemtl.recipes import Recipe
from edgemtl.targets import Target

CPU = targets.load("cpu")
INTEL = targets.load("intel-cpu")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    folder = tmp_path_factory.mktemp("work")
    torch.save(build().state_dict(), folder / "dense.pt")
    write_dense_folder(folder / "data", "train", 8, seed=1)
    write_dense_folder(folder / "data", "val", 2, seed=2)
    return DenseWork(folder / "dense.pt", folder / "data")


def _recipe(*assignments: str) -> Recipe:
    return recipes.resolve({}, None, assignments, {})


def _decide(work: DenseWork, *assignments: str, data: Path | None = None) -> Decision:
    recipe = _recipe(f"data.root={str(data or work.data)!r}", *assignments)
    return decide(build(), recipe, CPU)


def _prunes(found: Decision) -> bool:
    assert found.run is found.recipe.prune.enabled
    return "prune" in {stage.name for stage in plan(found.recipe)}


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune_default, "FEWEST_IMAGES", 8)


@pytest.mark.usefixtures("few_are_enough")
def test_training_images_are_used_and_the_time_is_told(work: DenseWork) -> None:
    found = _decide(work)
    assert found.recipe.prune.enabled and _prunes(found)
    assert "40% of the multiply-accumulates and 40% of the parameters" in found.reason
    assert "8 training pictures" in found.reason and " min " in found.reason
    assert "--no-prune" in found.reason
    assert "50% of the latency" in _decide(work, "prune.goal='latency'").reason


@pytest.mark.usefixtures("few_are_enough")
def test_it_is_told_where_the_goal_gives_way_to_the_tasks(work: DenseWork) -> None:
    gives_way = ", or less far where that costs a task more than its gate leaves,"
    data = f"data.root={str(work.data)!r}"

    def told(*assignments: str) -> str:
        recipe = recipe_for(INTEL, None, [data, *assignments])
        return decide(build(), recipe, INTEL).reason

    assert told().startswith(f"pruning to 20% of the multiply-accumulates{gives_way} with 8 ")
    assert gives_way in _decide(work).reason
    # Whoever names a goal gets it; and one round has no earlier one to go back to.
    for assignment in ("prune.flops=0.2", "prune.priority=goal", "prune.rounds=1"):
        assert "pruning to 20% of the multiply-accumulates with 8 " in told(assignment)


@pytest.mark.usefixtures("few_are_enough")
def test_a_goal_below_what_the_channels_allow_is_told_before(work: DenseWork) -> None:
    told = _decide(work, "prune.flops=0.01").reason
    assert "the goal is out of reach" in told and "inspect --groups" in told
    assert "out of reach" not in _decide(work, "prune.flops=0.95").reason


@pytest.mark.usefixtures("few_are_enough")
def test_more_recovery_takes_longer(work: DenseWork, monkeypatch: pytest.MonkeyPatch) -> None:
    def minutes(steps: int) -> int:
        words = _decide(work, f"recover.steps={steps}").reason.split()
        return int(words[words.index("min") - 1])

    assert minutes(10**6) > 100 * minutes(100)


def test_without_images_nothing_is_looked_for() -> None:
    found = decide(build(), _recipe(), CPU)
    assert found.recipe.prune.enabled is False and not _prunes(found)
    assert "needs training pictures" in found.reason


def test_too_few_images_are_left_alone(work: DenseWork) -> None:
    found = _decide(work)
    assert not _prunes(found) and "8 training pictures are too few" in found.reason


@pytest.mark.usefixtures("few_are_enough")
def test_what_lacks_labels_or_a_split_is_left_alone(work: DenseWork, tmp_path: Path) -> None:
    write_dense_folder(tmp_path / "half", "train", 8, kinds=["segmentation"])
    found = _decide(work, data=tmp_path / "half")
    assert not _prunes(found) and "labelled for 'distance'" in found.reason
    # Of tasks that are not kept no labels are needed.
    assert _prunes(_decide(work, 'model.tasks=["parts"]', data=tmp_path / "half"))
    write_dense_folder(tmp_path / "other", "val", 8)
    found = _decide(work, data=tmp_path / "other")
    assert not _prunes(found) and "no split 'train'" in found.reason


@pytest.mark.usefixtures("few_are_enough")
def test_a_pruned_network_is_not_pruned_again_unasked(work: DenseWork) -> None:
    network = build()
    group = channel_groups(network)[0]
    smaller = cut(network, {group.name: torch.arange(group.width) < group.width // 2})
    recipe = _recipe(f"data.root={str(work.data)!r}")
    found = decide(smaller, recipe, CPU)
    assert not _prunes(found) and "pruned already" in found.reason


def test_what_is_asked_where_nothing_or_something_is() -> None:
    def asked(*assignments: str) -> tuple[object, ...]:
        found = prune_options(_recipe(*assignments), CPU, build())
        return found.flops, found.params, found.latency_ratio, found.rounds

    assert asked() == (0.4, 0.4, None, 2)
    assert asked("prune.flops=0.7") == (0.7, None, None, 2)
    assert asked("prune.budgets.parts=1.2") == (None, None, None, 1)
    assert asked("prune.latency_ratio=0.6") == (None, None, 0.6, 2)
    assert asked("prune.goal='latency'") == (None, None, 0.5, 2)
    assert asked("prune.goal='latency'", "prune.budgets.parts=1.2") == (None, None, None, 1)
    assert asked("prune.latency_ratio=0.6", "prune.flops=0.5") == (0.5, None, 0.6, 2)
    assert asked("recover.steps=0") == (0.4, 0.4, None, 1)
    assert asked("prune.rounds=3") == (0.4, 0.4, None, 3)
    with pytest.raises(UsageError, match="milliseconds"):
        asked("prune.goal='latency'", "prune.flops=0.5")


def test_milliseconds_are_measured_only_where_they_are_asked_for(tmp_path: Path) -> None:
    recipe = _recipe()
    options = prune_options(recipe, CPU, build())
    assert latency_on(recipe, CPU, options) is None
    timed = _recipe("prune.latency_ratio=0.5", "bench.threads=0")
    found = latency_on(timed, CPU, options)
    assert found is not None
    assert (found.target.name, found.threads, found.precision) == ("cpu", 1, "fp32")
    ships = _recipe("prune.latency_ratio=0.5", "quantize.enabled=true", "quantize.precision='int8'")
    found = latency_on(ships, CPU, options)
    assert found is not None and found.precision == "int8"
    with pytest.raises(TargetUnavailable):
        latency_on(timed, targets.load("jetson"), options)


# --- the target's goal ---------------------------------------------------------------------------


def _for_intel(work: DenseWork, *assignments: str, target: Target = INTEL) -> Recipe:
    return recipe_for(target, None, [f"data.root={str(work.data)!r}", *assignments])


def test_the_targets_goal_holds_where_none_is_named(work: DenseWork) -> None:
    found = _for_intel(work)
    options = prune_options(found, INTEL, build())
    assert (options.flops, options.params, options.rounds) == (0.2, None, 2)
    # A resolved recipe does not say whose the goal was, so what comes first stands in it.
    assert found.prune.priority == "tasks" and options.most_drop
    again = recipes.validate(found.to_dict(), "recipe.resolved.toml")
    assert prune_options(again, INTEL, build()) == options
    assert _for_intel(work, "prune.priority=goal", "prune.rounds=3").prune.flops == 0.2
    assert recipe_for(INTEL, None, []).prune == Recipe().prune


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("prune.flops=0.7", (0.7, None, None)),
        ("prune.params=0.5", (None, 0.5, None)),
        ("prune.latency_ratio=0.6", (None, None, 0.6)),
        ("prune.goal=latency", (None, None, 0.5)),
        ("prune.budgets.parts=1.2", (None, None, None)),
    ],
)
def test_a_goal_of_the_users_replaces_the_targets(
    work: DenseWork, assignment: str, expected: tuple[float | None, ...]
) -> None:
    found = _for_intel(work, assignment)
    options = prune_options(found, INTEL, build())
    assert (options.flops, options.params, options.latency_ratio) == expected
    assert found.prune.priority is None and options.most_drop == {}
    # The rest of what the target sets is no goal, and holds.
    assert found.quantize.precision == "int8"


def test_the_users_goal_may_come_from_a_file_or_the_environment(
    work: DenseWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "recipe.toml"
    config.write_text("[prune.budgets]\nparts = 1.2\n", "utf-8")
    data = [f"data.root={str(work.data)!r}"]
    assert recipe_for(INTEL, config, data).prune.flops is None
    monkeypatch.setenv("EDGEMTL_PRUNE__GOAL", "latency")
    assert recipe_for(INTEL, None, data).prune.flops is None


def test_a_target_may_set_more_of_pruning_than_a_goal(work: DenseWork) -> None:
    own = {"prune": {"budgets": {"parts": 1.3}, "rounds": 3, "priority": "goal"}}
    target = INTEL.model_copy(update={"defaults": own})
    found = _for_intel(work, target=target).prune
    assert (dict(found.budgets), found.rounds, found.priority) == ({"parts": 1.3}, 3, "goal")
    found = _for_intel(work, "prune.flops=0.5", target=target).prune
    assert (found.budgets, found.flops, found.rounds) == ({}, 0.5, 3)
    target = INTEL.model_copy(update={"defaults": {"prune": {"rounds": 3}}})
    assert _for_intel(work, target=target).prune.priority is None
    target = INTEL.model_copy(update={"defaults": {"prune": 3}})
    with pytest.raises(UsageError, match="'prune'"):
        _for_intel(work, target=target)


# --- what pruning may cost a task ----------------------------------------------------------------


def _most(*assignments: str) -> dict[str, float]:
    return most_drops(_recipe(*assignments), build().tasks)


def test_pruning_may_cost_a_task_what_its_gate_leaves() -> None:
    gate = "gates.tasks.parts.max_relative_drop=0.06"
    assert _most(gate) == {"parts": 0.06, "distance": 0.02}
    lower = ("quantize.enabled=true", "quantize.precision=int8")
    assert _most(gate, *lower) == pytest.approx({"parts": 0.03, "distance": 0.01})
    assert _most(gate, "quantize.enabled=true", "quantize.precision=fp32")["parts"] == 0.06
    found = _most(gate, *lower, "quantize.budgets.parts=0.01", "quantize.budgets.distance=0.5")
    assert found == pytest.approx({"parts": 0.05, "distance": 0})
    assert _most("gates.tasks.parts.max_relative_drop=false", *lower).keys() == {"distance"}


def test_the_tasks_come_first_unless_a_goal_is_named() -> None:
    assert _most() and _most("prune.flops=0.5", "prune.priority=tasks")
    assert _most("prune.flops=0.5") == _most("prune.priority=goal") == {}
