"""The runner without TensorRT's Python bindings, against a FAKE ``trtexec``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support import fake_trtexec
from support.fake_tensorrt import FakeCuda
from support.tiny_bundle import make_contents, write_network

from edgemtl import targets
from edgemtl.backends.tensorrt.backend import TensorRtBackend
from edgemtl.bundle.write import write_bundle
from edgemtl.devices.runner.cli import main
from edgemtl.devices.runner.errors import RunnerError
from edgemtl.devices.runner.runtimes import cuda_runtime, trtexec
from edgemtl.devices.runner.runtimes.engines import Profile

#: as the program writes its version -> as it is told
VERSIONS = {"8502": "8.5.2", "8602": "8.6.2", "100300": "10.3.0", "11.4.1.2": "11.4.1.2"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for a Jetson whose output names a C program can print."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "jetson").mkdir()
    onnx, target = write_network(folder / "net.onnx"), targets.load("jetson")
    artefact = TensorRtBackend().compile(onnx, target, folder / "jetson")
    path = folder / "net-jetson.edgemtl"
    write_bundle(path, make_contents(folder / "contents", artefact=artefact, target=target))
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEMTL_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(cuda_runtime, "load", FakeCuda)
    return tmp_path / "bin"


def use(monkeypatch: pytest.MonkeyPatch, place: Path, version: str, **more: Any) -> None:
    monkeypatch.setenv(trtexec.VARIABLE, str(fake_trtexec.install(place, version, **more)))


def runner(bundle: Path, capfd: Any, *flags: str) -> tuple[int, Any, str]:
    code = main([flags[0], "--bundle", str(bundle), *flags[1:]], "no-default")
    out, err = capfd.readouterr()
    return code, json.loads(out) if out else None, err


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_builds_and_verifies_by_its_own_flags(
    version: str, bundle: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    use(monkeypatch, place, version)
    code, document, err = runner(bundle, capfd, "verify")
    assert (code, err) == (0, "")
    assert document["selftest"]["passed"] is True
    assert document["runtime"]["name"] == "trtexec"
    assert document["runtime"]["version"] == VERSIONS[version]
    build, *runs = fake_trtexec.calls(place)
    names = {flag.lstrip("-").partition("=")[0] for flag in build}
    assert names <= set(fake_trtexec.FLAGS[version])
    assert ("stronglyTyped" in names) == (not version.startswith("8"))
    assert ("builderOptimizationLevel" in names) == (version != "8502")
    assert {"skipInference", "buildOnly"} & names
    assert all(any(flag.startswith("--loadEngine=") for flag in run) for run in runs)


def test_bench_takes_the_program_s_own_times(
    bundle: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    use(monkeypatch, place, "100300")
    flags = ["--warm-up", "0.5", "--min-seconds", "0", "--min-runs", "40"]
    code, document, _ = runner(bundle, capfd, "bench", *flags)
    assert code == 0
    found = document["latency"]
    assert (found["count"], found["p50_ms"], found["stable"]) == (40, 2.0, True)
    assert found["clock"] == "gpu"
    assert {name: step["p50_ms"] for name, step in document["stages"].items()} == {
        "copy_in": 0.25,
        "compute": 1.5,
        "copy_out": 0.25,
    }
    # Kept: the second time nothing is built.
    assert runner(bundle, capfd, "verify")[1]["runtime"]["engine"] == "cached"
    assert sum(any("--onnx=" in flag for flag in call) for call in fake_trtexec.calls(place)) == 1


def test_a_build_that_fails_is_tried_with_less(
    bundle: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    use(monkeypatch, place, "100300", failing_builds=2)
    _, document, _ = runner(bundle, capfd, "verify")
    assert document["runtime"]["builder_level"] == 0
    builds = [c for c in fake_trtexec.calls(place) if any("--onnx=" in flag for flag in c)]
    asked = [int(f.rpartition(":")[2]) for c in builds for f in c if "memPoolSize" in f]
    assert len(asked) == 3 and asked[0] // 4 >= asked[2] > 0
    use(monkeypatch, place / "always", "100300", failing_builds=9)
    monkeypatch.setenv("EDGEMTL_ENGINES", str(place / "none"))
    code, _, err = runner(bundle, capfd, "verify")
    assert code == 4 and "cannot build the engine: out of memory" in err


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ({"fp16", "int8", "workspace"}, ["--fp16", "--int8", "--workspace=64"]),
        ({"fp16", "int8", "stronglyTyped"}, ["--stronglyTyped"]),
        ({"memPoolSize", "noTF32"}, ["--memPoolSize=workspace:64", "--noTF32"]),
        (set(), []),
    ],
)
def test_flags_come_from_the_help(flags: set[str], wanted: list[str]) -> None:
    tool = trtexec.Tool("trtexec", frozenset(flags), "unknown")
    profile = Profile({}, 64 << 20, fp16=True, int8=True)
    assert trtexec.build_flags(tool, profile, True, 64 << 20, 3, Path("t.cache")) == wanted


def test_with_neither_it_says_so(
    bundle: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv(trtexec.VARIABLE, str(place / "absent"))
    code, _, err = runner(bundle, capfd, "verify")
    assert code == 8 and "'tensorrt' is not usable here" in err and "no trtexec" in err


def test_a_program_that_is_no_trtexec_is_not_used(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.mkdir()
    (place / "trtexec").write_text("#!/bin/sh\necho usage: --nothing\n", "utf-8")
    (place / "trtexec").chmod(0o755)
    monkeypatch.setenv(trtexec.VARIABLE, str(place / "trtexec"))
    assert trtexec.find() is None


def test_outputs_that_are_no_numbers_fail_the_selftest(tmp_path: Path) -> None:
    (tmp_path / "o.json").write_text('[{"values": [1.0, -nan, inf,2]}]', "utf-8")
    values = trtexec._json(tmp_path / "o.json")[0]["values"]
    assert values[0] == 1.0 and values[1] != values[1] and values[2] != values[2]
    with pytest.raises(ValueError, match="absent"):
        trtexec._json(tmp_path / "absent.json")


def test_a_trtexec_without_what_running_needs_is_refused() -> None:
    with pytest.raises(RunnerError, match="exportOutput"):
        tool = trtexec.Tool("trtexec", frozenset({"loadEngine", "loadInputs"}), "8.5.2")
        trtexec.TrtexecSession(tool, b"", "images", ["y"])
