"""Where the time goes, and what accuracy was paid for it, on the page."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from support.htmltree import parse
from support.run_folder import AFTER, BEFORE

from edgemtl.record.load import RunData, load_run
from edgemtl.report.page import render_html
from edgemtl.report.timings import layer_times
from edgemtl.report.tradeoff import plots


def test_modules_share_out_all_the_time(complete: RunData) -> None:
    found = layer_times(complete)
    assert found is not None
    total = sum(layer.ms for layer in complete.layers)
    assert sum(row.ms.value for row in found["modules"]) == pytest.approx(total)
    assert sum(row.share.value for row in found["modules"]) == pytest.approx(1)
    values = [row["ms"].value for row in found["layers"]]
    assert values == sorted(values, reverse=True)
    assert {row["module"] for row in found["layers"]} > {"", "heads.pose.yaw"}
    assert layer_times(replace(complete, layers=())) is None


def test_the_chosen_point_is_what_was_measured(complete: RunData) -> None:
    work, latency = plots(complete)
    kept = 1 - (AFTER["landmarks"]["nme_percent"] / BEFORE["landmarks"]["nme_percent"] - 1)
    assert f"landmarks {kept:.3f}" in work.caption or f"landmarks {kept:.4f}" in work.caption
    assert str(work.svg).count("<circle") == 4  # uncompressed and three tasks
    assert complete.comparison is not None
    share = 1 / complete.comparison.speedup.value
    assert f"takes {share:.3f} of the median latency" in latency.caption


def test_what_was_not_measured_is_not_drawn(complete: RunData) -> None:
    assert plots(replace(complete, accuracy=None)) == []
    assert len(plots(replace(complete, comparison=None))) == 1
    assert plots(replace(complete, comparison=None, cost_before=None)) == []


def test_both_stand_on_the_page(variant: Any) -> None:
    page = parse(render_html(load_run(variant("complete"))))
    assert "Where the time goes" in page.text and "What it cost, what it gained" in page.text
    sources = [e.attributes.get("data-source", "") for e in page.all("td")]
    assert any(re.fullmatch(r"bench/layers\.json#/layers/\d+/ms", source) for source in sources)
    assert "Where the time goes" not in parse(render_html(load_run(variant("only-run-json")))).text
