"""How far long work is."""

from __future__ import annotations

import logging

import pytest

from edgemtl.progress import Progress, listening, report

FAR = Progress("recovery training", 3, 10, "steps", 7.0)


def test_who_called_for_the_work_hears_how_far_it_is() -> None:
    heard: list[Progress] = []
    other: list[Progress] = []
    with listening(heard.append):
        report(FAR)
        with listening(None):
            report(Progress("loading"))
        with listening(other.append):
            report(Progress("warming up"))
    report(Progress("nobody listens"))
    assert heard == [FAR, Progress("loading")]
    assert other == [Progress("warming up")]


def test_without_a_listener_it_is_logged_for_who_looks_closely(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "edgemtl"):
        report(FAR)
    assert caplog.messages == []
    with caplog.at_level(logging.DEBUG, "edgemtl"):
        report(FAR)
        with listening(lambda progress: None):
            report(FAR)
    assert caplog.messages == ["recovery training: 3 of 10 steps"]


def test_a_quick_loop_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "edgemtl"):
        for done in range(1, 1001):
            report(Progress("a quick loop", done, 1000))
        report(Progress("loading"))
        report(Progress("loading"))
    assert caplog.messages[0] == "a quick loop: 1 of 1000"
    assert caplog.messages[-3:] == ["a quick loop: 1000 of 1000", "loading", "loading"]
    assert len(caplog.messages) < 100


def test_sentences() -> None:
    assert Progress("loading").sentence() == "loading"
    assert Progress("accuracy", 0, 4, "pictures").sentence() == "accuracy: 0 of 4 pictures"
    assert Progress("x", 1, 2, detail="fast").sentence() == "x: 1 of 2 (fast)"


def test_a_listener_that_raises_ends_the_work() -> None:
    def enough(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), listening(enough):
        report(FAR)
    report(FAR)  # it listens no more
