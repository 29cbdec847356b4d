"""Same inputs, same bytes; and what is in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import NAME, SIZE, PlainSession, make_contents, members_of

from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.bundle import BundleContents, open_bundle, record_selftest, write_bundle
from edgemtl.bundle.archive import runner_bytes
from edgemtl.errors import StageFailed
from edgemtl.tasks import Depth


def test_same_inputs_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.edgemtl", tmp_path / "b" / "first.edgemtl"
    write_bundle(first, make_contents(tmp_path / "one"))
    # Other folders, other file times, another moment (zip times have a resolution of 2 s).
    other = make_contents(tmp_path / "two")
    os.utime(other.onnx, (time.time() - 5000, time.time() - 5000))
    write_bundle(second, other)
    assert first.read_bytes() == second.read_bytes()


_IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from support.tiny_bundle import make_contents
from edgemtl.bundle import write_bundle
write_bundle(Path(sys.argv[2], "x.edgemtl"), make_contents(Path(sys.argv[2], "inputs")))
"""


def test_same_bytes_in_another_process(tmp_path: Path, bundle_path: Path) -> None:
    # Another process orders its sets and dictionaries of strings by another hash.
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    subprocess.run(
        [sys.executable, "-c", _IN_ANOTHER_PROCESS, str(Path(__file__).parents[2]), str(tmp_path)],
        env={**os.environ, "PYTHONHASHSEED": seed},
        check=True,
        timeout=120,
    )
    assert (tmp_path / "x.edgemtl").read_bytes() == bundle_path.read_bytes()


def test_without_a_licence_note_nothing_is_claimed(
    tmp_path: Path, contents: BundleContents
) -> None:
    path = tmp_path / "x.edgemtl"
    write_bundle(path, replace(contents, licence_note=""))
    members = members_of(path)
    assert "LICENSES/model.txt" not in members
    assert "licenses" not in json.loads(members["sbom.cdx.json"])["metadata"]["component"]


def test_a_changed_input_changes_the_bytes(tmp_path: Path, contents: BundleContents) -> None:
    first, second = tmp_path / "a.edgemtl", tmp_path / "b.edgemtl"
    write_bundle(first, contents)
    write_bundle(second, replace(contents, seeds={"calibration": 8}))
    assert first.read_bytes() != second.read_bytes()


def test_members_order_and_metadata(bundle_path: Path) -> None:
    with zipfile.ZipFile(bundle_path) as archive:
        infos = archive.infolist()
    names = [info.filename for info in infos]
    assert names[0] == "manifest.json"
    assert names[1:] == sorted(names[1:])
    assert {
        "__main__.py",
        "model.onnx",
        "runner.pyz",
        "sbom.cdx.json",
        "README.txt",
        "LICENSES/edgemtl.txt",
        "LICENSES/model.txt",
        "selftest/input.npy",
        "selftest/expected-00.npy",
        "selftest/expected-01.npy",
    } == set(names[1:])
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}


def test_an_artefact_equal_to_the_onnx_file_is_stored_once(
    bundle_path: Path, contents: BundleContents, tmp_path: Path
) -> None:
    bundle = open_bundle(bundle_path)
    assert [file.member for file in bundle.manifest.artefact.files] == ["model.onnx"]
    artefact = bundle.artefact(tmp_path / "out")
    assert artefact.files == ("model.onnx",)
    assert (artefact.folder / "model.onnx").read_bytes() == contents.onnx.read_bytes()


def test_an_artefact_of_several_files_keeps_its_order_and_folder(
    tmp_path: Path, contents: BundleContents
) -> None:
    compiled = tmp_path / "ir"
    (compiled / "parts").mkdir(parents=True)
    (compiled / "model.xml").write_bytes(b"<net/>")
    (compiled / "parts" / "model.bin").write_bytes(bytes(range(256)))
    files = ("model.xml", "parts/model.bin")
    path = tmp_path / "ir.edgemtl"
    artefact = Artefact("openvino", "intel-cpu", compiled, files, reproducible=False)
    write_bundle(path, replace(contents, artefact=artefact))
    bundle = open_bundle(path)
    read = bundle.artefact(tmp_path / "out")
    assert read.files == files
    assert read.reproducible is False
    assert bundle.read("artefact/parts/model.bin") == bytes(range(256))
    assert (read.folder / "parts" / "model.bin").read_bytes() == bytes(range(256))


