"""What the report says of masks: the decision, the networks, who answers what."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.htmltree import parse

from edgemtl.record.load import load_run
from edgemtl.report.markdown import render_markdown
from edgemtl.report.masks import section
from edgemtl.report.page import render_html

MASKED = Path(__file__).parents[2] / "fixtures" / "version_2" / "run_mask"


def found(folder: Path) -> dict[str, Any]:
    told = section(load_run(folder).masks)
    assert told is not None
    return told


@pytest.fixture
def change(tmp_path: Path) -> Callable[..., Path]:
    """Copy the masked run with other keys in ``mask.json``."""

    def make(**keys: Any) -> Path:
        folder = Path(shutil.copytree(MASKED, tmp_path / "run"))
        data = json.loads((folder / "mask.json").read_text("utf-8"))
        (folder / "mask.json").write_text(json.dumps({**data, **keys}), "utf-8")
        return folder

    return make


def test_the_networks_stand_with_what_they_answer_and_cost() -> None:
    stored = json.loads((MASKED / "mask.json").read_text("utf-8"))
    told = found(MASKED)
    rows = told["networks"]
    assert [row["name"] for row in rows] == ["full network", "prototype 1", "prototype 2"]
    assert [row["share"].value for row in rows] == stored["built"]["shares"]
    assert [row["macs"].value for row in rows] == stored["built"]["macs"]
    assert rows[0]["change"].value is None and rows[1]["change"].value < 0
    kept = stored["built"]["recovered"][1]
    drops = {row["step"]: row["drops"] for row in kept["drops"]}[kept["best_step"]]
    assert told["tasks"] == list(drops)
    assert [drop.value for drop in rows[2]["drops"]] == list(drops.values())
    assert [drop.value for drop in rows[0]["drops"]] == [None, None]


def test_the_page_says_what_was_decided_and_what_an_image_takes() -> None:
    run = load_run(MASKED)
    page = render_html(run)
    assert 'href="#masks"' in page and 'id="masks-title"' in page
    for words in (
        "keep the simpler network: masks hardly depend on the picture",
        "They were built all the same, as the recipe asks",
        "The router names the right prototype for",
        "The full network answers the others",
        "The networks share weights",
        "One mask for all",
    ):
        assert words in page
    average = "an image takes 80 % of the full network's multiply-accumulates on average"
    assert f"cost counts the full network; {average}" in render_markdown(run)


def test_every_figure_is_where_its_cell_says() -> None:
    files: dict[str, Any] = {"mask.json": json.loads((MASKED / "mask.json").read_text("utf-8"))}
    cells = 0
    for element in parse(render_html(load_run(MASKED))):
        source = element.attributes.get("data-source") or ""
        if source.startswith("mask.json#/"):
            value: Any = files["mask.json"]
            for part in source.partition("#/")[2].split("/"):
                value = value[int(part)] if isinstance(value, list) else value[part]
            assert float(element.attributes["data-value"] or "nan") == value
            cells += 1
    assert cells == 6


def test_where_the_simpler_network_was_kept_that_is_all(change: Callable[..., Path]) -> None:
    folder = change(built=None, weights=None, files=[])
    told = found(folder)
    assert told["outcome"] == "No other network was built."
    assert told["networks"] == [] and told["sentences"] == [] and len(told["added"]) == 2
    page = render_html(load_run(folder))
    assert 'id="masks"' in page and 'id="masks-caption"' not in page
    assert "cost counts the full network" not in page


def test_a_run_without_the_stage_has_no_section(variant: Callable[[str], Path]) -> None:
    run = load_run(variant("complete"))
    assert section(run.masks) is None and 'id="masks"' not in render_html(run)


@pytest.mark.parametrize(
    "keys",
    [
        {"analysis": None, "built": {}, "weights": 3},
        {"built": {"macs": [1e400, "x", -1], "shares": [7, None], "recovered": ["y"]}},
        {"built": {"macs": [0, 0], "router": {"accuracy": "<b>"}, "recovered": [{"drops": 1}]}},
        {"analysis": {"decision": "<script>", "added_static": {"<b>": 0.0, "b": "c"}}},
    ],
)
def test_anything_may_stand_there(change: Callable[..., Path], keys: dict[str, Any]) -> None:
    page = render_html(load_run(change(**keys)))
    assert 'id="masks"' in page and "<script>" not in page and "<b>&" not in page
