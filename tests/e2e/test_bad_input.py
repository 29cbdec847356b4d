"""Whatever goes in, what comes out is a documented exit code and one clear message."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Compiled
from support import odd_factories
from support.command import Told, edgemtl
from support.data import write_dense_folder, write_face_folder
from support.dense_family import build
from support.dense_work import FACTORY, NO_BENCH, DenseWork

from edgemtl.models import checkpoint

EXAMPLE = Path(__file__).parents[2] / "examples" / "mos_t.pt"


def refused(told: Told, code: int, *words: str) -> None:
    """One error, the exit code, and every word in what is said; nothing but JSON on stdout."""
    assert told.code == code, told.err
    sentence = told.error()
    said = f"{sentence} {told.hint()}"
    assert all(word in said for word in words), said
    if told.out.strip():
        told.json()


@pytest.fixture
def model_file(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes bytes, or anything that ``torch.save`` takes, as ``model.pt``."""

    def write(content: Any) -> Path:
        path = tmp_path / "model.pt"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        return path

    return write


def payload(**changes: Any) -> dict[str, Any]:
    """What a checkpoint of the small network holds, with some fields replaced."""
    buffer = io.BytesIO()
    saved = checkpoint.from_network(build())
    torch.save(
        {
            checkpoint.FORMAT_KEY: checkpoint.FORMAT,
            "family": saved.family,
            "arguments": dict(saved.arguments),
            "state_dict": dict(saved.state_dict),
            "tasks": [dict(task) for task in saved.tasks],
            "input": dict(saved.input),
            "pruning": [],
            "meta": {},
            **changes,
        },
        buffer,
    )
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


