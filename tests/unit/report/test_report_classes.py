"""The report shows every class of a task, what lost most first, and says which are lost."""

from __future__ import annotations

from pathlib import Path

from support.htmltree import parse
from support.run_folder import edit, write_run

from edgemtl.record.load import load_run
from edgemtl.report.page import render_html
from edgemtl.report.summary import summarise_run

HOSTILE = "<b>hat\x1b[2J"


def with_classes(folder: Path) -> Path:
    """A run whose detection has classes, one of them lost."""
    write_run(folder)

    def add(accuracy: dict) -> None:  # type: ignore[type-arg]
        figure = {"key": "ap", "label": "AP", "direction": "higher", "unit": ""}
        accuracy["metrics"]["detection"]["classes"] = figure
        before = {"face": 0.9, HOSTILE: 0.8, "cup": None, "car": 0.5}
        after = {"face": 0.85, HOSTILE: 0.0, "cup": None, "car": 0.5}
        accuracy["reference"]["classes"] = {"detection": before}
        accuracy["artefact"]["classes"] = {"detection": after}

    edit(folder, "accuracy.json", add)
    return folder


def test_rows_are_ordered_by_loss_and_classes_without_labels_left_out(tmp_path: Path) -> None:
    summary = summarise_run(load_run(with_classes(tmp_path / "run")))
    (task,) = [row for row in summary.tasks if row.task == "detection"]
    assert [row.key for row in task.classes] == [HOSTILE, "face", "car"]
    assert task.lost == (HOSTILE,)
    assert task.classes[0].after.value == 0 and task.classes[0].change.value == 1
    assert any("detection: 1 class lost" in label for label in summary.labels)
    others = [row for row in summary.tasks if row.task != "detection"]
    assert others and all(row.classes == () for row in others)


def test_the_page_opens_the_table_where_a_class_is_lost_and_escapes_names(tmp_path: Path) -> None:
    text = render_html(load_run(with_classes(tmp_path / "run")))
    assert "<details open><summary>detection: every class (3), 1 lost</summary>" in text
    assert "<b>hat" not in text and "\x1b" not in text
    parse(text)
