"""Tuning: measurements are kept, gone on with, and used by compile."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.small_graphs import write_two_convolutions

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.tuner import Measurement, fastest
from edgemtl.backends.tvm.schedule.tuned import key_of
from edgemtl.errors import InputRefused, UsageError
from edgemtl.pipeline.tuning import Log, read_records, tune
from edgemtl.progress import Progress, listening

LINE = '{"processor": "p", "kind": "conv", "sizes": [1, 2], "tile": [2, 8], "seconds": 0.5}\n'
TUNER = registry.get("tvm").tuner()


def changed(**fields: object) -> Measurement:
    """The record of :data:`LINE` with other fields."""
    return TUNER.parse({**json.loads(LINE), **fields})


def test_the_fastest_of_every_operator_in_the_order_of_keys() -> None:
    slow, fast, other = changed(), changed(seconds=0.2), changed(sizes=[0])
    equal = changed(seconds=0.2, tile=[4, 4])
    assert fastest([slow, fast, equal, other]) == [other, fast]


def test_a_backend_that_does_not_tune_has_no_tuner() -> None:
    for name in registry.names():
        if not registry.get(name).capabilities.tunes:
            with pytest.raises(NotImplementedError, match="does not tune"):
                registry.get(name).tuner()


class Stopped(Exception):
    """Somebody pressed Ctrl-C."""


def test_tuning_goes_on_where_it_stopped_and_compile_takes_its_tiles(tmp_path: Path) -> None:
    backend = registry.get("tvm")
    if not backend.availability().ok:
        pytest.skip(backend.availability().reason)
    graph, records = write_two_convolutions(tmp_path / "two.onnx"), tmp_path / "records.jsonl"

    def stop(progress: Progress) -> None:
        assert progress.total == 2
        if progress.done == 1:
            raise Stopped(progress.detail)

    with pytest.raises(Stopped, match="conv 1x9x11x16"), listening(stop):
        tune(graph, "tvm-x86", records, tiles=2, seconds=0.01)
    first = read_records(records, TUNER)
    assert {one.data["kind"] for one in first} == {"conv"} and len(first) == 2

    told: list[tuple[int, int | None]] = []
    with listening(lambda progress: told.append((progress.done, progress.total))):
        found = tune(graph, "tvm-x86", records, tiles=2, seconds=0.01)
    assert (found.operators, found.measured) == (2, 1) and told == [(1, 2), (2, 2)]
    assert read_records(records, TUNER)[:2] == first
    assert found.target is not None

    target = targets.load(str(found.target))
    assert target.name == "tvm-x86" and len(target.options["tiles"]) == 2
    (tmp_path / "out").mkdir()
    artefact = backend.compile(graph, target, tmp_path / "out")
    told_by = json.loads((tmp_path / "out" / "schedule.json").read_text("utf-8"))
    used = {tuple(f["sizes"]): f["tile"] for f in told_by["functions"].values() if "sizes" in f}
    wanted = {tuple(t["sizes"]): t["tile"] for t in target.options["tiles"]}
    assert used == wanted  # and they stand in the bundle with their times:
    assert [t["seconds"] for t in told_by["options"]["tiles"]]

    images = np.random.default_rng(1).standard_normal((1, 3, 9, 11)).astype(np.float32)
    answers = []
    for name, made in (("tvm", artefact), ("onnxruntime", None)):
        if made is None:
            (tmp_path / "ort").mkdir()
            made = registry.get(name).compile(graph, targets.load("cpu"), tmp_path / "ort")
        session = registry.get(name).load(made)
        answers.append(session.run(images)["y"])
        session.close()
    assert np.abs(answers[0] - answers[1]).max() < 1e-5 * np.abs(answers[1]).max()


def test_a_line_cut_short_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(LINE + LINE[:30], "utf-8")
    assert [one.data["tile"] for one in read_records(path, TUNER)] == [[2, 8]]
    assert path.read_text("utf-8") == LINE


def test_what_came_in_any_order_stands_as_one_machine_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(LINE, "utf-8")
    log = Log.open(path, TUNER)
    new = [changed(sizes=[size]) for size in (3, 2, 3, 4)]
    for one in new:
        log.add([one])
    log.sort([key_of("conv", [size]) for size in (4, 3, 2, 1)])
    assert [one.data["sizes"] for one in read_records(path, TUNER)] == [[1, 2], [4], [3], [3], [2]]
    assert read_records(path, TUNER) == log.records
    # A record without a machine counts everywhere, another kind's nowhere but there.
    log.add([changed(sizes=[5], machine="Another")])
    assert key_of("conv", [5]) in log.measured("p", "Another") - log.measured("p", "This")
    assert key_of("conv", [4]) in log.measured("p", "This")
    assert not log.measured("q", "Another")


@pytest.mark.parametrize("text", ["hello\n", '{"kind": "conv"}\n', LINE.replace("0.5", "-1")])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(text, "utf-8")
    with pytest.raises(InputRefused, match="not a file of measured tiles"):
        read_records(path, TUNER)
    assert path.read_text("utf-8") == text


@pytest.mark.parametrize("name", ["cpu", "rpi4"])
def test_what_is_not_here_cannot_be_tuned(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="can be tuned here"):
        tune(tmp_path / "no.onnx", name, tmp_path / "records.jsonl")