def weights(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """The small network's state dict, with ``decoders.parts.out.NAME`` replaced."""
    state = dict(build().state_dict())
    return state | {f"decoders.parts.out.{name}": value for name, value in changes.items()}


# --- models -----------------------------------------------------------------------------------


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("form", ["pickle", "torch", "legacy", "inside"])
@pytest.mark.parametrize("verb", ["compile", "inspect", "eval"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, form: str, verb: str) -> None:
    marker, model = tmp_path / "marker", tmp_path / "model.pt"
    bomb = Bomb(marker)
    if form == "pickle":
        model.write_bytes(pickle.dumps(bomb))
    elif form == "inside":
        torch.save({checkpoint.FORMAT_KEY: 1, "state_dict": bomb}, model)
    else:
        torch.save(bomb, model, _use_new_zipfile_serialization=form == "torch")
    flags = ("--target=cpu", "-o", tmp_path / "out") if verb == "compile" else ()
    told = edgemtl(verb, model, *flags, "--json")
    refused(told, 3, str(model))
    assert not marker.exists() and not (tmp_path / "out").exists()
    pickle.loads(pickle.dumps(bomb))  # noqa: S301 - it would have worked
    assert marker.exists()


def zip_of_text() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    return buffer.getvalue()


BAD_MODELS: dict[str, Callable[[], Any]] = {
    "empty": lambda: b"",
    "text": lambda: b"these are not the weights\n" * 40,
    "zip of text": zip_of_text,
    "truncated": lambda: EXAMPLE.read_bytes()[:-1000],
    "half": lambda: EXAMPLE.read_bytes()[: EXAMPLE.stat().st_size // 2],
    "first block": lambda: EXAMPLE.read_bytes()[:512],
    "damaged": lambda: EXAMPLE.read_bytes()[:3000] + b"\0" * 64 + EXAMPLE.read_bytes()[3064:],
    "bare state dict": weights,
    "a list": lambda: [1, 2, 3],
    "unknown family": lambda: payload(family="nobody"),
    "odd arguments": lambda: payload(arguments={"width": "wide"}),
    "another format": lambda: payload(edgemtl_checkpoint=99),
    "no weights": lambda: payload(state_dict={}),
    "not a number": lambda: payload(state_dict=weights(bias=torch.full((4,), float("nan")))),
    "infinite": lambda: payload(state_dict=weights(bias=torch.full((4,), float("inf")))),
    "wrong shape": lambda: payload(state_dict=weights(bias=torch.zeros(5))),
    "wrong kind": lambda: payload(state_dict=weights(bias=torch.zeros(4, dtype=torch.complex64))),
    "other tasks": lambda: payload(tasks=[{"name": "x", "kind": "depth", "options": {}}]),
    "unknown kind of task": lambda: payload(tasks=[{"name": "x", "kind": "mood", "options": {}}]),
    "odd input": lambda: payload(input={"size": "large"}),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models_are_refused(
    name: str, model_file: Callable[[Any], Path], tmp_path: Path
) -> None:
    model = model_file(BAD_MODELS[name]())
    told = edgemtl("compile", model, "--target=cpu", "-o", tmp_path / "out", "--json")
    refused(told, 3, str(model))
    assert not (tmp_path / "out").exists()
    refused(edgemtl("inspect", model, "--json"), 3, str(model))


def test_the_untouched_checkpoint_is_taken(model_file: Callable[[Any], Path]) -> None:
    told = edgemtl("inspect", model_file(payload()), "--json")
    assert told.code == 0 and set(told.json()["tasks"]) == {"parts", "distance"}


@pytest.mark.parametrize("what", ["folder", "nothing", "onnx", "bundle"])
def test_what_is_no_checkpoint_is_named(compiled: Compiled, tmp_path: Path, what: str) -> None:
    path = {
        "folder": tmp_path,
        "nothing": tmp_path / "nothing.pt",
        "onnx": compiled.run("cpu") / "model" / "model.onnx",
        "bundle": compiled.bundle("cpu"),
    }[what]
    told = edgemtl("compile", path, "--target=cpu", "-o", tmp_path / "out")
    refused(told, 3, str(path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (weights(bias=torch.full((4,), float("nan"))), "decoders.parts.out.bias"),
        (weights(bias=torch.zeros(5)), "decoders.parts.out.bias"),
        ({"other": torch.zeros(1)}, "unknown"),
        ([1, 2], "no state dict"),
    ],
)
def test_weights_that_do_not_fit_a_factory(
    state: Any, words: str, model_file: Callable[[Any], Path]
) -> None:
    told = edgemtl("compile", model_file(state), "--target=cpu", "--factory", FACTORY)
    refused(told, 3, words)


# --- factories --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("nonsense", "package.module:function"),
        ("no.such.module:build", "cannot be imported"),
        ("support.dense_family:no_such_function", "cannot be imported"),
        ("support.odd_factories:not_callable", "failed"),
        ("support.odd_factories:raises", "no weights were found"),
        ("support.odd_factories:returns_text", "returned str"),
    ],
)
def test_factories_that_do_not_work(dense_work: DenseWork, factory: str, words: str) -> None:
    told = edgemtl("compile", dense_work.model, "--target=cpu", "--factory", factory)
    refused(told, 2, words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Raising", "forward raises"),
        ("WrongNames", "my_parts"),
        ("Missing", "own"),
        ("NoDict", "output name -> tensor"),
        ("NoTensors", "output name -> tensor"),
        ("NoBatch", "(1, ...)"),
        ("NotFinite", "not finite"),
    ],
)
def test_networks_that_break_their_word(
    dense_work: DenseWork, tmp_path: Path, name: str, words: str
) -> None:
    told = edgemtl(
        *("compile", dense_work.model, "--factory", f"support.odd_factories:{name}"),
        *("--data", dense_work.data, "--target=cpu", "-o", tmp_path / "out", "--json"),
    )
    refused(told, 3, words)
    failed_run(tmp_path / "out", "model", 3)
    assert told.json()["exit_code"] == 3


def failed_run(folder: Path, stage: str, code: int) -> dict[str, Any]:
    """The run folder of a run that failed in this stage: whole, and it says so."""
    run: dict[str, Any] = json.loads((folder / "run.json").read_text("utf-8"))
    assert (run["status"], run["exit_code"], run["bundle"]) == ("failed", code, None)
    assert (run["stages"][-1]["name"], run["stages"][-1]["status"]) == (stage, "failed")
    assert (folder / "report.html").exists() and (folder / "report.md").exists()
    assert not (folder / "bundle").exists()
    assert litter(folder) == set()
    return run


def litter(folder: Path) -> set[str]:
    """Hidden names, which finished runs have none of but the lock."""
    return {path.name for path in folder.rglob(".*")} - {".lock"}


def test_a_network_that_cannot_be_exported_fails_its_stage(
    dense_work: DenseWork, tmp_path: Path
) -> None:
    told = edgemtl(
        *("compile", dense_work.model, "--factory", "support.odd_factories:Untraceable"),
        *("--data", dense_work.data, "--target=cpu", "-o", tmp_path / "out", "--json"),
    )
    refused(told, 4, "cannot be exported")
    failed_run(tmp_path / "out", "export", 4)
    assert odd_factories.Untraceable()(torch.zeros(1, 3, 64, 96))  # it does run


def test_a_defect_of_ours_leaves_a_record(
    dense_work: DenseWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgemtl.pipeline import cost

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("by\nnothing")

    monkeypatch.setattr(cost, "count_cost", fail)
    told = edgemtl(
        *("compile", *dense_work.flags(), "--target=cpu", "-o", tmp_path / "out", "--json"),
        *("--from-stage=cost-reference",),
    )
    refused(told, 1, "unexpected ZeroDivisionError: by nothing", "defect in EdgeMTL")
    failed_run(tmp_path / "out", "cost-reference", 1)


# --- recipes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[bench]\nnope = 1", "bench.nope"),
        ("[nope]\nkey = 1", "nope"),
        ("bench = 3", "bench"),
        ("[bench]\nthreads = 'many'", "bench.threads"),
        ("[bench]\nthreads = -1", "bench.threads"),
        ("[bench]\nseconds = nan", "bench.seconds"),
        ("[export]\nopset = 99", "export.opset"),
        ("[data]\nlimit = 0", "data.limit"),
        ("[gates.latency]\np99_ms = -3", "gates.latency.p99_ms"),
        ("[gates.latency]\nratio = true", "gates.latency.ratio"),
        ("[gates.cost]\nmacs_ratio = 1\nflops_ratio = 1", "one limit"),
        ("[gates.tasks]\nparts = 3", "gates.tasks.parts"),
        ("[bench\nthreads = 1", "TOML"),
        ("[bench]\nthreads = 1\nthreads = 2", "TOML"),
        ("\ufeff\0", "TOML"),
    ],
)
def test_bad_recipes(dense_work: DenseWork, tmp_path: Path, text: str, words: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text, "utf-8")
    told = edgemtl(*compile_to(dense_work, tmp_path), "-c", recipe)
    refused(told, 2, words, str(recipe))
    assert not (tmp_path / "out").exists()


