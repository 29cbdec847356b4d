"""The search for what stays in float32, the ranges, the options, the result, the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.compress.quantize import (
    Candidate,
    Culprit,
    QuantizeOptions,
    QuantizeResult,
    TaskVerdict,
    choose_precision,
)
from edgemtl.compress.quantize.ranges import BINS, entropy_share, histogram, kept_share
from edgemtl.compress.quantize.search import failing, fewest, rank
from edgemtl.compress.quantize.weights import LEVELS
from edgemtl.errors import InputRefused, UsageError


def verdict(drop: float | None, budget: float | None = 0.01) -> TaskVerdict:
    return TaskVerdict("ap", 1.0, None if drop is None else 1 - drop, drop, budget)


class Oracle:
    """A network whose loss per task is the sum over the regions that are quantised."""

    def __init__(self, costs: Mapping[str, Mapping[str, float]], budget: float = 0.01) -> None:
        self.costs, self.budget, self.calls = costs, budget, 0

    def __call__(self, kept: Sequence[str]) -> dict[str, TaskVerdict]:
        self.calls += 1
        tasks = next(iter(self.costs.values()))
        return {
            task: verdict(
                sum(cost[task] for name, cost in self.costs.items() if name not in kept),
                self.budget,
            )
            for task in tasks
        }

    def search(self, evaluations: int = 50):
        full = self([])
        self.calls = 0
        return fewest(rank(self.costs, failing(full) or ["a"]), self, full, evaluations)


def test_nothing_stays_where_everything_fits() -> None:
    oracle = Oracle({"x": {"a": 0.001}, "y": {"a": 0.002}})
    found = oracle.search()
    assert (found.kept, found.enough, oracle.calls) == ((), True, 0)


def test_the_culprit_of_one_task_is_found() -> None:
    costs = {f"r{i}": {"a": 0.0001, "b": 0.0001} for i in range(40)}
    costs["r17"] = {"a": 0.0, "b": 0.5}
    oracle = Oracle(costs)
    found = oracle.search()
    assert found.kept == ("r17",)
    assert oracle.calls == 1


def test_a_region_that_turns_out_needless_is_given_back() -> None:
    # The estimate ranks "decoy" first, the measurement knows better.
    true = Oracle({"decoy": {"a": 0.0}, "x": {"a": 0.1}, "y": {"a": 0.1}})
    found = fewest(["decoy", "x", "y"], true, true([]), 20)
    assert set(found.kept) == {"x", "y"} and found.enough


def test_the_best_is_kept_where_nothing_is_enough() -> None:
    oracle = Oracle({"x": {"a": 0.2}, "y": {"a": 0.1}})
    found = fewest(["x", "y"], oracle, oracle([]), 1)
    assert found.kept == ("x",) and not found.enough
    assert failing(found.verdicts) == ["a"]


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=24), st.integers(1, 60), st.integers(0, 40)
)
def test_what_is_found_holds_within_the_evaluations(
    sizes: list[int], evaluations: int, budget: int
) -> None:
    costs = {f"r{i}": {"a": float(size)} for i, size in enumerate(sizes)}
    oracle = Oracle(costs, budget)
    found = oracle.search(evaluations)
    assert oracle.calls <= evaluations
    assert found.enough == (not failing(oracle(found.kept)))
    if evaluations >= 30:
        assert found.enough
        # Costs add up and are known exactly here, so the dearest first is the best there is.
        left, kept = sum(sizes), 0
        for size in sorted(sizes, reverse=True):
            if left <= budget:
                break
            left, kept = left - size, kept + 1
        assert len(found.kept) == kept


def test_regions_are_ranked_by_their_share_of_a_failing_task() -> None:
    costs = {
        "x": {"a": 100.0, "b": 0.1},
        "y": {"a": 1.0, "b": 0.9},
        "z": {"a": 1.0, "b": -0.2},
    }
    assert rank(costs, ["b"]) == ["y", "x", "z"]
    assert rank(costs, ["a", "b"]) == ["x", "y", "z"]


def test_a_task_that_cannot_be_judged_is_outside_its_budget() -> None:
    assert failing({"a": verdict(None), "b": verdict(None, None), "c": verdict(0.0)}) == ["a"]


def test_histogram_leaves_zeros_out() -> None:
    counts = histogram(np.float32([0, 0, 1, -2, 4]), 4.0)
    assert counts.sum() == 3
    assert counts[BINS // 4] == counts[BINS // 2] == counts[-1] == 1


def test_percentile_ignores_a_few_outliers() -> None:
    values = np.concatenate([np.linspace(0.01, 1, 100_000), [100.0]]).astype(np.float32)
    counts = histogram(values, 100.0)
    assert kept_share(counts, 0.9999) == pytest.approx(0.01, abs=2 / BINS)
    assert kept_share(counts, 1.0) == 1.0


def test_entropy_cuts_a_long_tail_and_keeps_a_flat_range() -> None:
    rng = np.random.default_rng(0)
    tail = np.abs(rng.standard_normal(200_000)).astype(np.float32)
    tail[:3] = 40.0
    assert entropy_share(histogram(tail, 40.0)) < 0.3
    flat = rng.uniform(0, 1, 200_000).astype(np.float32)
    assert entropy_share(histogram(flat, float(flat.max()))) > 0.9
    assert entropy_share(histogram(tail, 40.0)) > LEVELS / BINS


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "int4"},
        {"method": "best"},
        {"images": 0},
        {"max_evaluations": 1},
        {"budgets": {"pose": -0.1}},
        {"budgets": {"pose": float("nan")}},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict) -> None:
    with pytest.raises(UsageError):
        QuantizeOptions(**options).check()


def result(folder: Path) -> QuantizeResult:
    return QuantizeResult(
        folder / "int8.onnx",
        "int8",
        ("a/Conv",),
        {"b/Conv": "why"},
        (Culprit("b/Conv", ("b",), {"pose": 0.5}, True),),
        {"pose": verdict(0.005), "depth": verdict(None, None)},
        3,
        64,
        200,
        "minmax",
        0,
        100,
        30,
        ("note",),
    )


def test_a_result_survives_json(tmp_path: Path) -> None:
    import json

    made = result(tmp_path)
    data = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert str(tmp_path) not in json.dumps(data)
    assert QuantizeResult.from_dict(data, tmp_path) == made
    assert data["within_budgets"] is True


@pytest.mark.parametrize("broken", [{}, {"kept": 3}, {"tasks": {"pose": {}}}, {"culprits": [1]}])
def test_a_broken_result_is_refused(tmp_path: Path, broken: dict) -> None:
    with pytest.raises(InputRefused):
        QuantizeResult.from_dict(result(tmp_path).to_dict() | broken if broken else {}, tmp_path)


def candidates(*rows: tuple[str, float | None, bool | None]) -> list[Candidate]:
    return [Candidate(*row) for row in rows]


def test_the_fastest_that_passes_is_taken() -> None:
    chosen = choose_precision(
        candidates(("fp32", 10.0, True), ("fp16", 6.0, True), ("int8", 4.0, False))
    )
    assert (chosen.precision, chosen.passes) == ("fp16", True)
    assert chosen.rejected == {"fp32": "10 ms against 6 ms", "int8": "its gates fail"}


def test_int8_that_is_slower_is_not_taken() -> None:
    assert choose_precision(candidates(("fp32", 6.0, True), ("int8", 18.0, True))).precision == (
        "fp32"
    )


def test_a_gain_that_is_not_worth_it_is_left() -> None:
    assert choose_precision(candidates(("fp32", 10.0, True), ("int8", 9.8, True))).precision == (
        "fp32"
    )


def test_without_latency_the_most_precise_that_passes_is_taken() -> None:
    chosen = choose_precision(
        candidates(("fp32", None, False), ("fp16", None, True), ("int8", None, True))
    )
    assert chosen.precision == "fp16" and "no latency" in chosen.reason


def test_what_was_not_measured_does_not_win_over_what_was() -> None:
    chosen = choose_precision(candidates(("fp32", 10.0, True), ("int8", None, True)))
    assert chosen.precision == "fp32" and "not measured" in chosen.rejected["int8"]


def test_where_nothing_passes_the_most_precise_is_taken_and_said_so() -> None:
    chosen = choose_precision(candidates(("fp32", 10.0, False), ("int8", 4.0, None)))
    assert (chosen.precision, chosen.passes) == ("fp32", False)


def test_no_candidate_is_refused() -> None:
    with pytest.raises(UsageError):
        choose_precision([])
