"""Drawings hold the numbers they are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.htmltree import parse

from edgemtl.record.rundata import NodeFacts
from edgemtl.report.charts import (
    BINS,
    Series,
    count_timings,
    draw_bar,
    draw_histogram,
    draw_interval,
    nice_ticks,
)
from edgemtl.report.modules import costly_modules

_TIMES = st.lists(st.floats(0, 1e4), min_size=1, max_size=60)


def _series(label: str, samples: list[float]) -> Series:
    marks = [(f"p{p}", float(np.percentile(samples, p))) for p in (50, 90, 99)]
    return Series(label, "after", samples, marks)


@given(_TIMES, _TIMES)
def test_every_timing_is_in_one_bar(first: list[float], second: list[float]) -> None:
    found = count_timings([_series("a", first), _series("b", second)])
    assert found is not None
    assert [sum(counts) for counts in found.counts] == [len(first), len(second)]
    assert BINS[0] <= len(found.edges_ms) - 1 == len(found.counts[0]) <= BINS[1]
    assert list(found.edges_ms) == sorted(set(found.edges_ms))
    last = found.edges_ms[-1]
    assert found.beyond == tuple(sum(v > last for v in s) for s in (first, second))


def test_one_very_slow_run_does_not_squeeze_the_others() -> None:
    samples = [10 + 0.01 * i for i in range(200)] + [1000.0]
    found = count_timings([_series("a", samples)])
    assert found is not None
    assert found.edges_ms[-1] < 15
    assert found.beyond == (1,)
    assert sum(1 for n in found.counts[0] if n) > 10


def test_nothing_timed_is_nothing_drawn() -> None:
    assert count_timings([]) is None
    assert count_timings([Series("a", "after", [], [])]) is None


def test_histogram_draws_a_bar_per_filled_bin() -> None:
    found = count_timings([_series("<b>&", [1.0, 1.0, 2.0, 5.0] * 30)])
    assert found is not None
    drawing = parse(str(draw_histogram(found, "x"))).all("svg")[0]
    assert len(drawing.all("rect")) == sum(1 for n in found.counts[0] if n) == 3
    heights = [float(r.attributes["height"]) for r in drawing.all("rect")]
    assert heights[0] == pytest.approx(2 * heights[1]) == pytest.approx(2 * heights[2])
    assert any(t.text == "<b>&" for t in drawing.all("text"))


@given(st.floats(0.01, 50), st.floats(0.5, 1), st.floats(1, 2))
def test_interval_stands_where_it_should(value: float, below: float, above: float) -> None:
    drawing = parse(str(draw_interval(value, value * below, value * above, "x")))
    whisker = drawing.all("line")[2].attributes
    left, right = (float(whisker[k].rstrip("%")) for k in ("x1", "x2"))
    point = float(drawing.all("circle")[0].attributes["cx"].rstrip("%"))
    even = float(drawing.all("line")[1].attributes["x1"].rstrip("%"))
    assert 0 <= left <= point <= right <= 100
    assert 0 <= even <= 100
    if not 0.99 < value < 1.01:
        assert (point > even) == (value > 1)


def test_bars_stay_within_their_cell() -> None:
    widths = [r.attributes["width"] for r in parse(str(draw_bar(0.25, 7.0))).all("rect")]
    assert widths == ["100.00%", "25.00%"]


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_ticks_are_round_and_inside(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert 1 <= len(ticks) <= 6
    assert all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in ticks)


def _node(module: str, macs: float) -> NodeFacts:
    return NodeFacts("n", "Conv", module, macs, macs / 10)


_NODES = st.lists(
    st.builds(
        _node,
        st.lists(st.sampled_from("abc"), max_size=4).map(".".join),
        st.integers(0, 1000).map(float),
    ),
    max_size=40,
)


@given(_NODES, _NODES, st.integers(1, 20))
def test_modules_hold_all_the_work(
    after: list[NodeFacts], before: list[NodeFacts], wanted: int
) -> None:
    found = costly_modules(after, before, wanted)
    assert sum(w.macs for w in found) == sum(n.macs for n in after)
    assert len({w.module for w in found}) == len(found)
    assert [w.macs for w in found] == sorted((w.macs for w in found), reverse=True)
    if before:
        assert sum(w.macs_before or 0 for w in found) == sum(n.macs for n in before)
    if any(n.macs for n in after):
        assert sum(w.share for w in found) == pytest.approx(1)


def test_the_costly_module_is_opened_and_the_cheap_one_is_not() -> None:
    nodes = [_node(f"backbone.block{i}.conv", 100.0) for i in range(6)]
    nodes += [_node(f"head.part{i}", 1.0) for i in range(6)]
    found = costly_modules(nodes, wanted=8)
    assert [w.module for w in found][-1] == "head"
    assert len(found) == 7 and found[0].module.startswith("backbone.block")


def test_a_module_that_was_cut_away_is_still_shown() -> None:
    found = costly_modules([_node("a", 10)], [_node("a", 10), _node("b", 30)])
    assert {w.module: (w.macs, w.macs_before) for w in found} == {"a": (10, 10), "b": (0, 30)}


def test_nodes_without_work_are_left_out() -> None:
    nodes = [_node("a", 10), replace(_node("b", 0), parameters=0)]
    assert [w.module for w in costly_modules(nodes)] == ["a"]
