"""Each example package of tests/support/packages does its work, and touches no file of ours.

docs/plugins.md shows them. The task's label is a number per picture, not a map: who takes every
label for a map fails here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import pytest
from support.command import edgemtl
from support.dense_work import NO_BENCH, QUICK_BENCH
from support.driving import write_driver, write_driving_folder
from support.farm import Cluster
from support.htmltree import parse
from support.plugins import NAMES, PACKAGES, installed

from edgemtl import plugins
from edgemtl.bundle.read import open_bundle
from edgemtl.models.checkpoint import load
from edgemtl.pipeline.farm.members import needed, same_code

ROOT = Path(__file__).parents[2]
#: pruning and int8 with as few pictures and steps as they take
SMALL = (
    "prune.method='first-units'",
    "prune.flops=0.7",
    "prune.rounds=1",
    "prune.channel_multiple=2",
    "prune.oracle_images=8",
    "prune.calibration_images=8",
    "recover.steps=4",
    "recover.batch=4",
    "quantize.precision='int8'",
    "quantize.images=8",
    "quantize.budgets.wheel=0.9",
    "quantize.budgets.road=0.9",
    "quantize.recovery_steps=2",
    "quantize.recovery_images=4",
    "gates.tasks.wheel.max_relative_drop=9",
    "gates.tasks.road.max_relative_drop=9",
)


@dataclass(frozen=True)
class Work:
    """A network of the family ``tiny-driver``, and pictures in the layout ``driving``."""

    model: Path
    data: Path

    def flags(self) -> list[object]:
        return [self.model, f"--data={self.data}"]


class Counted:
    """A plug-in of pytest that counts."""

    passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with installed(tmp_path_factory.mktemp("site")) as folder:
        yield folder


@pytest.fixture(scope="module")
def work(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("driving")
    for split, count in (("train", 24), ("val", 6)):
        write_driving_folder(folder / "data", split, count, seed=len(split))
    return Work(write_driver(folder / "driver.pt"), folder / "data")


@pytest.fixture(scope="module")
def run(work: Work, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a compile that prunes and computes in int8."""
    output = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--target=cpu", "--prune", *NO_BENCH, *(f"--set={one}" for one in SMALL)]
    told = edgemtl("compile", *work.flags(), *flags, "-o", output)
    assert told.code == 0, told.err
    return output


# --- the packages ---------------------------------------------------------------------------------


def test_the_product_knows_of_none_of_them() -> None:
    words = {word for name in NAMES for word in (name, name.replace("-", "_"))}
    words |= {"Steering", "'steering'", '"steering"', "DrivingFolder", "TinyDriver"}
    sources = [*(ROOT / "edgemtl").rglob("*"), *(ROOT / "targets").glob("*")]
    sources += [ROOT / "pyproject.toml", ROOT / "setup.py"]
    read = [path for path in sources if path.suffix in (".py", ".toml", ".html")]
    assert len(read) > 300
    touched = {
        str(path.relative_to(ROOT))
        for path in read
        for text in [path.read_text("utf-8")]
        if any(word in text for word in words)
    }
    assert touched == set()


def test_each_package_adds_one_thing_and_is_named(site: Path) -> None:
    assert len(NAMES) == len(plugins.GROUPS) == 6
    assert plugins.packages() == dict.fromkeys(NAMES, "1.0")
    of_the_network = {"steering-task": "1.0", "tiny-driver": "1.0"}
    assert plugins.packages(["tiny_driver", "steering_task", "torch"]) == of_the_network
    checks = {one["name"]: one for one in edgemtl("doctor", "--json").json()["checks"]}
    for name in NAMES:
        assert checks[f"package {name}"]["ok"], checks[f"package {name}"]
    assert checks["package first-units"]["detail"] == "1.0, adds pruning_methods: first-units"