def test_what_went_in_comes_out(bundle_path: Path, contents: BundleContents) -> None:
    bundle = open_bundle(bundle_path)
    assert bundle.manifest.name == NAME
    assert bundle.input_spec() == contents.input_spec
    assert [task.spec() for task in bundle.tasks()] == [task.spec() for task in contents.tasks]
    assert bundle.session_options() == SessionOptions(threads=1)
    assert bundle.manifest.tasks[0].outputs[0].shape == (1, 2, *SIZE)
    assert bundle.manifest.accuracy.reference == contents.accuracy_reference
    assert bundle.manifest.accuracy.bundle is None
    selftest = bundle.selftest()
    np.testing.assert_array_equal(selftest.inputs, contents.selftest.inputs)
    assert list(selftest.expected) == list(contents.selftest.expected)
    for name, values in contents.selftest.expected.items():
        np.testing.assert_array_equal(selftest.expected[name], values)
    assert selftest.max_abs_error == contents.selftest.max_abs_error


def test_manifest_has_no_time_of_day_and_no_path(bundle_path: Path, tmp_path: Path) -> None:
    members = members_of(bundle_path)
    manifest = json.loads(members["manifest.json"])
    assert {"edgemtl", "numpy", "onnx", "torch"} <= set(manifest["created_by"])
    for name, data in members.items():
        assert str(tmp_path).encode() not in data, name
    assert b"timestamp" not in members["manifest.json"] + members["sbom.cdx.json"]


def test_sbom_names_the_model_and_its_runtime(bundle_path: Path, contents: BundleContents) -> None:
    members = members_of(bundle_path)
    sbom = json.loads(members["sbom.cdx.json"])
    manifest = open_bundle(bundle_path).manifest
    model = sbom["metadata"]["component"]
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": manifest.files["model.onnx"].sha256}]
    assert model["licenses"] == [{"license": {"name": contents.licence_note}}]
    components = {component["name"]: component for component in sbom["components"]}
    assert set(components) == {"edgemtl", "numpy", "onnxruntime"}
    for component in components.values():
        assert component["version"]
        assert component["licenses"]


def test_sbom_is_valid_cyclonedx(bundle_path: Path) -> None:
    from cyclonedx.model.bom import Bom

    # Raises for unknown fields and types.
    bom = Bom.from_json(json.loads(members_of(bundle_path)["sbom.cdx.json"]))
    assert bom.validate()


def test_runner_archive_is_the_package_and_nothing_else() -> None:
    import io

    with zipfile.ZipFile(io.BytesIO(runner_bytes())) as archive:
        names = archive.namelist()
    assert names[0] == "__main__.py"
    assert "runner/cli.py" in names
    assert all(name.endswith(".py") for name in names)


def test_nan_is_not_written(tmp_path: Path, contents: BundleContents) -> None:
    path = tmp_path / "nan.edgemtl"
    with pytest.raises(StageFailed, match="manifest cannot be written"):
        write_bundle(path, replace(contents, cost_after={"macs": float("nan")}))
    assert not path.exists()


def test_a_task_without_its_output_is_refused(tmp_path: Path, contents: BundleContents) -> None:
    with pytest.raises(StageFailed, match=r"no output 'other\.depth'"):
        write_bundle(tmp_path / "x.edgemtl", replace(contents, tasks=(Depth("other"),)))


def test_a_network_that_answers_nan_gets_no_selftest(contents: BundleContents) -> None:
    inputs = np.full((1, 1, 3, *SIZE), np.nan, np.float32)
    with pytest.raises(StageFailed, match="not finite"):
        record_selftest(PlainSession(contents.onnx), inputs)


def test_missing_onnx_file(tmp_path: Path, contents: BundleContents) -> None:
    contents.onnx.unlink()
    with pytest.raises(StageFailed, match="cannot read"):
        write_bundle(tmp_path / "x.edgemtl", contents)
    assert not (tmp_path / "x.edgemtl").exists()


def test_unwritable_place(tmp_path: Path, contents: BundleContents) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    with pytest.raises(StageFailed):
        write_bundle(blocker / "x.edgemtl", contents)
