"""Numbers as text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemtl.report.figures import (
    GAP,
    less,
    metric_figures,
    percent,
    pointer,
    scaled_figures,
    seconds,
    significant,
    worse,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12.345, "12.3"),
        (-12.345, "\u221212.3"),
        (0.012345, "0.0123"),
        (123456.7, "123,457"),
        (2.3e-7, "2.30e-07"),
        (math.inf, "inf"),
    ],
)
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


@given(st.floats(1e-12, 1e12), st.sampled_from((-1, 1)))
def test_significant_digits_are_right(value: float, sign: int) -> None:
    text = significant(sign * value).replace(",", "").replace("\u2212", "-")
    assert float(text) == pytest.approx(sign * value, rel=5.001e-3)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.02, "2 %"),
        (0.0123, "1.23 %"),
        (0.4567, "45.7 %"),
        (-0.5, "50 %"),
        (1, "100 %"),
        (10, "1,000 %"),
        (0, "0 %"),
        (1e-7, "under 0.01 %"),
        (math.inf, "infinitely"),
    ],
)
def test_percent(share: float, text: str) -> None:
    assert percent(share).replace(GAP, " ") == text


def test_worse_and_better_are_words() -> None:
    assert worse(0.011).text.replace(GAP, " ") == "1.1 % worse"
    assert worse(-0.011).text.replace(GAP, " ") == "1.1 % better"
    assert worse(0.0).text == "unchanged"
    assert worse(math.inf).text == "infinitely worse"
    assert worse(None).value is None


def test_less_and_more_are_words() -> None:
    assert less(200, 50).text.replace(GAP, " ") == "75 % less"
    assert less(200, 50).value == -0.75
    assert less(50, 200).text.replace(GAP, " ") == "300 % more"
    assert less(50, 50).text == "unchanged"
    assert less(0, 50).value is None and less(None, 50).value is None


def test_figures_side_by_side_have_equal_decimals() -> None:
    texts = [f.text for f in metric_figures([10.0, 9.123], "%", ["", ""])]
    assert texts == [f"10.00{GAP}%", f"9.12{GAP}%"]
    assert [f.text for f in metric_figures([0.78, None], "", ["", "a"])] == [
        "0.780",
        "not measured",
    ]


def test_counts_side_by_side_have_one_prefix() -> None:
    texts = [f.text for f in scaled_figures([1.3e9, 4.2e7], "", ["", ""])]
    assert texts == [f"1.30{GAP}G", f"0.0420{GAP}G"]
    assert scaled_figures([512], "B", [""])[0].text == f"512{GAP}B"
    assert scaled_figures([None], "B", ["x"], "not counted")[0].text == "not counted"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.3, "0.30 s"), (41.2, "41 s"), (725, "12 min 5 s"), (7260, "2 h 1 min")],
)
def test_durations(value: float, text: str) -> None:
    assert seconds(value).text.replace(GAP, " ") == text


def test_pointers_escape_names() -> None:
    assert pointer("a.json", "tasks", "x/y~z", 3) == "a.json#/tasks/x~1y~0z/3"
