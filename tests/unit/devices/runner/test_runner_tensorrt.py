"""The runner's TensorRT module, against a FAKE ``tensorrt`` (support/fake_tensorrt.py)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.fake_tensorrt import VERSIONS, FakeCuda, make
from support.tiny_bundle import make_contents, write_network

from edgemtl import targets
from edgemtl.backends.tensorrt.backend import TensorRtBackend
from edgemtl.bundle.write import write_bundle
from edgemtl.devices.runner import facts
from edgemtl.devices.runner.cli import main
from edgemtl.devices.runner.errors import RunnerError
from edgemtl.devices.runner.runtimes import cuda_runtime, engines, tensorrt_build, trtexec
from edgemtl.pipeline.judging import judge_stored


@pytest.fixture(autouse=True)
def own_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEMTL_ENGINES", str(tmp_path / "engines"))
    return tmp_path / "engines"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle for a Jetson, compiled by the backend."""
    target = targets.load("jetson")
    onnx = write_network(tmp_path / "net.onnx")
    (tmp_path / "jetson").mkdir()
    artefact = TensorRtBackend().compile(onnx, target, tmp_path / "jetson")
    path = tmp_path / "net-jetson.edgemtl"
    write_bundle(path, make_contents(tmp_path / "contents", artefact=artefact, target=target))
    return path


def install(monkeypatch: pytest.MonkeyPatch, trt: Any, cuda: FakeCuda | None = None) -> Any:
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(cuda_runtime, "load", lambda: cuda or FakeCuda())
    return trt


def verify(bundle: Path, capfd: pytest.CaptureFixture[str], *flags: str) -> tuple[int, Any, str]:
    verb, *rest = flags or ("verify",)
    code = main([verb, "--bundle", str(bundle), *rest], "no-default")
    out, err = capfd.readouterr()
    return code, json.loads(out) if out else None, err


