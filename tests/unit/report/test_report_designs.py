"""Modelled plans in the report and on the terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from edgemtl.backends.fpga.device import FpgaOptions
from edgemtl.backends.fpga.sweep import choose
from edgemtl.backends.fpga.work import Work
from edgemtl.record.designs import parse_plan
from edgemtl.report.designs import draw_designs, front, print_plan, section

BOARD = FpgaOptions(dsp=1728, bram36=312, uram=96)


@pytest.fixture(scope="module")
def plan() -> dict[str, Any]:
    works = [
        Work("a/Conv", "conv", 1600, 64, 64, 9, ("x",), "a", (102400,), 102400, 37376),
        Work("b/Conv", "conv", 1600, 64, 132, 1, ("a",), "b", (102400,), 211200, 9504),
    ]
    taken, points = choose(works, BOARD)
    sweep = [point.to_dict() for point in points]
    return {**taken.to_dict(), "host": {"Reshape": 2}, "sweep": sweep}


def test_a_plan_is_read_back(plan: dict[str, Any]) -> None:
    facts = parse_plan(plan)
    assert facts is not None
    assert facts.taken.latency_ms == plan["latency_ms"]
    assert facts.taken.dsp == plan["resources"]["dsp"]
    assert len(facts.points) == len(plan["sweep"])
    assert sum(bool(p.refused) for p in facts.points) == sum(
        bool(r["refused"]) for r in plan["sweep"]
    )


def test_without_a_design_there_is_nothing_to_show() -> None:
    assert parse_plan({"kind": "modelled", "note": "no layer is int8"}) is None
    assert section(None) is None


@pytest.mark.parametrize("latency", [None, 0, -1.0, "fast"])
def test_a_design_without_a_latency_is_refused(plan: dict[str, Any], latency: object) -> None:
    with pytest.raises(ValueError, match="without a latency"):
        parse_plan({**plan, "latency_ms": latency})


def test_the_front_holds_what_none_beats(plan: dict[str, Any]) -> None:
    facts = parse_plan(plan)
    assert facts is not None
    found = front(facts.points)
    assert len(found) > 1
    memory, latency = [p.memory_kib for p in found], [p.latency_ms for p in found]
    assert memory == sorted(memory) and latency == sorted(latency, reverse=True)
    for point in facts.points:
        if not point.refused:
            assert any(
                p.memory_kib <= point.memory_kib and p.latency_ms <= point.latency_ms for p in found
            )


def test_the_plot_draws_every_design_and_says_modelled(plan: dict[str, Any]) -> None:
    facts = parse_plan(plan)
    assert facts is not None
    svg = str(draw_designs(facts, "designs"))
    assert svg.count("<circle") == len(facts.points) + 1
    assert svg.count('class="design refused"') == sum(bool(p.refused) for p in facts.points)
    assert "Modelled latency against memory" in svg
    for position in [part.split('"')[0] for part in svg.split(' cx="')[1:]]:
        assert 0 <= float(position.rstrip("%")) <= 100


def test_the_section_lists_what_was_taken_first(plan: dict[str, Any]) -> None:
    found = section(parse_plan(plan))
    assert found is not None
    assert found["rows"][0]["name"].endswith("(taken)")
    assert found["looked_at"] > found["refused"] > 0


def test_a_time_is_a_headline_only_where_nearly_all_is_modelled(plan: dict[str, Any]) -> None:
    facts = parse_plan(plan)
    assert facts is not None and facts.macs == plan["macs"]
    full, part = section(facts, plan["macs"] * 1.05), section(facts, plan["macs"] * 100.0)
    unknown = section(facts)
    assert full is not None and part is not None and unknown is not None
    assert full["coverage"].startswith("95% of the network's")
    assert "alone" not in full["rows"][0]["latency"]
    assert part["coverage"].startswith("only 1.0% of the network's")
    assert part["rows"][0]["latency"].endswith("modelled layers alone")
    assert "nobody counted" in unknown["coverage"]


def test_the_terminal_says_first_how_much_is_modelled(plan: dict[str, Any]) -> None:
    told = io.StringIO()
    console = Console(file=told, width=200)
    print_plan(console, "zcu104", {**plan, "network_macs": plan["macs"] * 10}, every_layer=True)
    first, second = told.getvalue().splitlines()[:2]
    assert "only 10.0% of the network's multiply-accumulates are modelled" in first
    assert "ms for these layers alone" in second


def test_the_terminal_shows_design_layers_and_what_is_left(plan: dict[str, Any]) -> None:
    told = io.StringIO()
    print_plan(Console(file=told, width=100), "zcu104", plan, every_layer=True)
    text = told.getvalue()
    assert "target zcu104, modelled:" in text
    assert "of 1728 DSP" in text
    assert "│ a " in text and "│ b " in text
    assert "left to the processor, not modelled: 2 Reshape" in text
