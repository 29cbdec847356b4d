"""The page in a real browser: silent, alone, and readable on a phone, at night and on paper."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.chromium import Browser, chromium
from support.run_folder import ALL_VARIANTS

from edgemtl.gates.history import entry_of
from edgemtl.gates.limits import parse_limits
from edgemtl.gates.regression import compare
from edgemtl.pipeline.baselines import snapshot_of_run
from edgemtl.record.load import load_run
from edgemtl.report.compare_page import render_comparison
from edgemtl.report.page import render_html
from edgemtl.report.trend_page import render_trend

#: every text's contrast with what is painted behind it; the lowest comes first
_CONTRAST = """
(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !e.getClientRects().length || ['title', 'desc'].includes(e.tagName)) continue;
    const style = getComputedStyle(e);
    const ink = parse(e.tagName === 'text' ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), e.textContent.slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
})()
"""
#: elements that reach beyond the window's right edge and do not lie in a box that scrolls
_WIDE = """
[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll table') && !e.closest('.sr') && !e.closest('.skip')
    && !e.closest('svg') && e.getBoundingClientRect().right > innerWidth + 0.5)
  .map(e => e.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


#: pages that set runs against each other
BESIDE = ("compare", "trend")


@pytest.fixture(scope="module")
def pages(variant: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name in ALL_VARIANTS:
        found[name] = folder / f"{name}.html"
        found[name].write_text(render_html(load_run(variant(name))), "utf-8")
    run = snapshot_of_run(variant("complete"))
    pose = {"mae_deg": replace(run.tasks["pose"]["mae_deg"], value=9.0)}
    worse = replace(run, name="the next one", tasks={**run.tasks, "pose": pose})
    judged = compare(run, worse, parse_limits({}))
    entries = [entry_of(s, f"run {n}", f"2026-01-0{n}") for n, s in enumerate((run, run, worse), 1)]
    texts = (render_comparison(judged, run, worse), render_trend(entries))
    for name, text in zip(BESIDE, texts, strict=True):
        found[name] = folder / f"{name}.html"
        found[name].write_text(text, "utf-8")
    return found


@pytest.mark.parametrize("name", [*ALL_VARIANTS, *BESIDE])
def test_loads_silently_and_asks_for_nothing(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.show(1280)
    found = browser.visit(pages[name])
    assert found.complaints == []
    outside = [url for url in found.requests if not url.startswith("data:")]
    assert outside == [pages[name].as_uri()]
    # the content policy lets the style sheet through
    assert browser.evaluate("getComputedStyle(document.querySelector('main')).maxWidth") == "1080px"
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_the_listener_hears_what_a_bad_page_does(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><title>x</title><img src='http://127.0.0.1:9/x.png'>"
        "<script>console.error('oh'); nothing()</script>",
        "utf-8",
    )
    found = browser.visit(page)
    assert "http://127.0.0.1:9/x.png" in found.requests
    assert any("oh" in text for text in found.complaints)
    assert any("nothing is not defined" in text for text in found.complaints)


def test_shows_the_figures_of_the_files(
    browser: Browser, pages: dict[str, Path], variant: Any
) -> None:
    browser.show(1280)
    browser.visit(pages["complete"])
    shown = browser.evaluate(
        "Object.fromEntries([...document.querySelectorAll('td[data-source]')]"
        ".map(e => [e.dataset.source, [Number(e.dataset.value), e.innerText]]))"
    )
    assert shown["accuracy.json#/artefact/tasks/landmarks/nme_percent"][1] == "4.17\u202f%"
    assert len(shown) > 100
    for source, (value, _) in shown.items():
        file, _, pointer = source.partition("#/")
        stored = json.loads((variant("complete") / file).read_text("utf-8"))
        for part in pointer.split("/"):
            stored = stored[int(part)] if isinstance(stored, list) else stored[part]
        assert value == stored, source


def test_the_page_of_two_runs_shows_both(browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(1280)
    browser.visit(pages["compare"])
    rows = browser.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#changes tbody tr')].map(r =>"
        "[r.querySelector('th').innerText, [...r.querySelectorAll('td')].map(e => e.innerText)]))"
    )
    before, after, change, verdict, _ = rows["tasks.pose.mae_deg"]
    assert after.startswith("9") and before != after and "worse" in change
    assert "worse than allowed" in verdict
    browser.visit(pages["trend"])
    assert browser.evaluate("document.querySelectorAll('main svg').length") >= 5


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("name", ["complete", "gates-fail", "failed-stage", *BESIDE])
def test_fits_every_width(browser: Browser, pages: dict[str, Path], name: str, width: int) -> None:
    browser.show(width)
    browser.visit(pages[name])
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(_WIDE) == []


def test_tables_scroll_inside_on_a_phone(browser: Browser, pages: dict[str, Path]) -> None:
    browser.show(360)
    browser.visit(pages["complete"])
    wider = browser.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
        ".every(e => e.tabIndex === 0 && getComputedStyle(e).overflowX === 'auto')"
    )
    assert wider


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    "name", ["complete", "gates-fail", "not-measured", "failed-stage", *BESIDE]
)
def test_every_text_is_readable(
    browser: Browser, pages: dict[str, Path], name: str, dark: bool
) -> None:
    browser.show(1280, dark=dark)
    browser.visit(pages[name])
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = browser.evaluate(_CONTRAST)
    assert len(found) > (80 if name not in BESIDE else 20)
    assert found[0][0] >= 4.5, found[:5]
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(17, 20, 24)") == dark


def test_prints_dark_on_white_with_everything_unfolded(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.show(794, dark=True, media="print")
    browser.visit(pages["complete"])
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.evaluate(_CONTRAST)[0][0] >= 4.5
    assert browser.evaluate(
        "[...document.querySelectorAll('details pre, details table')]"
        ".every(e => e.getBoundingClientRect().height > 0)"
    )
    browser.show(1280)


def test_the_keyboard_reaches_links_folds_and_tables(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.show(1280)
    browser.visit(pages["complete"])
    reached = []
    for _ in range(20):
        for kind in ("rawKeyDown", "keyUp"):
            browser.call(
                "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
            )
        reached.append(browser.evaluate("document.activeElement.outerHTML.slice(0, 40)"))
    assert reached[0].startswith('<a class="skip"')
    assert any('href="#provenance"' in text for text in reached)
    assert any(text.startswith('<div class="scroll"') for text in reached)
    assert any(text.startswith("<summary") for text in reached)