def compile_to(work: DenseWork, folder: Path) -> list[object]:
    return ["compile", *work.flags(), "--target=cpu", *NO_BENCH, "-o", folder / "out", "--json"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", "folder"])
def test_recipes_that_are_no_text(
    dense_work: DenseWork, tmp_path: Path, content: bytes | str | None
) -> None:
    recipe = tmp_path / "recipe.toml"
    if isinstance(content, bytes):
        recipe.write_bytes(content)
    elif content == "folder":
        recipe.mkdir()
    refused(edgemtl(*compile_to(dense_work, tmp_path), "-c", recipe), 2, str(recipe))


@pytest.mark.parametrize(
    "assignment",
    [
        "nonsense",
        "=3",
        "bench=3",
        "bench.=3",
        "bench.nope=1",
        "bench.threads=many",
        ".=.",
        "bench.threads.x=1",
        "data.limit=nan",
        "bench.seconds=inf",
        "gates.tasks.nobody.min=0.1",
    ],
)
def test_assignments_that_make_no_sense(
    dense_work: DenseWork, tmp_path: Path, assignment: str
) -> None:
    refused(edgemtl(*compile_to(dense_work, tmp_path), f"--set={assignment}"), 2)
    assert not (tmp_path / "out").exists()


def test_variables_that_name_no_key(
    dense_work: DenseWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEMTL_BENCH__NOPE", "1")
    told = edgemtl(*compile_to(dense_work, tmp_path))
    refused(told, 2, "bench.nope", "environment")
    assert not (tmp_path / "out").exists()


# --- flags ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--target=toaster"], "toaster"),
        (["--target=cpu", "--target=cpu"], "twice"),
        ([], "no target"),
        (["--target=cpu", "--task=mood"], "mood"),
        (["--target=cpu", "--from-stage=nope"], "nope"),
        (["--target=cpu", "--until-stage=nope"], "nope"),
        (["--target=cpu", "--nope"], "--nope"),
        (["--target=cpu", "--set"], "--set"),
    ],
)
def test_bad_flags(dense_work: DenseWork, tmp_path: Path, flags: list[str], words: str) -> None:
    told = edgemtl("compile", *dense_work.flags(), "-o", tmp_path / "out", *flags)
    refused(told, 2, words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["nope"], ["compile"], ["gate"], ["--nope"]])