def called(trt: Any, name: str) -> list[Any]:
    return [value for call, value in trt.calls if call == name]


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_builds_and_verifies(
    version: str, bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    trt = install(monkeypatch, make(version))
    code, document, err = verify(bundle, capfd)
    assert (code, err) == (0, "")
    assert document["selftest"]["passed"] is True
    assert document["runtime"]["name"] == "tensorrt"
    assert document["runtime"]["version"] == version
    assert document["runtime"]["engine"] == "built"
    # 8: the batch is a dimension (bit 0). 10: strongly typed is bit 1 there, 11 has it as bit 0.
    assert called(trt, "create_network") == [2 if version.startswith("10.") else 1]
    assert called(trt, "clear_flag") == [trt.BuilderFlag.TF32]
    assert called(trt, "build") == [None if version.startswith("8.5") else 3]
    shape = (1, 3, 6, 8)
    assert called(trt, "profile") == [{"images": (shape, shape, shape)}]


def test_an_engine_is_kept_and_loaded_again(
    bundle: Path, own_engines: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    trt = install(monkeypatch, make("10.3.0.30"))
    assert verify(bundle, capfd)[1]["runtime"]["engine"] == "built"
    assert verify(bundle, capfd)[1]["runtime"]["engine"] == "cached"
    assert len(called(trt, "build")) == 1
    assert sorted(p.suffix for p in own_engines.iterdir()) == [".cache", ".json", ".plan"]


@pytest.mark.parametrize("change", ["version", "gpu"])
def test_an_engine_of_another_device_is_not_used(
    change: str, bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    install(monkeypatch, make("10.3.0.30"))
    verify(bundle, capfd)
    other = make("10.7.0.23" if change == "version" else "10.3.0.30")
    install(monkeypatch, other, FakeCuda("7.2" if change == "gpu" else "8.7"))
    assert verify(bundle, capfd)[1]["runtime"]["engine"] == "built"
    assert called(other, "timing_cache")[0] == b""  # timings of the other are not taken either


def test_a_foreign_engine_under_our_name_is_refused(
    bundle: Path, own_engines: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    trt = install(monkeypatch, make("10.3.0.30"))
    verify(bundle, capfd)
    plan = next(own_engines.glob("*.plan"))
    plan.write_bytes(plan.read_bytes() + b"x")
    assert verify(bundle, capfd)[1]["runtime"]["engine"] == "built"
    record = plan.with_suffix(".json")
    data = json.loads(record.read_text("utf-8"))
    data["stamp"] = data["stamp"].replace("8.7", "8.6")
    record.write_text(json.dumps(data), "utf-8")
    assert verify(bundle, capfd)[1]["runtime"]["engine"] == "built"
    assert len(called(trt, "build")) == 3


def test_timings_are_kept(bundle: Path, own_engines: Path, monkeypatch: Any, capfd: Any) -> None:
    trt = install(monkeypatch, make("10.3.0.30"))
    verify(bundle, capfd)
    next(own_engines.glob("*.plan")).unlink()
    verify(bundle, capfd)
    assert called(trt, "timing_cache") == [b"", b"timings"]


def test_a_build_that_fails_is_tried_with_less(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    asked: list[int] = []
    trt = install(monkeypatch, make("10.3.0.30", failing_builds=2, workspaces=asked))
    _, document, _ = verify(bundle, capfd)
    assert called(trt, "build") == [3, 1, 0]
    assert document["runtime"]["builder_level"] == 0
    assert asked[1] == asked[0] // 2 and asked[2] == asked[1] // 2


def test_a_build_that_always_fails_says_why(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    install(monkeypatch, make("10.3.0.30", failing_builds=9))
    code, document, err = verify(bundle, capfd)
    assert (code, document) == (4, None)
    assert err == "error: TensorRT cannot build the engine: out of memory\n"


def test_a_graph_that_the_parser_refuses(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    install(monkeypatch, make("8.5.2.2", refuses="no importer for Frobnicate"))
    code, _, err = verify(bundle, capfd)
    assert code == 4 and "TensorRT 8.5.2.2 refuses the graph: no importer" in err


def test_too_little_memory_is_told_before_building(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    trt = install(monkeypatch, make("10.3.0.30"))
    monkeypatch.setattr(engines, "memory_available_bytes", lambda: 100 << 20)
    code, _, err = verify(bundle, capfd)
    assert code == 8 and "100 MB of memory are free" in err
    assert called(trt, "build") == []


def test_version_8_is_told_of_narrow_numbers(tmp_path: Path) -> None:
    for version, expected in (("8.6.2.3", 2), ("10.3.0.30", 0), ("11.4.1.2", 0)):
        trt = make(version)
        profile = engines.Profile({}, 1 << 20, fp16=True, int8=True)
        logger = type("Logger", (), {"errors": []})()
        timings = tmp_path / "timings"
        tensorrt_build.attempt(trt, logger, b"onnx", profile, True, 1 << 20, 3, timings)
        assert len(called(trt, "set_flag")) == expected


def test_without_tensorrt_it_says_so(bundle: Path, monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(trtexec, "find", lambda: None)
    code, _, err = verify(bundle, capfd)
    assert code == 8 and "'tensorrt' is not usable here" in err and "JetPack" in err


def test_without_cuda_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(cuda_runtime.ctypes, "CDLL", absent)
    monkeypatch.setattr(cuda_runtime.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(RunnerError, match="libcudart"):
        cuda_runtime.load()


def test_results_are_judged_and_nothing_else_passes_latency(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    install(monkeypatch, make("10.3.0.30"))
    output = tmp_path / "results.json"
    flags = ["--warm-up", "0", "--min-seconds", "0", "--min-runs", "30", "--output", str(output)]
    _, document, _ = verify(bundle, capfd, "bench", *flags)
    assert {name: s["p50_ms"] for name, s in document["stages"].items()} == {
        "copy_in": 0.25,
        "compute": 0.25,
        "copy_out": 0.25,
    }
    document["latency"]["stable"] = True  # how busy this machine is, is not the question
    output.write_text(json.dumps(document), "utf-8")
    gates = ["gates.latency.p99_ms=1e6", "gates.latency.ratio=false"]

    def latency(results: Path | None) -> list[str]:
        report = judge_stored(bundle, None, gates, results)
        return [o.status for o in report.outcomes if o.name == "latency.p99_ms"]

    assert latency(None) == ["not-measured"]
    assert latency(output) == ["pass"]


def test_the_state_of_a_jetson_is_read(tmp_path: Path) -> None:
    files = {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\n",
        "var/lib/nvpmodel/status": "pmode:0002\n",
        "sys/class/devfreq/17000000.gpu/cur_freq": "1020000000\n",
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in1_label": "VDD_IN\n",
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in1_input": "5000\n",
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr1_input": "1200\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    root = f"{tmp_path}/"
    assert facts.jetpack(root) == "R36 (release), REVISION: 4.3"
    assert facts.jetson_state(root) == {
        "power_mode": 2,
        "gpu_mhz": 1020.0,
        "power_w": {"VDD_IN": 6.0},
    }


def test_what_a_machine_does_not_tell_is_none(tmp_path: Path) -> None:
    root = f"{tmp_path}/"
    assert facts.jetpack(root) is None
    assert facts.jetson_state(root) == {"power_mode": None, "gpu_mhz": None, "power_w": None}
