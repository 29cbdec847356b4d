"""Lower precision from end to end: a small foreign network in int8 for both CPU runtimes."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from conftest import Compiled
from support import run_page
from support.command import Told, edgemtl
from support.dense_work import FACTORY, NO_BENCH, QUICK_BENCH, DenseWork, write_dense_work

from edgemtl.backends.openvino import OpenVinoBackend

TARGETS = ("cpu", "intel-cpu")
#: a graph of a few kilobytes grows by the nodes that round
FLAGS = (*NO_BENCH, "--set=gates.cost.size_ratio=false")

picked = pytest.mark.parametrize("target", TARGETS)


@dataclass(frozen=True)
class Lowered:
    """What compiling for both targets in int8 left; on intel-cpu without being asked."""

    work: DenseWork
    output: Path
    told: dict[str, Told]

    def read(self, target: str, name: str) -> Any:
        """A JSON file of the run."""
        return json.loads((self.output / target / name).read_text("utf-8"))

    def bundle(self, target: str) -> Path:
        """The bundle."""
        return self.output / target / "bundle" / f"dense-{target}.edgemtl"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    """The small network with more pictures, to calibrate and to judge on."""
    return write_dense_work(tmp_path_factory.mktemp("precision"), images=6)


@pytest.fixture(scope="module")
def lowered(
    work: DenseWork, tmp_path_factory: pytest.TempPathFactory, session_cache: Path
) -> Lowered:
    """``edgemtl compile`` in int8."""
    output = tmp_path_factory.mktemp("lowered")
    asked = {"cpu": ["--set=quantize.precision=int8"], "intel-cpu": []}
    flags = [*work.flags_of_the_target(), *FLAGS]
    told = {
        name: edgemtl("compile", *flags, *more, "--target", name, "-o", output / name)
        for name, more in asked.items()
    }
    return Lowered(work, output, told)


@picked
def test_every_task_passes_its_gate_in_int8(lowered: Lowered, target: str) -> None:
    assert lowered.told[target].code == 0, lowered.told[target].err
    outcomes = lowered.read(target, "gates.json")["outcomes"]
    tasks = [outcome for outcome in outcomes if outcome["name"].startswith("tasks.")]
    assert len(tasks) == 2 and {outcome["status"] for outcome in tasks} == {"pass"}
    assert run_page.problems(lowered.output / target) == []
    figures = lowered.read(target, "accuracy.json")
    assert figures["reference"]["tasks"] != figures["artefact"]["tasks"]


@picked
def test_quantize_json_tells_layers_and_budgets(lowered: Lowered, target: str) -> None:
    found = lowered.read(target, "quantize.json")
    assert (found["precision"], found["asked"], found["choice"]) == ("int8", "int8", None)
    assert {row["precision"] for row in found["layers"]} == {"int8"}
    tasks = found["result"]["tasks"]
    # half of what the gates allow
    assert {name: task["budget"] for name, task in tasks.items()} == dict.fromkeys(tasks, 0.01)
    assert all(task["drop"] is not None for task in tasks.values())


@picked
def test_the_bundle_carries_the_int8_graph(lowered: Lowered, target: str) -> None:
    with zipfile.ZipFile(lowered.bundle(target)) as archive:
        model = onnx.load_from_string(archive.read("model.onnx"))
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    published = lowered.output / target / "model" / "quantized.onnx"
    assert onnx.load(published) == model
    assert edgemtl("verify", lowered.bundle(target)).code == 0


@picked
def test_parity_holds_the_artefact_against_the_int8_graph(lowered: Lowered, target: str) -> None:
    forms = lowered.read(target, "parity.json")["stages"]
    assert list(forms) == ["onnx", "simplified", "int8", "artefact"]
    assert "reference" not in forms["int8"] and forms["artefact"]["reference"] == "int8"
    for row in forms["artefact"]["outputs"]:
        near, far = row["snr_db"], forms["int8"]["outputs"]
        assert row["ok"] and (near is None or near > 15)
        rounded = next(other for other in far if other["name"] == row["name"])
        assert near is None or near > rounded["snr_db"]


@picked
def test_the_report_says_so(lowered: Lowered, target: str) -> None:
    page = (lowered.output / target / "report.html").read_text("utf-8")
    assert "Quantisation: int8" in page
    assert "9 of 9 layers in int8" in page
    assert "int8 → artefact" in page


def test_work_is_counted_on_the_float_graph(lowered: Lowered) -> None:
    cost = lowered.read("intel-cpu", "cost.json")
    before, after = cost["reference"], cost["artefact"]
    assert (before["macs"], before["parameters"]) == (after["macs"], after["parameters"])
    assert "activation_bytes" in before and "activation_bytes" not in after


def test_the_same_bytes_from_a_fresh_cache(
    lowered: Lowered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEMTL_CACHE", str(tmp_path / "cache"))
    flags = [*lowered.work.flags_of_the_target(), *FLAGS, "--until-stage=bundle"]
    told = edgemtl("compile", *flags, "--target=intel-cpu", "-o", tmp_path / "run", "--json")
    assert told.code == 0, told.err
    bundle = Path(told.json()["bundle"])
    assert bundle.read_bytes() == lowered.bundle("intel-cpu").read_bytes()


def test_auto_takes_what_it_measured_to_be_fastest(work: DenseWork, tmp_path: Path) -> None:
    told = edgemtl(
        *("compile", *work.flags_of_the_target(), *QUICK_BENCH, "--target=cpu"),
        *("--until-stage=bench", "-o", tmp_path / "run"),
    )
    assert told.code == 0, told.err
    found = json.loads((tmp_path / "run" / "quantize.json").read_text("utf-8"))
    assert found["asked"] == "auto"
    assert run_page.problems(tmp_path / "run") == []
    candidates = {one["precision"]: one for one in found["choice"]["candidates"]}
    assert list(candidates) == ["fp32", "int8"] and all(c["passes"] for c in candidates.values())
    times = {name: one["latency_ms"] for name, one in candidates.items()}
    worth_it = times["int8"] < 0.97 * times["fp32"]
    assert found["precision"] == ("int8" if worth_it else "fp32")
    assert (tmp_path / "run" / "bench" / "precision.json").exists() == worth_it
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert f"{found['precision']} was chosen" in page


def test_quantize_takes_a_checkpoint_or_an_onnx_file(
    lowered: Lowered, compiled: Compiled, tmp_path: Path
) -> None:
    flags = lowered.work.flags_of_the_target()[1:]
    output = tmp_path / "int8.onnx"
    told = edgemtl(
        *("quantize", lowered.work.model, *flags, "--target=intel-cpu", "-o", output),
        *("--keep-float=stem", "--budget=distance=0.5", "--json"),
    )
    assert told.code == 0, told.err
    found = told.json()
    assert found == json.loads((tmp_path / "int8.onnx.quantize.json").read_text("utf-8"))
    assert list(found["result"]["kept"].values()) == ["asked for (keep_float)"]
    budgets = {name: task["budget"] for name, task in found["result"]["tasks"].items()}
    assert budgets == {"parts": 0.01, "distance": 0.5}
    assert edgemtl("eval", output, "--data", lowered.work.data).code == 0

    source = compiled.run("cpu") / "model" / "model.onnx"
    half = edgemtl(
        *("quantize", source, "--data", lowered.work.data, "--target=intel-cpu"),
        *("--precision=fp16", "-o", tmp_path / "fp16.onnx"),
    )
    assert half.code == 0, half.err
    assert "precision fp16" in half.out
    assert (tmp_path / "fp16.onnx").stat().st_size < 0.7 * source.stat().st_size


def test_a_missed_budget_has_its_exit_code(lowered: Lowered, tmp_path: Path) -> None:
    told = edgemtl(
        *("quantize", lowered.work.model, *lowered.work.flags_of_the_target()[1:]),
        *("--precision=int8", "--budget=parts=0", "--budget=distance=0"),
        *("--set=quantize.max_evaluations=2", "-o", tmp_path / "int8.onnx"),
    )
    assert told.code == 6
    assert "NOT KEPT" in told.out and (tmp_path / "int8.onnx").exists()


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--precision=fp16"], 2, "target 'cpu' has no fp16"),
        (["--precision=int4"], 2, "quantize.precision"),
        (["--budget=nose=0.1"], 2, "task 'nose'"),
        (["--precision=int8", "--keep-float=nowhere"], 2, "matches no layer"),
    ],
)
def test_what_makes_no_sense_is_refused(
    compiled: Compiled, tmp_path: Path, flags: list[str], code: int, words: str
) -> None:
    told = edgemtl(
        *("quantize", compiled.run("cpu") / "model" / "model.onnx", *flags),
        *("--data", compiled.work.data, "-o", tmp_path / "out.onnx"),
    )
    assert told.code == code
    assert words in told.error()
    assert not (tmp_path / "out.onnx").exists()


def test_a_bundle_is_not_quantised(compiled: Compiled, tmp_path: Path) -> None:
    told = edgemtl("quantize", compiled.bundle("cpu"), "-o", tmp_path / "out.onnx")
    assert (told.code, told.error()[-35:]) == (
        2,
        "quantize takes a checkpoint or an ONNX file"[-35:],
    )


def test_inspect_says_where_int8_runs_as_float(
    compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "it would be computed in float32"
    able = replace(OpenVinoBackend.capabilities, int8_as_float=why)
    monkeypatch.setattr(OpenVinoBackend, "capabilities", able)
    command = ("inspect", compiled.work.model, "--factory", FACTORY)
    told = edgemtl(*command, "--target=cpu", "--target=intel-cpu")
    assert told.code == 0, told.err
    said = [line for line in told.out.splitlines() if "runs as float32" in line]
    assert said == [f"target intel-cpu: int8 runs as float32: {why}"]
