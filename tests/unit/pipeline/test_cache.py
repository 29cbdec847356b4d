"""The cache of stage results: whole or absent, made once, kept apart by everything that matters."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from edgemtl.errors import StageFailed
from edgemtl.pipeline.cache import RECORD, SCRATCH, StageCache, is_whole, key_of

KEY = key_of({"a": 1})


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path / "cache")


def make(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "result.txt").write_text("result")
    (folder / "below" / "more.bin").write_bytes(b"\0" * 1000)


def never(folder: Path) -> None:
    raise AssertionError("made again")


def test_keys_depend_on_every_field_and_not_on_their_order() -> None:
    data = {"a": 1, "b": [1, 2], "c": {"d": None, "e": "x"}}
    assert key_of(data) == key_of({"c": {"e": "x", "d": None}, "b": [1, 2], "a": 1})
    others = [
        data | {"a": 2},
        data | {"a": "1"},
        data | {"b": [2, 1]},
        data | {"c": {"d": None, "e": "y"}},
        data | {"f": 1},
        {"a": 1},
    ]
    assert len({key_of(other) for other in [data, *others]}) == 1 + len(others)
    with pytest.raises(ValueError):
        key_of({"a": float("nan")})


def test_a_result_is_made_once(cache: StageCache) -> None:
    first = cache.result("stage", KEY, make)
    again = cache.result("stage", KEY, never)
    assert (first.cached, again.cached) == (False, True)
    assert first.folder == again.folder
    assert (again.folder / "result.txt").read_text() == "result"
    assert list((cache.folder / SCRATCH).iterdir()) == []


def test_other_keys_and_stages_have_results_of_their_own(cache: StageCache) -> None:
    folders = {
        cache.result(stage, key_of({"a": number}), make).folder
        for stage in ("one", "two")
        for number in (1, 2)
    }
    assert len(folders) == 4


def test_a_fresh_cache_makes_everything_again_for_others_too(cache: StageCache) -> None:
    cache.result("stage", KEY, make)

    def make_other(folder: Path) -> None:
        (folder / "result.txt").write_text("other")

    fresh = StageCache(cache.folder, fresh=True)
    assert not fresh.result("stage", KEY, make_other).cached
    kept = cache.result("stage", KEY, never).folder
    assert (kept / "result.txt").read_text() == "other" and not (kept / "below").exists()


@pytest.mark.parametrize("damage", ["changed", "gone", "cut", "no record", "odd record"])
def test_a_damaged_result_is_made_again(cache: StageCache, damage: str) -> None:
    folder = cache.result("stage", KEY, make).folder
    file, record = folder / "below" / "more.bin", folder / RECORD
    if damage == "changed":
        file.write_bytes(b"\0" * 999 + b"\1")
    elif damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(b"")
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text('{"files": [1, 2]}', "utf-8")
    assert not is_whole(folder)
    entry = cache.result("stage", KEY, make)
    assert not entry.cached and is_whole(entry.folder)
    assert cache.result("stage", KEY, never).cached


def test_a_failure_leaves_nothing(cache: StageCache) -> None:
    def fail(folder: Path) -> None:
        make(folder)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.result("stage", KEY, fail)
    assert list((cache.folder / SCRATCH).iterdir()) == []
    assert list((cache.folder / "stage").glob(f"*/{RECORD}")) == []
    assert not cache.result("stage", KEY, make).cached


def test_a_failure_keeps_the_result_that_was_there(cache: StageCache) -> None:
    cache.result("stage", KEY, make)

    def fail(folder: Path) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        StageCache(cache.folder, fresh=True).result("stage", KEY, fail)
    assert cache.result("stage", KEY, never).cached


def test_the_record_names_every_file(cache: StageCache) -> None:
    folder = cache.result("stage", KEY, make).folder
    record = json.loads((folder / RECORD).read_text("utf-8"))
    assert (record["stage"], record["key"]) == ("stage", KEY)
    assert set(record["files"]) == {"result.txt", "below/more.bin"}


def test_what_the_dead_left_is_swept_and_the_living_keep_theirs(cache: StageCache) -> None:
    room = cache.folder / SCRATCH
    dead = next(pid for pid in range(2**22 - 2, 0, -1) if not psutil.pid_exists(pid))
    for name in (f"{dead}-abc", f"{os.getpid()}-abc", "theirs"):
        (room / name).mkdir(parents=True)
    cache.sweep()
    assert {path.name for path in room.iterdir()} == {f"{os.getpid()}-abc", "theirs"}


def test_sweeping_an_empty_place_does_nothing(tmp_path: Path) -> None:
    StageCache(tmp_path / "none").sweep()
    assert not (tmp_path / "none").exists()


def test_two_at_once_make_a_result_once(cache: StageCache) -> None:
    made: list[str] = []

    def slow(folder: Path) -> None:
        made.append(threading.current_thread().name)
        time.sleep(0.2)
        make(folder)

    def take() -> None:
        entries.append(StageCache(cache.folder).result("stage", KEY, slow))

    entries: list[object] = []
    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries) == 4 and len(made) == 1


def test_a_reader_meets_one_whole_result_or_another(cache: StageCache) -> None:
    """While a result is replaced over and over, it is never found half."""
    folder = cache.result("stage", KEY, make).folder
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            StageCache(cache.folder, fresh=True).result("stage", KEY, make)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        absent = 0
        for _ in range(200):
            try:
                names = {path.name for path in folder.iterdir()}
            except FileNotFoundError:
                absent += 1  # between two renames
                continue
            assert not names or {RECORD, "result.txt", "below"} <= names
    finally:
        stop.set()
        thread.join()
    assert absent < 200


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    cache = StageCache(tmp_path / "file" / "cache")
    with pytest.raises(StageFailed, match="file") as caught:
        cache.result("stage", KEY, make)
    assert "EDGEMTL_CACHE" in str(caught.value.hint)
    with pytest.raises(StageFailed):
        cache.work_folder("stage", KEY)


def test_another_files_trouble_is_not_blamed_on_the_cache(cache: StageCache) -> None:
    def fail(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", "/elsewhere/picture.jpg")

    with pytest.raises(StageFailed) as caught:
        cache.result("stage", KEY, fail)
    assert caught.value.where == "/elsewhere/picture.jpg"
    assert "EDGEMTL_CACHE" not in str(caught.value.hint)


def test_work_survives_failures_and_is_cleared_with_the_rest(cache: StageCache) -> None:
    work = cache.work_folder("stage", KEY)
    (work / "round-1").write_text("x")
    assert (cache.work_folder("stage", KEY) / "round-1").exists()
    cache.result("stage", KEY, make)
    assert cache.size_bytes() > 1000
    theirs = cache.folder / "stage" / "notes.txt"
    theirs.write_text("not ours")
    cache.clear()
    left = [path for path in cache.folder.rglob("*") if path.is_file()]
    assert left == [theirs]
    assert not cache.result("stage", KEY, make).cached


def test_clearing_an_empty_place_does_nothing(tmp_path: Path) -> None:
    StageCache(tmp_path / "none").clear()
    assert StageCache(tmp_path / "none").size_bytes() == 0
