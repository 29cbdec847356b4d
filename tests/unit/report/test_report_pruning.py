"""What pruning did, as a table, sentences, curves and a page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.htmltree import parse

from edgemtl.record.prune_story import read_story
from edgemtl.report.prune_page import charts, draw_curves, render_prune_page
from edgemtl.report.prune_story import cost_table, sentences
from edgemtl.report.texttables import aligned


def _step(group: str, before: int, after: int, share: float, **changes: Any) -> dict[str, Any]:
    return {
        "group": group,
        "tasks": ["pose"],
        "width_before": before,
        "width_after": after,
        "macs_saved": 100.0,
        "params_saved": 10.0,
        "latency_saved_ms": None,
        "loss_rise": {"pose": 0.02, "detection": -0.01},
        "sensitive_task": "pose",
        "checks": 2,
        "images": 24,
        "macs_share": share,
        "loss_ratio": {"pose": 1 + (1 - share), "detection": 1.0},
        **changes,
    }


@pytest.fixture
def story() -> dict[str, Any]:
    return {
        "method": "pagcp",
        "dense": {"macs": 1000.0, "params": 100.0, "latency_ms": None},
        "pruned": {"macs": 400.0, "params": 50.0, "latency_ms": None},
        "rounds": [
            {
                "steps": [
                    _step("stem", 32, 24, 0.9),
                    _step("neck", 64, 32, 0.8),
                    _step("stem", 24, 16, 0.7, sensitive_task="detection"),
                ],
                "widths": {"stem": [32, 16], "neck": [64, 32], "head": [8, 8]},
                "refused": [
                    {"group": "head", "width": 8, "width_tried": 4, "problem": "does not export"}
                ],
                "latency": [],
                "recovery": {
                    "drops": [
                        {"step": 0, "drops": {"pose": 0.2, "detection": 0.1}},
                        {"step": 50, "drops": {"pose": 0.01, "detection": None}},
                    ]
                },
            },
            {"steps": [_step("stem", 16, 8, 0.4)], "recovery": None},
        ],
        "notes": ["a note"],
        "latency_table": None,
    }


def test_steps_of_a_group_add_up_within_a_round(story: dict[str, Any]) -> None:
    found = read_story(story)
    shown = [(g.round, g.name, g.before, g.after, g.macs, g.stopped_by) for g in found.groups]
    assert shown == [
        (1, "stem", 32, 16, pytest.approx(0.2), "detection"),
        (1, "neck", 64, 32, pytest.approx(0.1), "pose"),
        (2, "stem", 16, 8, pytest.approx(0.1), "pose"),
    ]
    assert found.groups[0].rises == {"pose": 0.04, "detection": -0.02}
    lines = aligned(cost_table(found))
    assert lines[0].split()[:4] == ["round", "group", "before", "after"]
    assert lines[2].split() == ["1", "stem", "32", "16", "20.00%", "+4.00%", "-2.00%", "detection"]
    assert "ms saved" not in lines[0]


def test_a_round_that_was_not_kept_tells_only_what_it_cost(story: dict[str, Any]) -> None:
    story["rounds"][1]["recovery"] = {"drops": [{"step": 0, "drops": {"pose": 0.3}}]}
    story["rounds"][1]["latency"] = [{"predicted": 0.2, "ratio": 0.2, "half": 0.01}]
    found = read_story(story | {"kept_round": 1})
    assert {group.round for group in found.groups} == {1} and found.latency == ()
    assert any("round 2" in line and "pose +30.00%" in line for line in sentences(found))
    for other in (2, 0, -1, "1", None, 9):  # whatever somebody wrote there
        assert {group.round for group in read_story(story | {"kept_round": other}).groups} == {1, 2}


def test_sentences_say_what_came_of_it(story: dict[str, Any]) -> None:
    told = sentences(read_story(story))
    assert told[0] == "40.0% of the multiply-accumulates kept"
    assert told[1] == "50.0% of the parameters kept"
    assert any("pose +1.00%" in line for line in told)
    assert "head stays at 8: at 4, does not export" in told and told[-1] == "a note"


def test_predicted_and_measured_latency_stand_beside_the_noise(story: dict[str, Any]) -> None:
    story["dense"]["latency_ms"] = 10.0
    story["latency_table"] = {"target": "cpu", "noise": 0.03}
    for step in story["rounds"][0]["steps"]:
        step["latency_saved_ms"] = 1.0
    story["rounds"][0]["latency"] = [
        {"predicted": 0.5, "ratio": 0.6, "half": 0.02},
        {"predicted": 0.5, "ratio": 0.52, "half": 0.02},
    ]
    found = read_story(story)
    told = " ".join(sentences(found))
    assert "cpu: 52.0% of the dense network's measured (+- 2.0%), 50.0% predicted" in told
    assert "noise of the table 3.0%" in told
    assert [x for x, _ in found.times["pose"]] == pytest.approx([1.0, 0.9, 0.8, 0.7])
    assert "ms saved" in aligned(cost_table(found))[0]
    assert len(charts(found)) == 3


def test_methods_without_steps_show_widths(story: dict[str, Any]) -> None:
    for one in story["rounds"]:
        one["steps"] = []
    found = read_story(story)
    assert [(g.name, g.before, g.after, g.macs) for g in found.groups] == [
        ("stem", 32, 16, None),
        ("neck", 64, 32, None),
    ]
    assert len(charts(found)) == 1  # the recovery's


def test_the_page_shows_every_group_and_curve(story: dict[str, Any]) -> None:
    page = parse(render_prune_page(read_story(story), "mos_m.pt"))
    text = page.text
    assert "mos_m.pt" in text and "pagcp" in text and "head stays at 8" in text
    (table,) = page.all("table")
    assert len(table.all("tr")) == 1 + 3
    titles = [
        node.attributes["aria-labelledby"]
        for node in page.all("svg")
        if "aria-labelledby" in node.attributes
    ]
    assert any("prune-macs" in title for title in titles)
    assert any("prune-recovery-1" in title for title in titles)
    assert not page.all("script")


def test_curves_go_where_their_figures_say() -> None:
    svg = parse(
        str(
            draw_curves(
                {"a": [(1.0, 1.0), (0.5, 2.0)], "b": [(1.0, 1.0), (0.5, 1.0)]},
                *("n", "title", "left", "loss"),
                shares=True,
            )
        )
    )
    first, second = (n for n in svg.all("line") if "trace" in n.attributes["class"])
    x1, x2 = (float(first.attributes[key].rstrip("%")) for key in ("x1", "x2"))
    y1, y2 = (float(first.attributes[key]) for key in ("y1", "y2"))
    assert x1 < x2 and y1 > y2, "work falls to the right, loss rises upwards"
    assert second.attributes["y1"] == second.attributes["y2"] == first.attributes["y1"]
    assert "stroke-dasharray" in second.attributes
    labels = [n for n in svg.all("text") if n.attributes["class"] == "label"]
    assert [n.text for n in labels] == ["a", "b"]


def test_losses_over_a_wide_range_get_a_logarithmic_axis() -> None:
    points = {"a": [(1.0, 1.0), (0.75, 10.0), (0.5, 100.0)]}
    svg = parse(str(draw_curves(points, "n", "title", "left", "loss", shares=True)))
    lines = [n for n in svg.all("line") if "trace" in n.attributes["class"]]
    rises = [float(n.attributes["y1"]) - float(n.attributes["y2"]) for n in lines]
    assert rises[0] == pytest.approx(rises[1], abs=0.2)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"rounds": 3, "dense": [], "notes": {"a": 1}},
        {"rounds": [{"steps": [{}], "widths": {"a": 3, "b": [None, 1]}, "latency": [{}]}]},
        {"rounds": [{"steps": [{"group": 7, "loss_rise": {"pose": "much"}, "macs_saved": None}]}]},
        {"dense": {"macs": 0}, "pruned": {"macs": 1}, "rounds": [{"recovery": {"drops": [{}]}}]},
    ],
)
def test_whatever_a_file_says_is_shown_without_an_error(broken: dict[str, Any]) -> None:
    story = read_story(json.loads(json.dumps(broken)))
    assert "EdgeMTL" in render_prune_page(story, "<b>name</b>")
    assert "<b>name" not in render_prune_page(story, "<b>name</b>")
    aligned(cost_table(story))
    sentences(story)


def test_the_verb_writes_what_the_report_reads() -> None:
    """The names of the fields are the ones that pruning writes."""
    from edgemtl.compress.results import GroupStep

    step = _step("stem", 2, 1, 0.5)
    assert GroupStep.from_dict(step).to_dict() == step


def test_groups_left_whole_are_named_with_the_reason(story: dict[str, Any]) -> None:
    assert not any("left whole" in line for line in sentences(read_story(story)))
    story["left_whole"] = {f"head{n}": "keep_whole 'head*': head writes it" for n in range(5)}
    found = read_story(story)
    (line,) = [line for line in sentences(found) if "left whole" in line]
    assert "head0 (keep_whole 'head*': head writes it)" in line and line.endswith("and 2 more")
    items = [item.text for item in parse(render_prune_page(found, "net")).all("li")]
    assert [item.split(":")[0] for item in items] == [f"head{n}" for n in range(5)]
    for odd in (None, [1], "x", {"a": 3}):
        read_story(story | {"left_whole": odd})


def test_channels_that_cannot_be_cut_are_listed_with_reason_and_share(
    story: dict[str, Any],
) -> None:
    assert "cannot be cut" not in render_prune_page(read_story(story), "net")
    story["channels"] = {
        "whole": [
            {"module": "head.out", "channels": 24, "macs_share": 0.125, "reason": "an output"},
            {"module": 3, "channels": "many", "macs_share": None, "reason": "<b>odd</b>"},
        ],
        "summary": ["channels of 2 modules cannot be cut"],
    }
    found = read_story(json.loads(json.dumps(story)))
    assert "channels of 2 modules cannot be cut" in sentences(found)
    page = render_prune_page(found, "net")
    rows = [row.text for row in parse(page).all("tr")]
    (row,) = [row for row in rows if "head.out" in row]
    assert "24" in row and "12.5" in row and "an output" in row
    assert "<b>odd" not in page
    for odd in (None, [1], "x", {"whole": 3, "summary": {"a": 1}}):
        render_prune_page(read_story(story | {"channels": odd}), "net")


def test_compensation_is_told_per_layer_and_per_task(story: dict[str, Any]) -> None:
    before = read_story(story)
    assert before.after_cut == before.compensated == ()
    assert "compensation" not in " ".join(sentences(before))
    first, second = story["rounds"]
    first |= {
        "explained": {"neck.weight": 0.9, "head.weight": 0.25, "<b>": 0.5},
        "loss_ratio": {"pose": 1.04, "detection": 1.1},
        "predicted": {"pose": 1.05},
        "drops": {"pose": 0.0125, "detection": None},
    }
    found = read_story(story)
    assert [one.weight for one in found.compensated] == ["head.weight", "<b>", "neck.weight"]
    pose, detection = found.after_cut
    assert (pose.predicted, pose.measured, pose.drop) == (1.05, 1.04, 0.0125)
    assert (detection.predicted, detection.measured, detection.drop) == (None, 1.1, None)
    lines = " | ".join(sentences(found))
    assert "3 layers re-solved" in lines and "50% of what was removed" in lines
    assert "least in head.weight (25%)" in lines
    assert "round 1, held-out drop after the cut, before training: pose +1.25%" in lines
    page = parse(render_prune_page(found, "net"))
    captions = [caption.text.split(":")[0] for caption in page.all("caption")]
    assert any("before any training" in caption for caption in captions)
    assert any("re-solved from the kept ones" in caption for caption in captions)
    assert "1.050" in page.text and "<b>" in page.text and not page.all("b")
    # rounds that are no part of the network tell nothing of it
    second["explained"] = {"other.weight": 0.1}
    assert len(read_story(story | {"kept_round": 1}).compensated) == 3
    assert len(read_story(story).compensated) == 4