def test_bad_command_lines(arguments: list[str]) -> None:
    refused(edgemtl(*arguments), 2)


TARGET = 'description = "mine"\nbackend = "onnxruntime"\n'


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        (None, 2, "mine.toml"),
        ("backend = ", 2, "TOML"),
        ("backend = 'onnxruntime'", 2, "description"),
        (TARGET + "nope = 1", 2, "nope"),
        (TARGET + "opset = 3", 2, "opset"),
        (TARGET + "[gates.nope]\nx = 1", 2, "nope"),
        (TARGET.replace("onnxruntime", "toaster"), 2, "toaster"),
        (TARGET + "device = 'NPU'", 8, "NPU"),
    ],
)
def test_targets_of_ones_own(
    dense_work: DenseWork, tmp_path: Path, text: str | None, code: int, words: str
) -> None:
    target = tmp_path / "mine.toml"
    if text is not None:
        target.write_text(text, "utf-8")
    told = edgemtl(
        *("compile", *dense_work.flags(), "--target", target, "-o", tmp_path / "out", "--json")
    )
    refused(told, code, words)


def test_a_device_that_is_not_here(dense_work: DenseWork, tmp_path: Path) -> None:
    told = edgemtl(
        *("compile", *dense_work.flags(), "--target=intel-npu", "-o", tmp_path / "out", "--json")
    )
    refused(told, 8, "NPU")
    failed_run(tmp_path / "out", "parity", 8)


