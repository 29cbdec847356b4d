"""The runner as a device sees it: another process, no product, no PyTorch."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.tiny_bundle import members_of, write_members

from edgemtl.devices import runner

ROOT = Path(runner.__file__).parent
ALLOWED = {"numpy", "onnxruntime", "openvino"}
#: standard library modules that Python 3.8 does not have
NEWER = {"graphlib", "zoneinfo", "tomllib", "_colorize", "annotationlib"}

#: makes an import of the product or of PyTorch an error, and tells what was loaded
ISOLATED = """
import importlib.abc, json, runpy, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("edgemtl", "torch", "onnx", "pydantic"):
            raise ImportError("a device has no " + name)

sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as leaving:
    sys.stderr.write(json.dumps([leaving.code, sorted(sys.modules)]))
"""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("entry", ["runner.pyz", "."])
def test_unpacked_without_product_or_torch(bundle_path: Path, tmp_path: Path, entry: str) -> None:
    folder = tmp_path / "auf dem Gerät"
    with zipfile.ZipFile(bundle_path) as archive:
        archive.extractall(folder)
    done = python("-I", "-c", ISOLATED, entry, "verify", cwd=folder)
    code, modules = json.loads(done.stderr)
    assert code == 0
    assert json.loads(done.stdout)["selftest"]["passed"] is True
    roots = {name.split(".")[0] for name in modules}
    assert {"runner", "numpy", "onnxruntime"} <= roots
    assert not roots & {"edgemtl", "torch", "onnx", "pydantic"}


def test_the_bundle_itself_is_a_program(bundle_path: Path, tmp_path: Path) -> None:
    done = python("-I", bundle_path.name, "verify", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["selftest"]["passed"] is True
    # It cleans up behind itself: nothing appears beside the bundle.
    assert {path.name for path in tmp_path.iterdir()} == {"inputs", bundle_path.name}


def test_a_spoilt_bundle_as_a_program(bundle_path: Path, tmp_path: Path) -> None:
    write_members(bundle_path, {**members_of(bundle_path), "model.onnx": b"x"})
    done = python("-I", bundle_path.name, "verify", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (10, "")
    assert "'model.onnx'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_numpy_and_runtime(bundle_path: Path, tmp_path: Path) -> None:
    # -S leaves out site-packages: a bare Python, as on a fresh device.
    info = python("-I", "-S", bundle_path.name, "info", cwd=tmp_path)
    assert info.returncode == 0
    assert json.loads(info.stdout)["backend"] == "onnxruntime"
    done = python("-I", "-S", bundle_path.name, "verify", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (8, "")
    assert done.stderr.startswith("error: NumPy is not installed here")


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_sources_are_python_3_8_and_import_only_what_a_device_has(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"), feature_version=(3, 8))
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    if statements:
        # Python 3.8 cannot evaluate annotations such as list[int] or int | None.
        futures = [node for node in statements if getattr(node, "module", "") == "__future__"]
        assert [alias.name for node in futures for alias in node.names] == ["annotations"]
    known = (sys.stdlib_module_names - NEWER) | ALLOWED
    for node in statements:
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= known
        elif node.level == 0:
            assert node.module is not None
            assert node.module.split(".")[0] in known
