"""The page shows what the JSON says, needs nothing else, and everybody can read it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.htmltree import Element, parse
from support.run_folder import ALL_VARIANTS, PRIMARY, SECONDARY, edit, write_run

from edgemtl.record.load import load_run
from edgemtl.report.page import TEMPLATES, render_html, write_report

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(1)> & "quoted\''
_PREFIX = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@pytest.fixture(scope="module")
def pages(variant: Any) -> dict[str, Element]:
    return {name: parse(render_html(load_run(variant(name)))) for name in ALL_VARIANTS}


@pytest.fixture(scope="module")
def page(pages: dict[str, Element]) -> Element:
    return pages["complete"]


def _stored(folder: Path, source: str) -> Any:
    """The value at ``file#/json/pointer``."""
    name, _, place = source.partition("#/")
    found = json.loads((folder / name).read_text("utf-8"))
    for part in place.split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found


def _printed(text: str) -> float:
    """The number that a reader sees, in the figure's own unit."""
    words = text.removeprefix("at most ").removeprefix("at least ").replace("\u2212", "-")
    match = re.match(r"(-?[\d.,]+(?:e[+-]?\d+)?)\u202f?([kMGT])?(\S*)", words)
    assert match, text
    value = float(match[1].replace(",", ""))
    return value * (_PREFIX[match[2]] if match[2] and match[3] in ("", "B") else 1)


@pytest.mark.parametrize("name", ALL_VARIANTS)
def test_figures_equal_the_stored_ones(pages: dict[str, Element], variant: Any, name: str) -> None:
    folder, page = variant(name), pages[name]
    for element in page:
        source, value = element.attributes.get("data-source"), element.attributes.get("data-value")
        if source and value is not None:
            assert float(value) == _stored(folder, source), source
        elif source and "broken" not in name and (folder / source.partition("#")[0]).exists():
            assert _stored(folder, source) is None, f"{source} is not shown"


def test_a_complete_page_shows_every_main_figure(page: Element) -> None:
    sources = {element.attributes.get("data-source") for element in page}
    wanted = {
        f"accuracy.json#/{side}/tasks/{task}/{spec.key}"
        for side in ("reference", "artefact")
        for task in PRIMARY
        for spec in (PRIMARY[task], *SECONDARY[task])
    }
    wanted |= {
        f"cost.json#/{side}/{key}"
        for side in ("reference", "artefact")
        for key in ("macs", "parameters", "size_bytes", "activation_bytes")
    }
    wanted |= {
        f"bench/{side}.json#/summary/{key}"
        for side in ("reference", "artefact")
        for key in ("p50_ms", "p90_ms", "p99_ms")
    }
    wanted |= {f"bench/comparison.json#/speedup/{key}" for key in ("value", "low", "high")}
    wanted |= {f"gates.json#/outcomes/{i}/{key}" for i in range(7) for key in ("measured", "limit")}
    assert wanted <= sources


def test_what_is_printed_rounds_what_is_stored(pages: dict[str, Element]) -> None:
    checked = 0
    for element in (*pages["complete"], *pages["gates-fail"]):
        if "data-value" not in element.attributes:
            continue
        value, text = float(element.attributes["data-value"]), element.text
        if text in ("unchanged", "no loss"):
            assert value == 0
        elif text.startswith("under "):
            assert 0 < abs(value) < 1e-4
        elif " " in text and text.split()[-1] in ("worse", "better", "less", "more"):
            assert _printed(text) == pytest.approx(abs(value) * 100, rel=6e-3, abs=6e-3)
            # a limit of a drop is an upper bound, whatever its sign
            worse = text.split()[-1] in ("worse", "more")
            assert worse == (value > 0), text
        elif text.endswith("%") and value < 1 and not 0.3 < _printed(text) / value < 3:
            assert _printed(text) == pytest.approx(value * 100, rel=6e-3, abs=6e-3)
        elif text.endswith(("s", "min", "h")) and text.endswith(("\u202fs", "min", "h")):
            assert _printed(text) == pytest.approx(value, abs=0.5)
        else:
            assert _printed(text) == pytest.approx(value, rel=6e-3, abs=6e-4), text
        checked += 1
    assert checked > 200


def test_changes_are_derived_right(page: Element, variant: Any) -> None:
    data = json.loads((variant("complete") / "accuracy.json").read_text("utf-8"))
    table = next(s for s in page.all("section") if s.attributes.get("id") == "accuracy")
    rows = [row for row in table.all("tr") if row.all("td")]
    specs = [(task, spec) for task in PRIMARY for spec in (PRIMARY[task], *SECONDARY[task])]
    assert len(rows) == len(specs)
    for row, (task, spec) in zip(rows, specs, strict=True):
        before, after = (data[side]["tasks"][task][spec.key] for side in ("reference", "artefact"))
        change = [cell for cell in row.all("td") if "num" in cell.attributes.get("class", "")][2]
        assert float(change.attributes["data-value"]) == pytest.approx(
            spec.relative_drop(before, after)
        )


