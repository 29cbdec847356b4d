"""A run folder is read whatever state it is in, and never believed blindly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.run_folder import BEFORE, edit, write_run

from edgemtl.errors import InputRefused
from edgemtl.record.load import MOST_PICTURES, load_run
from edgemtl.record.untrusted import read_object, shown
from edgemtl.report.page import render_html
from edgemtl.sinks import MOST_CHARACTERS


def test_complete_run_has_no_problem(variant: Any) -> None:
    run = load_run(variant("complete"))
    assert run.problems == ()
    assert run.run is not None
    assert run.run.model.family == "mos"
    assert run.run.exit_code == 0
    assert run.accuracy is not None and run.accuracy.reference is not None
    assert run.accuracy.reference.tasks["pose"].values == BEFORE["pose"]
    assert run.accuracy.metrics["landmarks"].primary.direction == "lower"
    assert run.cost_before is not None and run.cost_after is not None
    assert len(run.cost_after.per_node) == len(run.cost_before.per_node) > 20
    assert run.parity is not None and {row.verdict for row in run.parity} == {"pass"}
    assert [picture.name for picture in run.pictures] == ["crowd_0007", "portrait_0031"]
    assert run.run.stages[3].notes == ("4 pictures, largest difference 9.2e-06",)


def test_what_is_missing_is_named(variant: Any) -> None:
    run = load_run(variant("failed-stage"))
    assert run.gates is None and run.accuracy is None and run.latency_after is None
    assert "gates.json is missing" in run.problems
    assert "bench/comparison.json is missing" in run.problems


def test_broken_files_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "cost.json").write_text('{"reference": {"macs": 1', "utf-8")
    (folder / "gates.json").write_text("[1, 2]", "utf-8")
    run = load_run(folder)
    assert run.cost_after is None and run.gates is None
    assert run.accuracy is not None
    assert run.problems == ("cost.json: is not readable JSON", "gates.json: is not a JSON object")


def test_timings_left_out_on_purpose_are_no_problem(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for name in ("reference", "comparison"):
        (folder / "bench" / f"{name}.json").unlink()
    (folder / "bench" / "identical.json").write_text('{"identical": true}', "utf-8")
    run = load_run(folder)
    assert run.identical and run.problems == ()
    (folder / "bench" / "artefact.json").unlink()
    (folder / "bench" / "identical.json").unlink()
    (folder / "bench" / "skipped.json").write_text('{"reason": "switched off"}', "utf-8")
    run = load_run(folder)
    assert run.not_timed == "switched off" and run.problems == ()


def test_no_folder_and_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="no such run folder"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello", "utf-8")
    with pytest.raises(InputRefused, match="holds no run"):
        load_run(tmp_path)


def test_numbers_that_are_none_become_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": NaN, "b": -Infinity, "c": 1e999, "d": ' + "9" * 400 + ', "e": 2}')
    assert read_object(path) == {"a": None, "b": None, "c": None, "d": None, "e": 2}


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"", b"null"]
)
def test_what_is_no_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputRefused):
        read_object(path)


def test_texts_are_made_fit_to_print() -> None:
    assert shown("a\x1b[31mb\u202ec\x00") == "a\ufffd[31mb\ufffdc\ufffd"
    assert shown("zwei\nZeilen") == "zwei\nZeilen"
    assert len(shown("x" * (MOST_CHARACTERS + 500))) == MOST_CHARACTERS + 1


def test_a_linked_picture_is_not_followed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    secret = tmp_path / "secret.png"
    secret.write_bytes((folder / "pictures" / "crowd_0007.after.png").read_bytes())
    (folder / "pictures" / "crowd_0007.after.png").unlink()
    (folder / "pictures" / "crowd_0007.after.png").symlink_to(secret)
    picture = load_run(folder).pictures[0]
    assert picture.before is not None and picture.after is None


def test_pictures_are_limited(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    data = (folder / "pictures" / "crowd_0007.after.png").read_bytes()
    for index in range(MOST_PICTURES + 5):
        (folder / "pictures" / f"more_{index:02d}.after.png").write_bytes(data)
    assert len(load_run(folder).pictures) == MOST_PICTURES


def test_steps_of_one_group_add_up(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    first = {"group": "a", "width_before": 64, "width_after": 48, "loss_rise": {"pose": 0.01}}
    again = {"group": "a", "width_before": 48, "width_after": 16, "loss_rise": {"pose": 0.02}}
    edit(folder, "prune.json", lambda data: {"method": "pagcp", "steps": [first, again]})
    changes = load_run(folder).pruning
    assert changes is not None
    (row,) = changes.rows
    assert (row.before, row.after) == (64, 16)
    assert row.drops["pose"] == pytest.approx(0.03)


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.just([None]),
    st.just({"a": [1]}),
)


def _places(data: Any, front: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [front] if front else []
    items = data.items() if isinstance(data, dict) else enumerate(data)
    if isinstance(data, dict | list):
        for key, value in list(items)[:6]:
            if isinstance(value, dict | list):
                found += _places(value, (*front, key))
            else:
                found.append((*front, key))
    return found


@pytest.mark.parametrize("name", ["run", "accuracy", "cost", "parity", "gates", "prune"])
@settings(max_examples=12)
@given(data=st.data())
def test_a_page_is_written_whatever_one_value_is(
    variant: Any, name: str, data: st.DataObject
) -> None:
    folder = variant("no-pictures")
    path = folder / f"{name}.json"
    content = path.read_text("utf-8")
    document = json.loads(content)
    place = data.draw(st.sampled_from(_places(document)))
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = data.draw(_VALUES)
    try:
        path.write_text(json.dumps(document), "utf-8")
        assert "</html>" in render_html(load_run(folder))
    finally:
        path.write_text(content, "utf-8")
