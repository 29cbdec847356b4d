"""What ``import edgemtl`` gives: every name, whatever was imported before, and nothing heavy."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import edgemtl
from edgemtl import api
from edgemtl.errors import EdgemtlError, ExitCode

ROOT = Path(edgemtl.__file__).parents[1]
#: what nobody waits for who only imports the package
HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "typer", "rich", "pydantic", "matplotlib")
#: function -> what it is called with, beside a file that is not there
FUNCTIONS: dict[str, tuple[object, ...]] = {
    "bench": (),
    "compile": (),
    "evaluate": (),
    "export": ("out.onnx",),
    "gate": (),
    "inspect": (),
    "load_bundle": (),
    "load_model": (),
    "load_run": (),
    "load_target": (),
    "mask": (),
    "parity": ("other.onnx",),
    "prune": ("out.pt",),
    "quantize": ("out.onnx",),
    "verify": (),
}


def submodules() -> list[str]:
    """Names of all modules of the package."""
    return [one.name for one in pkgutil.walk_packages(edgemtl.__path__, "edgemtl.")]


def test_the_lists_of_names_agree() -> None:
    told = [name for names in api._PARTS.values() for name in names]
    tree = ast.parse(Path(api.__file__).read_text("utf-8"))
    seen = [one.asname for one in ast.walk(tree) if isinstance(one, ast.alias) and one.asname]
    assert sorted(told) == sorted(seen) == sorted(api.__all__) == api.__all__
    assert set(api.__all__) <= set(dir(edgemtl))


def test_every_name_outlives_the_import_of_every_submodule() -> None:
    before = {name: getattr(edgemtl, name) for name in api.__all__}
    missing = set()
    for name in submodules():
        try:
            importlib.import_module(name)
        except ImportError as error:  # a runtime that is not installed here
            missing.add(str(error.name).partition(".")[0])
    assert "edgemtl" not in missing and "torch" not in missing
    for name, found in before.items():
        assert getattr(edgemtl, name) is getattr(api, name) is found
        assert callable(found) and not isinstance(found, ModuleType)


def test_no_submodule_is_called_as_a_public_name_is() -> None:
    taken = {name.rpartition(".")[2] for name in submodules() if name.count(".") == 1}
    taken |= {one.name for one in pkgutil.iter_modules(api.__path__)}
    assert {"report", "exporting", "models"} <= taken
    assert taken & set(api.__all__) == set()


def test_star_gives_all_names_and_nothing_else() -> None:
    space: dict[str, object] = {}
    exec("from edgemtl import *", space)
    assert set(space) - {"__builtins__"} == set(api.__all__)


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        edgemtl.exprot  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError):
        exec("from edgemtl import exprot")


def test_every_function_is_tried_below() -> None:
    functions = {name for name in api.__all__ if not isinstance(getattr(edgemtl, name), type)}
    assert functions == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_file_that_is_not_there_is_refused_as_the_verb_refuses_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EdgemtlError) as refused:
        getattr(edgemtl, name)("absent.pt", *FUNCTIONS[name])
    assert refused.value.exit_code in (ExitCode.INPUT_REFUSED, ExitCode.USAGE)
    assert "absent" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import sys, edgemtl; first = set(sys.modules); "
        f"print([n for n in {HEAVY} if n in first]); "
        "edgemtl.ExitCode, edgemtl.Recipe, edgemtl.load_target; "
        "print([n for n in ('torch', 'onnx', 'typer', 'rich') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "[]\n[]\n"), done.stderr


def test_the_package_runs_as_the_command_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgemtl", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, f"edgemtl {edgemtl.__version__}\n"), done.stderr