def test_their_own_tests_pass(site: Path, tmp_path: Path) -> None:
    tests = sorted(PACKAGES.glob("*/test_*.py"))
    assert [path.parent.name for path in tests] == list(NAMES)
    for path in tests:
        shutil.copy(path, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    flags = ["-q", "-c", str(tmp_path / "pytest.ini"), "-p", "no:cacheprovider", "-p", "no:xdist"]
    counted = Counted()
    assert pytest.main([*flags, str(tmp_path)], [counted]) == pytest.ExitCode.OK
    assert counted.passed == 9


@pytest.mark.matrix
def test_pip_installs_what_these_tests_install(site: Path, tmp_path: Path) -> None:
    copies = [shutil.copytree(PACKAGES / name, tmp_path / name) for name in NAMES]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]
    command += ["--target", str(tmp_path / "pip"), *map(str, copies)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def found(folder: Path) -> set[tuple[str, str, str, str, str]]:
        return {
            (str(dist.name), dist.version, point.group, point.name, point.value)
            for dist in distributions(path=[str(folder)])
            for point in dist.entry_points
        }

    assert found(tmp_path / "pip") == found(site) and len(found(site)) == 6
    modules = {path.name for path in site.glob("*.py")}
    assert {path.name for path in (tmp_path / "pip").glob("*.py")} == modules


# --- a task with a scalar label, a layout, a method and a network ---------------------------------


def test_the_task_is_evaluated(work: Work) -> None:
    found = edgemtl("eval", *work.flags(), "--json").json()
    assert found["counts"]["wheel"] == 6
    assert 0 < found["tasks"]["wheel"]["mae_deg"] < 90
    assert edgemtl("eval", *work.flags(), "--format=driving", "--json").json() == found
    assert "wheel" in edgemtl("inspect", work.model).out


def test_the_method_prunes(work: Work, tmp_path: Path) -> None:
    flags = ["--method=first-units", "--flops=0.7", "--steps=0", "--set=prune.oracle_images=8"]
    flags += ["--set=prune.channel_multiple=2", "--set=prune.calibration_images=8"]
    told = edgemtl("prune", *work.flags(), *flags, "-o", tmp_path / "pruned.pt")
    assert told.code == 0, told.err
    before, after = (load(path).network() for path in (work.model, tmp_path / "pruned.pt"))
    assert (before.stem.conv.out_channels, after.stem.conv.out_channels) == (8, 4)


def test_the_task_is_quantised(work: Work, tmp_path: Path) -> None:
    flags = ["--precision=int8", "--images=8", "--budget=wheel=0.9", "--budget=road=0.9"]
    told = edgemtl("quantize", *work.flags(), *flags, "--json", "-o", tmp_path / "int8.onnx")
    assert told.code == 0, told.err
    assert "wheel" in told.out and (tmp_path / "int8.onnx").is_file()


def test_compile_measures_judges_and_bundles_the_task(run: Path) -> None:
    accuracy = json.loads((run / "accuracy.json").read_text("utf-8"))
    for side in ("reference", "artefact"):
        assert accuracy[side]["counts"]["wheel"] == 6
    gates = json.loads((run / "gates.json").read_text("utf-8"))
    assert "tasks.wheel.max_relative_drop" in {outcome["name"] for outcome in gates["outcomes"]}
    assert load(run / "model" / "pruned.pt").network().stem.conv.out_channels == 4
    quantised = json.loads((run / "quantize.json").read_text("utf-8"))
    assert quantised["precision"] == "int8" and quantised["layers"]
    (bundle,) = (run / "bundle").glob("*.edgemtl")
    assert [task.kind for task in open_bundle(bundle).tasks()] == ["segmentation", "steering"]
    assert edgemtl("verify", bundle).code == 0


def test_the_report_shows_the_task_its_unit_and_its_figures_before_and_after(run: Path) -> None:
    accuracy = json.loads((run / "accuracy.json").read_text("utf-8"))
    page = parse((run / "report.html").read_text("utf-8"))
    (row,) = [
        row
        for table in page.all("table")
        if [caption.attributes.get("id") for caption in table.all("caption")]
        == ["accuracy-caption"]
        for row in table.all("tr")
        if row.text.startswith("wheel")
    ]
    task, metric, before, after, *_ = (cell.text for cell in row.all("th", "td"))
    assert task == "wheel6 items" and metric == "steering error lower is better"
    for text, side in ((before, "reference"), (after, "artefact")):
        number, unit = re.fullmatch(r"([\d.]+)\W+(\w+)", text).groups()
        assert unit == "deg"
        assert float(number) == pytest.approx(accuracy[side]["tasks"]["wheel"]["mae_deg"], rel=0.01)


# --- a backend, a target, and all of it on a farm -------------------------------------------------


def test_a_bundle_of_the_backend_verifies_itself(work: Work, tmp_path: Path) -> None:
    target = tmp_path / "board.toml"
    target.write_text('description = "a board"\nbackend = "onnx-reference"\n', "utf-8")
    flags = [f"--target={target}", "--no-prune", *NO_BENCH, "-o", tmp_path / "run"]
    told = edgemtl("compile", *work.flags(), *flags)
    assert told.code == 0, told.err
    assert "cannot run itself" not in told.err
    bundle = tmp_path / "run" / "bundle" / "driver-board.edgemtl"
    # -I: neither our package nor theirs, as on a device
    command = [sys.executable, "-I", str(bundle), "verify"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["runtime"]["name"] == "onnx-reference" and found["selftest"]["passed"]


def test_the_target_is_listed_beside_ours(site: Path) -> None:
    found = {one["name"]: one for one in edgemtl("targets", "--json").json()}
    assert found["two-threads"]["ok"] and "cpu" in found


def test_a_farm_compiles_for_the_target_and_evaluates_the_task(work: Work, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra 'farm' is not installed")
    farm = Cluster(
        tmp_path / "farm", plain=True, environment={"PYTHONPATH": os.environ["PYTHONPATH"]}
    )
    farm.folder.mkdir()
    farm.start()
    try:
        farm.join("one")
        whole = edgemtl("eval", *work.flags(), "--json")
        shared = edgemtl("eval", *work.flags(), "--json", *farm.flags())
        assert shared.code == 0, shared.err
        assert shared.out == whole.out
        flags = ["--target=two-threads", "--no-prune", *QUICK_BENCH, "-o", tmp_path / "run"]
        told = edgemtl("compile", *work.flags(), *flags, *farm.flags())
        assert told.code in (0, 9), told.err  # a shared machine may be unsteady
        with farm.farm() as members:
            (worker,) = members.workers()
    finally:
        farm.stop()
    measured = json.loads((tmp_path / "run" / "bench" / "artefact.json").read_text("utf-8"))
    assert measured["threads"] == 2
    (bundle,) = (tmp_path / "run" / "bundle").glob("*.edgemtl")
    assert open_bundle(bundle).session_options().threads == 2
    assert "wheel" in (tmp_path / "run" / "report.html").read_text("utf-8")
    # Their packages are asked of a worker, in these versions.
    needs = needed("onnx-reference", ["tiny_driver", "driving_data"])
    named = {"package:tiny-driver-1.0", "package:driving-data-1.0", "package:onnx-reference-1.0"}
    assert set(needs) == {same_code(), "backend:onnx-reference", *named}
    assert worker.offers(needs) and not worker.offers({"package:tiny-driver-1.1": 1.0})