@pytest.mark.parametrize("name", ALL_VARIANTS)
def test_nothing_comes_from_outside(pages: dict[str, Element], name: str) -> None:
    page = pages[name]
    assert not page.all("script", "iframe", "object", "embed", "base", "audio", "video", "form")
    for element in page:
        for attribute, value in element.attributes.items():
            assert not attribute.startswith("on"), attribute
            assert attribute != "style", "the content policy would block it"
            if attribute in ("href", "src", "srcset", "xlink:href", "action", "poster"):
                assert value.startswith(("data:image/", "#")), value
    style = "".join(part for part in page.all("style")[0].parts if isinstance(part, str))
    assert not re.search(r"@import|url\(|https?:|//|expression|@font-face", style)


@pytest.mark.parametrize("name", ALL_VARIANTS)
def test_content_policy_allows_the_style_and_nothing_else(
    pages: dict[str, Element], name: str
) -> None:
    page = pages[name]
    (policy,) = (
        m.attributes["content"]
        for m in page.all("meta")
        if m.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    style = "".join(part for part in page.all("style")[0].parts if isinstance(part, str))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


@pytest.mark.parametrize("name", ALL_VARIANTS)
def test_structure_is_readable_by_machines(pages: dict[str, Element], name: str) -> None:
    page = pages[name]
    assert page.all("html")[0].attributes["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("header")) == 1
    levels = [int(e.tag[1]) for e in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), levels
    ids = [e.attributes["id"] for e in page if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in page:
        for attribute in ("aria-labelledby", "aria-describedby"):
            for target in element.attributes.get(attribute, "").split():
                assert target in ids
        href = element.attributes.get("href", "")
        if href.startswith("#"):
            assert href[1:] in ids
    for section in page.all("section"):
        assert section.attributes.get("aria-labelledby")
    assert page.all("a")[0].attributes == {"class": "skip", "href": "#verdict"}


@pytest.mark.parametrize("name", ALL_VARIANTS)
def test_tables_pictures_and_drawings_are_described(pages: dict[str, Element], name: str) -> None:
    page = pages[name]
    for table in page.all("table"):
        (caption,) = table.all("caption")
        assert caption.text
        for cell in table.all("th"):
            assert cell.attributes.get("scope") in ("col", "row", "rowgroup"), cell.text
            assert cell.text
        around = table.above("div")
        assert around is not None and around.attributes["tabindex"] == "0"
        assert around.attributes["aria-labelledby"] == caption.attributes["id"]
        widths = set()
        for row in table.all("thead")[0].all("tr"):
            widths.add(len(row.all("th", "td")))
        spanned = 0
        for row in (r for body in table.all("tbody") for r in body.all("tr")):
            cells = row.all("th", "td")
            widths.add(len(cells) + (1 if spanned else 0))
            span = max(int(c.attributes.get("rowspan", 1)) for c in cells)
            spanned = span - 1 if span > 1 else max(spanned - 1, 0)
        assert len(widths) == 1, "rows of different lengths"
    for image in page.all("img"):
        assert image.attributes["alt"]
        assert int(image.attributes["width"]) > 0 and int(image.attributes["height"]) > 0
    for drawing in page.all("svg"):
        if drawing.attributes.get("role") == "img":
            assert drawing.all("title")[0].text and drawing.all("desc")[0].text
        else:
            assert drawing.attributes["aria-hidden"] == "true"
            assert drawing.above("table") is not None, "its numbers stand in the same row"


def test_complete_page_has_every_section(page: Element) -> None:
    found = [s.attributes["id"] for s in page.all("section")]
    assert found == [
        *("verdict", "way", "gates", "accuracy", "pictures", "latency", "cost"),
        *("prune", "parity", "stages", "provenance"),
    ]
    links = [a.attributes["href"][1:] for a in page.all("nav")[0].all("a")]
    assert links == found[1:]
    assert len(page.all("img")) == 4


def test_states_are_said_in_words(pages: dict[str, Element]) -> None:
    gates = next(s for s in pages["gates-fail"].all("section") if s.attributes["id"] == "gates")
    words = [row.all("td")[0].text for row in gates.all("tbody")[0].all("tr")]
    assert words.count("✗ fail") == 5 and words.count("✓ pass") == 3
    assert pages["gates-fail"].all("title")[0].text.startswith("✗ mos_m for cpu")
    assert "✓" in pages["complete"].all("title")[0].text


def test_labels_are_plain(pages: dict[str, Element]) -> None:
    def labels(name: str) -> list[str]:
        return [e.text for e in pages[name].all("li") if e.attributes.get("class") == "label"]

    assert labels("complete") == []
    assert labels("not-measured") == ["accuracy on synthetic pictures"]
    assert labels("emulated") == ["latency emulated, not measured"]
    assert labels("unstable") == ["latency unstable"]
    accuracy = next(
        s for s in pages["not-measured"].all("section") if s.attributes["id"] == "accuracy"
    )
    assert "These pictures are synthetic" in accuracy.text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")

    def rename(data: Any) -> Any:
        if isinstance(data, dict):
            return {key.replace("pose", HOSTILE): rename(value) for key, value in data.items()}
        if isinstance(data, list):
            return [rename(value) for value in data]
        kept = ("pass", "fail", "measured", "higher", "lower", "done", "cached")
        return HOSTILE if isinstance(data, str) and data not in kept else data

    for path in folder.rglob("*.json"):
        edit(folder, path.relative_to(folder).as_posix(), rename)
    (folder / "pictures" / "crowd_0007.after.png").rename(
        folder / "pictures" / '"><script>x<.after.png'
    )
    html = render_html(load_run(folder))
    page = parse(html)
    assert not page.all("script")
    assert "<script" not in html.lower()
    assert not any(a.startswith("on") for e in page for a in e.attributes)
    assert page.all("h1")[0].text == f"{HOSTILE} for {HOSTILE}"
    assert {e.attributes["src"][:11] for e in page.all("img")} == {"data:image/"}


def test_any_task_is_shown(tmp_path: Path) -> None:
    """Tasks of a user's own network, one of which nobody said how to judge."""
    folder = write_run(tmp_path / "run")

    def dense(data: dict[str, Any]) -> None:
        depth = {"key": "rmse_m", "label": "depth RMSE", "direction": "lower", "unit": "m"}
        data["metrics"] = {"distance": {"primary": depth, "secondary": []}}
        for side, value in (("reference", 0.5), ("artefact", 0.25)):
            data[side]["tasks"] = {"distance": {"rmse_m": value}, "odd": {"score": value}}
            data[side]["counts"] = {"distance": 7, "odd": 7}

    edit(folder, "accuracy.json", dense)
    page = parse(render_html(load_run(folder)))
    table = next(s for s in page.all("section") if s.attributes["id"] == "accuracy")
    rows = [[cell.text for cell in row.all("td")] for row in table.all("tr")[1:]]
    assert [cells[1:4] for cells in rows] == [
        ["0.500\u202fm", "0.250\u202fm", "50\u202f% better"],
        ["0.500", "0.250", "unknown"],
    ]


def test_an_artefact_that_is_the_same_file_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for name in ("reference", "comparison"):
        (folder / "bench" / f"{name}.json").unlink()
    (folder / "bench" / "identical.json").write_text('{"identical": true}', "utf-8")
    page = parse(render_html(load_run(folder)))
    latency = next(s for s in page.all("section") if s.attributes["id"] == "latency")
    assert "byte for byte" in latency.text
    assert [c.text for c in latency.all("tr")[1].all("td")][:2] == ["same file", "20.0\u202fms"]


def test_same_run_gives_the_same_page(variant: Any) -> None:
    folder = variant("gates-fail")
    assert render_html(load_run(folder)) == render_html(load_run(folder))


def test_write_report_leaves_page_and_markdown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    assert write_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_text("utf-8") == render_html(load_run(folder))
    assert (folder / "report.md").read_text("utf-8").startswith("### mos")
    assert not list(folder.glob(".report*"))


def test_a_picture_that_claims_to_be_huge_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / "pictures" / "crowd_0007.after.png"
    data = bytearray(path.read_bytes())
    data[16:24] = (10**6).to_bytes(4, "big") * 2
    path.write_bytes(data)
    page = parse(render_html(load_run(folder)))
    assert len(page.all("img")) == 3
    assert any("only one side was drawn" in c.text for c in page.all("figcaption"))


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_of_both_themes_are_readable(theme: int) -> None:
    """WCAG 2.2: 4.5:1 for text, 3:1 for what is drawn."""
    style = (TEMPLATES / "report.css").read_text("utf-8")
    themes = re.findall(r":root \{([^}]*)\}", style)
    assert len(themes) == 2
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", themes[theme]))

    def contrast(a: str, b: str) -> float:
        light, dark = sorted((_luminance(colours[a]), _luminance(colours[b])), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for text in ("ink", "soft", "link", "pass-ink", "fail-ink", "open-ink"):
        for ground in ("bg", "card"):
            assert contrast(text, ground) >= 4.5, (text, ground)
    for state in ("pass", "fail", "open"):
        for text in ("ink", "soft", f"{state}-ink"):
            assert contrast(text, f"{state}-bg") >= 4.5, (text, state)
        assert contrast(f"{state}-edge", "bg") >= 3
    assert contrast("after", "card") >= 3
    assert contrast("before", "card") >= 2  # its figures stand beside it in words
    assert contrast("after", "before") >= 1.5


def test_the_page_says_where_graph_and_network_have_other_counts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")

    def unfolded(cost: dict[str, Any]) -> None:
        own = cost["artefact"]
        own["network"] = {"macs": own["macs"] + 3.6e6, "parameters": own["parameters"] + 48_848}
        before = cost["reference"]
        before["network"] = {key: before[key] for key in ("macs", "parameters")}

    edit(folder, "cost.json", unfolded)
    stored = json.loads((folder / "cost.json").read_text("utf-8"))["artefact"]["network"]
    said = parse(render_html(load_run(folder))).text
    macs = f"{stored['macs'] / 1e6:,.1f} M MACs"
    assert f"After: the network in torch, as inspect and prune count it, has {macs}" in said
    assert f"{stored['parameters']:,.0f} parameters; in the graph norms are folded" in said
    assert "Before: the network in torch" not in said, "there both have the same"