def test_a_runtime_that_is_not_installed(
    dense_work: DenseWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it raises ImportError
    told = edgemtl(
        *("compile", *dense_work.flags(), "--target=intel-cpu", "-o", tmp_path / "out", "--json")
    )
    refused(told, 8, "openvino", "pip install 'edgemtl[openvino]'")
    assert not (tmp_path / "out").exists()
    checks = {check["name"]: check for check in edgemtl("doctor", "--json").json()["checks"]}
    assert not checks["backend openvino"]["ok"]
    assert "edgemtl[openvino]" in checks["backend openvino"]["advice"]
    listed = {target["name"]: target["ok"] for target in edgemtl("targets", "--json").json()}
    assert listed["cpu"] and not listed["intel-cpu"]


# --- data -------------------------------------------------------------------------------------


def test_data_folders_that_hold_nothing(dense_work: DenseWork, tmp_path: Path) -> None:
    flags = ["compile", dense_work.model, "--factory", FACTORY, "--target=cpu"]
    flags += ["-o", tmp_path / "out", "--json"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    images_only = tmp_path / "unlabelled" / "val" / "images"
    shutil.copytree(dense_work.data / "val" / "images", images_only)
    no_images = tmp_path / "bare" / "val"
    no_images.mkdir(parents=True)
    (no_images / "label.txt").write_text("# a.jpg\n1 1 9 9\n")
    one_split = tmp_path / "one_split"
    write_dense_folder(one_split, "val", 1)
    for name in ("no_such", "empty", "file", "unlabelled", "bare", "one_split"):
        refused(edgemtl(*flags, "--data", tmp_path / name), 3, name)
        assert not (tmp_path / "out").exists()
    # The embedded rooms have depth; their classes are not this network's, and that is told.
    told = edgemtl(*flags, *NO_BENCH)
    assert told.code == 8, told.err
    status = {gate["name"]: gate["status"] for gate in told.json()["gates"]["outcomes"]}
    assert status["tasks.parts.max_relative_drop"] == "not-measured"
    assert status["tasks.distance.max_relative_drop"] == "pass"
    shutil.rmtree(tmp_path / "out")
    layout = edgemtl(*flags, "--data", dense_work.data, "--set=data.format=nope")
    refused(layout, 2, "nope")


def test_some_broken_images_are_counted_and_named(
    dense_work: DenseWork, compiled: Compiled, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(dense_work.data, data)
    (data / "val" / "images" / "0000.jpg").write_bytes(b"no picture")
    (data / "val" / "images" / "0009.jpg").write_bytes(b"")
    (data / "train" / "images" / "0001.jpg").write_bytes(b"\xff\xd8\xff")
    told = edgemtl("compile", dense_work.model, "--factory", FACTORY, "--target=cpu", *NO_BENCH,
                   "--data", data, "-o", tmp_path / "out")  # fmt: skip
    assert told.code == 0, told.err
    assert "4 problem(s) in the data" in told.err and "0009.jpg: " in told.err
    accuracy = json.loads((tmp_path / "out" / "accuracy.json").read_text("utf-8"))
    for side in ("reference", "artefact"):
        assert accuracy[side]["images"] == 2
        named = [line.split(":")[0] for line in accuracy[side]["skipped"]]
        assert {"0000.jpg", "0009.jpg"} <= set(named) <= {"0000.jpg", "0009.jpg"}
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "0000.jpg: does not decode" in page

    evaluated = edgemtl("eval", compiled.bundle("cpu"), "--data", data)
    assert evaluated.code == 0 and "0000.jpg: does not decode" in evaluated.err


def test_only_broken_images_are_refused(
    dense_work: DenseWork, compiled: Compiled, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(dense_work.data, data)
    for image in (data / "val" / "images").iterdir():
        image.write_bytes(b"no picture")
    told = edgemtl(
        *("compile", dense_work.model, "--factory", FACTORY, "--target=cpu", "--data", data),
        *("-o", tmp_path / "out", "--json"),
    )
    refused(told, 3, "does not decode")
    failed_run(tmp_path / "out", "accuracy-reference", 3)
    refused(edgemtl("eval", compiled.bundle("cpu"), "--data", data, "--json"), 3, "does not decode")

    for image in (data / "train" / "images").iterdir():
        image.write_bytes(b"no picture")
    told = edgemtl(
        *("compile", dense_work.model, "--factory", FACTORY, "--target=cpu", "--data", data),
        *("-o", tmp_path / "out", "--json"),
    )
    refused(told, 3, "calibration")
    failed_run(tmp_path / "out", "parity", 3)


def test_labels_for_other_tasks_measure_nothing_and_say_so(
    dense_work: DenseWork, tmp_path: Path
) -> None:
    data = tmp_path / "faces"
    write_face_folder(data, "train", 1)
    write_face_folder(data, "val", 2)
    told = edgemtl(
        *("compile", dense_work.model, "--factory", FACTORY, "--target=cpu", "--data", data),
        *(*NO_BENCH, "-o", tmp_path / "out", "--json"),
    )
    assert told.code == 8, told.err
    unmeasured = {
        o["name"] for o in told.json()["gates"]["outcomes"] if o["status"] == "not-measured"
    }
    assert {"tasks.parts.max_relative_drop", "tasks.distance.max_relative_drop"} <= unmeasured
    accuracy = json.loads((tmp_path / "out" / "accuracy.json").read_text("utf-8"))
    assert set(accuracy["reference"]["notes"]) == {"parts", "distance"}
    figures = [v for task in accuracy["artefact"]["tasks"].values() for v in task.values()]
    assert set(figures) == {None}


def test_labels_that_cannot_be_right_are_counted_and_named(tmp_path: Path) -> None:
    data = write_face_folder(tmp_path / "faces", "val", 2)
    label = data / "val" / "label.txt"
    lines = label.read_text("utf-8").splitlines()
    outside = "5000 5000 20 20"
    bad = [outside, "3 3 0 9", "nan nan 4 4", "one two three", "1 2 3"]
    label.write_text("\n".join([*lines, *bad, "# ../../etc/passwd", "# gone.jpg"]), "utf-8")
    told = edgemtl("eval", EXAMPLE, "--data", data, "--json")
    assert told.code == 0, told.err
    skipped = told.json()["skipped"]
    assert told.json()["images"] == 2
    assert sum("box without area" in line for line in skipped) == 2
    assert sum("not a face line" in line for line in skipped) == 2
    assert any(line.startswith("0001.jpg: 1 face(s) outside") for line in skipped)
    assert any("not a file name inside" in line for line in skipped)
    assert any(line.startswith("gone.jpg") for line in skipped)


# --- places -----------------------------------------------------------------------------------


def test_output_folders_that_cannot_be(dense_work: DenseWork, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("years of work")
    flags = ["compile", *dense_work.flags(), "--target=cpu", "--json", "-o"]
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/edgemtl", theirs):
        refused(edgemtl(*flags, place), 4, str(place))
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in theirs.iterdir()] == ["thesis.tex"]


def test_caches_that_cannot_be(
    dense_work: DenseWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (str(tmp_path / "file"), "/proc/edgemtl"):
        monkeypatch.setenv("EDGEMTL_CACHE", place)
        told = edgemtl(*compile_to(dense_work, tmp_path))
        refused(told, 4, place, "EDGEMTL_CACHE")
        failed_run(tmp_path / "out", "model", 4)
    assert (tmp_path / "file").read_text() == "mine"


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own, or a skip where mounting is not permitted."""
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or sys.platform != "linux":
        pytest.skip("no mount here: a small file system cannot be made")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_place_that_may_only_be_read(
    dense_work: DenseWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted(tmp_path / "readonly", "size=64k,ro") as folder:
        told = edgemtl("compile", *dense_work.flags(), "--target=cpu", "-o", folder / "out")
        refused(told, 4, "not writable", str(folder))
        refused(edgemtl("compile", *dense_work.flags(), "--target=cpu", "-o", folder), 4)
        refused(edgemtl("init", "-o", folder / "recipe.toml"), 4, "not writable")
        monkeypatch.setenv("EDGEMTL_CACHE", str(folder))
        refused(edgemtl(*compile_to(dense_work, tmp_path)), 4, "EDGEMTL_CACHE")


@pytest.mark.parametrize("kilobytes", [8, 40, 160])
def test_a_full_disk_under_the_run_folder(
    dense_work: DenseWork, compiled: Compiled, tmp_path: Path, kilobytes: int
) -> None:
    flags = ["compile", *dense_work.flags(), "--target=cpu", *NO_BENCH, "--json"]
    with mounted(tmp_path / "small", f"size={kilobytes}k") as small:
        output = small / "out"
        refused(edgemtl(*flags, "-o", output), 4, "the disk is full", "free space")
        assert litter(output) <= {".private"}
        assert not list(output.glob("bundle/*"))
        for path in output.rglob("*.json"):
            json.loads(path.read_text("utf-8"))  # whole or absent
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        told = edgemtl(*flags, "-o", output)
        assert told.code == 0, told.err
        assert litter(output) == set()


@pytest.mark.parametrize("kilobytes", [16, 100, 330])
def test_a_full_disk_under_the_cache(
    dense_work: DenseWork, tmp_path: Path, kilobytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted(tmp_path / "small", f"size={kilobytes}k") as small:
        monkeypatch.setenv("EDGEMTL_CACHE", str(small))
        told = edgemtl(*compile_to(dense_work, tmp_path))
        refused(told, 4, "the disk is full")
        run = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
        assert (run["status"], run["stages"][-1]["status"]) == ("failed", "failed")
        subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
        assert edgemtl(*compile_to(dense_work, tmp_path)).code == 0
        assert list((small / "stages" / "scratch").iterdir()) == []


@pytest.mark.parametrize("call", [1, 2, 4, 10, 20, 33])
def test_no_space_at_any_moment(
    dense_work: DenseWork, compiled: Compiled, tmp_path: Path, call: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real, calls = os.fsync, 0

    def fsync(handle: Any) -> None:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    refused(edgemtl(*compile_to(dense_work, tmp_path)), 4, "the disk is full")
    assert litter(tmp_path / "out") <= {".private"}
    monkeypatch.undo()
    told = edgemtl(*compile_to(dense_work, tmp_path))
    assert told.code == 0, told.err
    assert litter(tmp_path / "out") == set()


# --- bundles, pictures, results ---------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_bundles_that_are_cut_short(compiled: Compiled, tmp_path: Path, share: float) -> None:
    whole = compiled.bundle("cpu").read_bytes()
    cut = tmp_path / "cut.edgemtl"
    cut.write_bytes(whole[: int(len(whole) * share)])
    image = next((compiled.work.data / "val" / "images").iterdir())
    for command in (
        ("verify", cut),
        ("inspect", cut),
        ("eval", cut, "--data", compiled.work.data),
        ("run", cut, image, "-o", tmp_path / "drawn.png"),
        ("gate", cut),
        ("bench", cut),
        ("parity", cut, compiled.bundle("cpu"), "--data", compiled.work.data),
    ):
        refused(edgemtl(*command, "--json"), 3, str(cut))
    assert [path.name for path in tmp_path.iterdir()] == ["cut.edgemtl"]


@pytest.mark.parametrize("member", ["model.onnx", "selftest", "manifest.json"])
def test_bundles_that_were_changed(compiled: Compiled, tmp_path: Path, member: str) -> None:
    changed = tmp_path / "changed.edgemtl"
    with (
        zipfile.ZipFile(compiled.bundle("cpu")) as source,
        zipfile.ZipFile(changed, "w") as target,
    ):
        hit = next(name for name in source.namelist() if name.startswith(member))
        for info in source.infolist():
            data = bytearray(source.read(info))
            if info.filename == hit:
                data[len(data) // 2] ^= 1
            target.writestr(info, bytes(data))
    told = edgemtl("verify", changed, "--json")
    assert told.code in ((3, 10) if member == "manifest.json" else (10,))
    refused(told, told.code, str(changed))


def test_images_that_are_none(compiled: Compiled, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    drawn = tmp_path / "drawn.png"
    for image in (text, tmp_path / "empty.jpg", tmp_path / "gone.jpg", tmp_path):
        told = edgemtl("run", compiled.bundle("cpu"), image, "-o", drawn, "--json")
        refused(told, 3, str(image))
        assert not drawn.exists()
    good = next((compiled.work.data / "val" / "images").iterdir())
    told = edgemtl("run", compiled.bundle("cpu"), good, "-o", text / "below.png", "--json")
    refused(told, 4, str(text / "below.png"))


def test_results_that_are_none(compiled: Compiled, tmp_path: Path) -> None:
    for verb in ("gate", "report"):
        refused(edgemtl(verb, tmp_path), 3, str(tmp_path))
    broken = tmp_path / "broken"
    shutil.copytree(compiled.run("cpu"), broken)
    (broken / "accuracy.json").write_text('{"reference": 3, "artefact": []}', "utf-8")
    refused(edgemtl("gate", broken, "--json"), 3, str(broken))
    (broken / "run.json").write_text("{", "utf-8")
    refused(edgemtl("gate", broken, "--json"), 3, "run.json")
    results = tmp_path / "results.json"
    results.write_text('{"manifest_sha256": "0"}', "utf-8")
    told = edgemtl("gate", compiled.bundle("cpu"), "--results", results)
    refused(told, 3, "another bundle")


def test_onnx_files_that_are_not_ours(compiled: Compiled, tmp_path: Path) -> None:
    import onnx

    text = tmp_path / "text.onnx"
    text.write_text("no graph")
    foreign = tmp_path / "foreign.onnx"
    graph = onnx.load(compiled.run("cpu") / "model" / "model.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, foreign)
    for path in (text, foreign, tmp_path / "gone.onnx"):
        refused(edgemtl("eval", path, "--data", compiled.work.data, "--json"), 3, str(path))
        refused(edgemtl("bench", path, "--json"), 3, str(path))


def test_verbs_that_do_not_take_this(compiled: Compiled, tmp_path: Path) -> None:
    refused(edgemtl("bench", compiled.work.model), 2, "compile it first")
    onnx_file = compiled.run("cpu") / "model" / "model.onnx"
    refused(edgemtl("inspect", onnx_file), 2)
    pair = ("parity", EXAMPLE, compiled.bundle("cpu"))
    refused(edgemtl(*pair, "--data", compiled.work.data), 2, "in common")
    (tmp_path / "recipe.toml").write_text("mine")
    refused(edgemtl("init", "-o", tmp_path / "recipe.toml"), 2, "--force")
    assert (tmp_path / "recipe.toml").read_text() == "mine"
    onnx_out = tmp_path / "model.onnx"
    told = edgemtl("export", compiled.work.model, "--factory", FACTORY, "-o", onnx_out, "--task=no")
    refused(told, 2, "no")
    assert not onnx_out.exists()


def test_imports_that_do_not_work(tmp_path: Path) -> None:
    source, output = tmp_path / "weights.pth", tmp_path / "model.pt"
    torch.save({"conv.weight": torch.zeros(1)}, source)
    flags = ("import", source, "-o", output, "--family")
    refused(edgemtl(*flags, "nobody"), 2, "nobody")
    refused(edgemtl(*flags, "retinaface"), 2, "--preset")
    refused(edgemtl(*flags, "mos-m"), 3, str(source))
    refused(edgemtl(*flags, "mos-m", "--preset=x"), 2, "preset")
    source.write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    refused(edgemtl(*flags, "mos-m"), 3, str(source))
    assert not output.exists() and not (tmp_path / "marker").exists()


def test_what_a_file_says_cannot_command_the_terminal(
    model_file: Callable[[Any], Path],
) -> None:
    told = edgemtl("inspect", model_file(payload(family="\x1b[2Jgone\x07\nerror: fake")))
    refused(told, 3, "gone")
    assert "\x1b" not in told.err and "\x07" not in told.err


# --- the installed program --------------------------------------------------------------------


def test_the_installed_program_says_the_same(tmp_path: Path) -> None:
    """In a process of its own: exit codes and streams as a shell sees them."""
    program = Path(sys.executable).with_name("edgemtl")
    assert program.exists()
    marker = tmp_path / "marker"
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb(marker)))
    torch.save(payload(family="nobody"), tmp_path / "nobody.pt")
    # Importing OpenVINO fails in this process and in those it starts.
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['openvino'] = None")
    for code, words, arguments in (
        (2, "--nope", ["--nope"]),
        (3, "bomb.pt", ["inspect", tmp_path / "bomb.pt", "--json"]),
        (3, "nobody", ["compile", tmp_path / "nobody.pt", "--target=cpu"]),
        (8, "edgemtl[openvino]", ["compile", EXAMPLE, "--target=intel-cpu", "--set=data.limit=1"]),
    ):
        done = subprocess.run(
            [program, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        refused(Told(done.returncode, done.stdout, done.stderr), code, words)
        assert done.stdout == ""
    assert not marker.exists() and not (tmp_path / "runs").exists()


def test_seeded_noise_in_a_checkpoint_never_surprises(
    model_file: Callable[[Any], Path],
) -> None:
    """Blocks of a good file overwritten: refused, but for hits on nothing but padding."""
    buffer = io.BytesIO()
    torch.save(payload(), buffer)
    good = buffer.getvalue()
    rng = np.random.default_rng(0)
    codes = []
    for _ in range(30):
        data = bytearray(good)
        at = int(rng.integers(0, len(data) - 32))
        data[at : at + 32] = rng.integers(0, 256, 32, dtype=np.uint8).tobytes()
        told = edgemtl("inspect", model_file(bytes(data)), "--json")
        assert told.code in (0, 3), told.err
        if told.code:
            told.error()
        codes.append(told.code)
    assert codes.count(3) >= 27
