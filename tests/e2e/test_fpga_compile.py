"""A trained network compiled for an FPGA board: quantised, split, emitted, simulated, judged."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from support import run_page
from support.command import edgemtl

from edgemtl import targets
from edgemtl.backends.fpga import board, simulate
from edgemtl.backends.fpga.device import options_of
from edgemtl.backends.tvm import board as arm

MODEL = Path(__file__).resolve().parents[2] / "examples" / "mos_t.pt"
QUICK = ["--set", "data.limit=2", "--set", "quantize.images=4", "--set", "export.parity_images=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run") / "out"
    told = edgemtl("compile", str(MODEL), "--target", "zcu104", "-o", str(place), *QUICK)
    assert told.code == 0, told.err
    assert "Traceback" not in told.err
    return place


def test_the_bundle_holds_code_and_says_what_is_modelled(folder: Path) -> None:
    found = edgemtl("inspect", str(folder / "bundle" / "mos_t-zcu104.edgemtl"), "--json")
    files = json.loads(found.out)["files"]
    for name in ("accelerator.cpp", "program.h", "weights.bin", "plan.json", "host_2.onnx"):
        assert files[f"artefact/{name}"] > 0
    plan = json.loads((folder / "modelled.json").read_text("utf-8"))
    assert plan["kind"] == "modelled"
    assert run_page.problems(folder) == []
    assert plan["resources"]["refused"] == []
    assert len(plan["layers"]) == 87
    # Heads end in reshapes; everything else is the accelerator's.
    assert plan["host"] == {"Concat": 6, "Reshape": 18, "Transpose": 18}


@pytest.mark.skipif(simulate.compiler_version() is None, reason="g++ is not installed")
def test_the_emitted_code_was_held_against_the_reference(folder: Path) -> None:
    (stage,) = folder.glob("stages/*-compile/stage.json")
    assert json.loads(stage.read_text("utf-8"))["status"] in ("done", "cached")
    bundle = folder / "bundle" / "mos_t-zcu104.edgemtl"
    with zipfile.ZipFile(bundle) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    facts = manifest["artefact"]["facts"]
    assert facts["bit_exact"] == "equal to the NumPy reference on a random input"
    assert facts["steps"]["conv"] + facts["steps"]["depthwise"] == 83


def test_the_processors_program_is_arm_code_and_answers_like_the_simulation(
    folder: Path, tmp_path: Path
) -> None:
    options = options_of(targets.load("zcu104"))
    bundle = folder / "bundle" / "mos_t-zcu104.edgemtl"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    facts = manifest["artefact"]["facts"]
    lacking = board.lacking(options)
    if lacking is None and facts["processor"] != options.processor:
        lacking = facts["processor"]  # TVM's libraries for the board cannot be had
    if lacking is None and shutil.which(options.emulator) is None:
        lacking = f"'{options.emulator}' is missing"
    if lacking is not None:
        pytest.skip(f"the board's program cannot be made and run here: {lacking}")
    assert facts["called_from_tvm"].endswith("equal to the NumPy reference")
    place = tmp_path / "artefact"
    for name in ("model.so", "libaccelerator.so", "runner"):
        assert (place / name).read_bytes()[18:20] == b"\xb7\x00"  # AArch64, says its header
    # What the bundle's own self-test expects was computed by the simulation on real pictures.
    expected = sorted((tmp_path / "selftest").glob("expected-*.npy"))
    assert len(expected) == 6
    command = arm.emulated(options.emulator, options.processor, place, (1, 3, 320, 320))[:-1]
    words = ["selftest", str(tmp_path / "selftest" / "input.npy")]
    for path in expected:
        words += [str(path), "1e-5"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" ok") == 6


def test_accuracy_is_judged_on_the_simulation_and_no_latency_is_claimed(folder: Path) -> None:
    gates = json.loads((folder / "gates.json").read_text("utf-8"))
    states = {outcome["name"]: outcome["status"] for outcome in gates["outcomes"]}
    judged = {name: state for name, state in states.items() if name.startswith("tasks.")}
    assert len(judged) == 3 and set(judged.values()) == {"pass"}
    assert {state for name, state in states.items() if name.startswith("latency")} == {
        "not-measured"
    }
    assert not (folder / "bench" / "artefact.json").exists()


def test_the_report_plots_latency_against_memory(folder: Path) -> None:
    page = (folder / "report.html").read_text("utf-8")
    assert "Accelerator, modelled" in page
    assert "Modelled latency against memory" in page
    assert page.count('class="design') > 100


def test_the_bundle_verifies(folder: Path) -> None:
    told = edgemtl("verify", str(folder / "bundle" / "mos_t-zcu104.edgemtl"))
    assert told.code == 0, told.err


def test_inspect_prints_the_plan_layer_by_layer() -> None:
    told = edgemtl("inspect", str(MODEL), "--target", "zcu102", "--modules")
    assert told.code == 0, told.err
    assert "target zcu102, modelled:" in told.out
    assert "of 2520 DSP" in told.out
    assert "backbone.stem.conv" in told.out


def test_a_design_that_does_not_fit_leaves_with_the_documented_code(tmp_path: Path) -> None:
    board = (MODEL.parents[1] / "targets" / "zcu104.toml").read_text("utf-8")
    own = tmp_path / "big.toml"
    own.write_text(board.replace("[options]", "[options]\nrows = 64\ncolumns = 64"), "utf-8")
    told = edgemtl("inspect", str(MODEL), "--target", str(own))
    assert told.code == 0
    assert "refused: the design does not fit: DSP" in " ".join(told.out.split())
    told = edgemtl("compile", str(MODEL), "--target", str(own), "-o", str(tmp_path / "o"), *QUICK)
    assert told.code == 4
    assert "DSP: an array of 64 x 64 needs 4224, the board has 1728" in told.err
