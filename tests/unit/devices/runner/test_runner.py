"""The runner, in this process: what it refuses, what it prints, how it leaves."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import members_of, rehashed, with_manifest, write_members, write_network

from edgemtl.bundle import open_bundle
from edgemtl.devices.runner import errors, facts, latency
from edgemtl.devices.runner.arrays import load_float32
from edgemtl.devices.runner.cli import main
from edgemtl.errors import ExitCode
from edgemtl.measure import statistics


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """Exit code, parsed standard output (None when empty), standard error."""
    code = main(list(arguments), "no-default")
    out, err = capfd.readouterr()
    return code, json.loads(out) if out else None, err


def unpacked(bundle: Path, folder: Path) -> Path:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    return folder


def test_exit_codes_are_those_of_the_product() -> None:
    ours = {
        name: value
        for name, value in vars(errors).items()
        if name.isupper() and isinstance(value, int)
    }
    assert ours == {name: int(ExitCode[name]) for name in ours}
    assert len(ours) == 8


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_verify(bundle_path: Path, tmp_path: Path, form: str, capfd: Any) -> None:
    where = bundle_path if form == "zip" else unpacked(bundle_path, tmp_path / "unpacked")
    code, document, err = run(capfd, "verify", "--bundle", str(where))
    assert (code, err) == (0, "")
    assert document["manifest_sha256"] == open_bundle(bundle_path).manifest_sha256
    assert document["selftest"]["passed"] is True
    assert document["selftest"]["cases"] == 2
    assert {o["output"] for o in document["selftest"]["outputs"]} == {
        "étiquettes.logits",
        "depth.depth",
    }
    assert document["runtime"]["name"] == "onnxruntime"
    assert document["runtime"]["threads"] == 1
    assert document["device"]["machine"]
    assert "latency" not in document


def test_bench(bundle_path: Path, tmp_path: Path, capfd: Any) -> None:
    output = tmp_path / "results.json"
    flags = ["--warm-up", "0", "--min-seconds", "0", "--min-runs", "40", "--threads", "2"]
    code, document, err = run(
        capfd, "bench", "--bundle", str(bundle_path), "--output", str(output), *flags
    )
    # Whether 40 runs of a tiny network are stable depends on what else this machine does.
    assert code == (0 if document["latency"]["stable"] else 9)
    assert bool(err) == (code == 9)
    assert json.loads(output.read_text("utf-8")) == document
    figures = document["latency"]
    assert figures["count"] == len(figures["samples_ms"]) == 40
    assert 0 < figures["min_ms"] <= figures["p50_ms"] <= figures["p90_ms"] <= figures["p99_ms"]
    assert document["runtime"]["threads"] == 2
    assert document["peak_memory_bytes"] > 0


def test_results_written_beside_the_files_do_not_spoil_the_folder(
    bundle_path: Path, tmp_path: Path, capfd: Any
) -> None:
    folder = unpacked(bundle_path, tmp_path / "unpacked")
    for _ in range(2):
        output = str(folder / "results.json")
        assert run(capfd, "verify", "--bundle", str(folder), "--output", output)[0] == 0
    assert json.loads((folder / "results.json").read_text("utf-8"))["extra_files"] == [
        "results.json"
    ]


def test_info_runs_nothing(bundle_path: Path, capfd: Any) -> None:
    members = members_of(bundle_path)
    members["model.onnx"] = b"not a model at all"
    write_members(bundle_path, rehashed(members))
    code, document, _ = run(capfd, "info", "--bundle", str(bundle_path))
    assert code == 0
    assert document["backend"] == "onnxruntime"
    assert document["input"] == {"name": "images", "shape": [1, 3, 6, 8]}


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_every_tampered_member_is_named(
    bundle_path: Path, tmp_path: Path, form: str, capfd: Any
) -> None:
    members = members_of(bundle_path)
    for index, name in enumerate(sorted(members.keys() - {"manifest.json"})):
        changed = bytearray(members[name])
        changed[len(changed) // 2] ^= 1
        where = write_members(tmp_path / "bad.edgemtl", {**members, name: bytes(changed)})
        if form == "folder":
            where = unpacked(where, tmp_path / f"unpacked{index}")
        code, document, err = run(capfd, "verify", "--bundle", str(where))
        assert (code, document) == (10, None)
        assert f"'{name}'" in err
        assert err.count("\n") == 1


def test_a_missing_file_in_a_folder(bundle_path: Path, tmp_path: Path, capfd: Any) -> None:
    folder = unpacked(bundle_path, tmp_path / "unpacked")
    (folder / "README.txt").unlink()
    code, _, err = run(capfd, "verify", "--bundle", str(folder))
    assert (code, err) == (10, "error: 'README.txt' is missing from the bundle\n")


def test_a_link_in_a_folder_is_not_followed(bundle_path: Path, tmp_path: Path, capfd: Any) -> None:
    folder = unpacked(bundle_path, tmp_path / "unpacked")
    (folder / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    code, _, err = run(capfd, "verify", "--bundle", str(folder))
    assert code == 10
    assert "'model.onnx' is missing" in err


def test_altered_weights_fail_with_a_document(
    bundle_path: Path, tmp_path: Path, capfd: Any
) -> None:
    members = members_of(bundle_path)
    members["model.onnx"] = write_network(tmp_path / "n.onnx", scale=1.01).read_bytes()
    write_members(bundle_path, rehashed(members))
    for verb in ("verify", "bench"):
        code, document, err = run(capfd, verb, "--bundle", str(bundle_path))
        assert code == 10
        assert document["selftest"]["passed"] is False
        assert "latency" not in document
        assert "étiquettes.logits" in err


def test_a_network_with_other_outputs(bundle_path: Path, tmp_path: Path, capfd: Any) -> None:
    def rename(manifest: dict[str, Any]) -> None:
        manifest["selftest"]["expected"][0]["output"] = "nowhere"

    code, _, err = run(capfd, "verify", "--bundle", str(with_manifest(bundle_path, rename)))
    assert code == 4
    assert "nowhere" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("schema_version", 99, 3),
        ("artefact", {}, 3),
        ("files", {"../x": {"sha256": "0" * 64, "size": 1}}, 3),
        ("selftest", {"input": "nowhere", "expected": []}, 3),
        ("target", {"name": "t", "device": "NPU"}, 8),
        ("inputs", [{"name": "images", "shape": [1, 3, 5, 5]}], 10),
    ],
)
def test_bad_manifests(bundle_path: Path, key: str, value: Any, code: int, capfd: Any) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest[key] = value

    path = with_manifest(bundle_path, edit)
    found, document, err = run(capfd, "verify", "--bundle", str(path))
    assert (found, document) == (code, None)
    assert err.count("\n") == 1


def test_names_from_the_bundle_cannot_steer_the_terminal(bundle_path: Path, capfd: Any) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["name"] = "\ud800"
        manifest["target"]["device"] = "\x1b[2J\nall good\n"

    path = str(with_manifest(bundle_path, edit))
    code, _, err = run(capfd, "verify", "--bundle", path)
    assert code == 8
    assert "\x1b" not in err
    assert err.count("\n") == 1
    assert run(capfd, "info", "--bundle", path)[0] == 0


def test_a_backend_without_a_module(bundle_path: Path, capfd: Any) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["artefact"]["backend"] = "abacus"

    code, _, err = run(capfd, "verify", "--bundle", str(with_manifest(bundle_path, edit)))
    assert code == 8
    assert "abacus" in err


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_runtime_that_is_not_installed(
    bundle_path: Path, backend: str, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, backend, None)

    def edit(manifest: dict[str, Any]) -> None:
        manifest["artefact"]["backend"] = backend

    code, _, err = run(capfd, "verify", "--bundle", str(with_manifest(bundle_path, edit)))
    assert code == 8
    assert f"pip install {backend}" in err


def test_openvino_runs_the_same_bundle(bundle_path: Path, capfd: Any) -> None:
    if importlib.util.find_spec("openvino") is None:  # importing it here would be too early
        pytest.skip("openvino is not installed")

    def edit(manifest: dict[str, Any]) -> None:
        manifest["artefact"]["backend"] = "openvino"

    path = with_manifest(bundle_path, edit)
    code, document, _ = run(capfd, "verify", "--bundle", str(path))
    assert code == 0
    assert document["runtime"]["name"] == "openvino"
    assert document["runtime"]["devices"] == ["CPU"]
    # Importing OpenVINO must not report to anybody.
    assert sys.modules["openvino_telemetry"] is None


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["bench", "--min-runs", "0"], ["bench", "--threads", "-1"], ["verify", "x"]],
)
def test_wrong_usage(arguments: list[str], capfd: Any) -> None:
    code, document, err = run(capfd, *arguments)
    assert (code, document) == (2, None)
    assert err.count("\n") == 1


def test_what_is_not_a_bundle(tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "x").write_bytes(b"PK nothing")
    for where in (tmp_path / "x", tmp_path, tmp_path / "absent"):
        code, document, err = run(capfd, "info", "--bundle", str(where))
        assert (code, document) == (3, None)
        assert err.count("\n") == 1


def test_an_output_that_is_no_file_is_written_into(
    bundle_path: Path, tmp_path: Path, capfd: Any
) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "real.json")
    for output in (link, Path(os.devnull)):
        assert run(capfd, "info", "--bundle", str(bundle_path), "--output", str(output))[0] == 0
    assert link.is_symlink() and (tmp_path / "real.json").is_file()
    assert Path(os.devnull).is_char_device()


def test_an_output_that_cannot_be_written(bundle_path: Path, tmp_path: Path, capfd: Any) -> None:
    where = str(tmp_path / "absent" / "results.json")
    code, _, err = run(capfd, "info", "--bundle", str(bundle_path), "--output", where)
    assert code == 4
    assert "cannot write" in err


@pytest.mark.parametrize(
    "samples",
    [
        [1.0] * 19,
        [1.0] * 40,
        [1.0] * 20 + [1.15] * 20,
        [1.0] * 20 + [1.3] * 20,
        list(np.random.default_rng(0).lognormal(0, 0.5, 60)),
        list(np.linspace(1, 2, 200)),
    ],
)
def test_figures_and_stability_are_those_of_the_product(samples: list[float]) -> None:
    expected = statistics.summarise(samples).to_dict()
    assert latency.summary(samples) == pytest.approx(expected)
    assert (latency.instability(samples) == "") == statistics.drift(samples).stable


def test_sampling_stops_when_both_limits_are_met() -> None:
    now = 0.0

    def step() -> None:
        nonlocal now
        now += 0.25

    def clock() -> float:
        return now

    # One second of warm-up takes 4 runs; 2 s of timed runs take 8.
    samples = latency.sample(step, warm_up_s=1, min_runs=3, min_s=2, clock=clock)
    assert samples == [250.0] * 8
    assert now == 3.0
    assert len(latency.sample(step, warm_up_s=0, min_runs=11, min_s=2, clock=clock)) == 11


def test_the_device_is_looked_at_between_runs_only() -> None:
    now, looks, busy = [0.0], [], [False]

    def step() -> None:
        busy[0] = True
        now[0] += 0.2
        busy[0] = False

    def look() -> None:
        assert not busy[0]
        looks.append(now[0])
        now[0] += 5.0  # however long it takes, no run gets slower by it

    samples = latency.sample(
        step, warm_up_s=0, min_runs=6, min_s=0, clock=lambda: now[0], observe=look
    )
    assert samples == pytest.approx([200.0] * 6)
    assert len(looks) == 2


def test_throttling_makes_timings_unusable() -> None:
    assert facts.throttled({"throttle_count": 3}, {"throttle_count": 5}) == (
        "the processor throttled 2 times meanwhile"
    )
    for before, after in (({}, {}), ({"throttle_count": 3}, {"throttle_count": 3})):
        assert facts.throttled(before, after) == ""
    assert "throttle_count" in facts.clocks()


def test_a_header_that_never_ends_is_no_array() -> None:
    # Found by tools/robustness.py: NumPy's second try at such a header raises a kind of its own.
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,2"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(errors.RunnerError, match="not a readable array"):
        load_float32(data, "x.npy")
