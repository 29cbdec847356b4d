"""What holds for the whole repository: imports, start-up, sizes, paths, pins, packaging."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path, PurePath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from edgemtl import targets

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import check_licences  # noqa: E402 - lies in tools/

#: what costs start-up time, and so is imported by the functions that need it
HEAVY = {
    "cv2",
    "cyclonedx",
    "dask",
    "distributed",
    "matplotlib",
    "nncf",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnxslim",
}
HEAVY |= {"openvino", "scipy", "tensorrt_rtx", "torch_pruning", "tvm"}
SOURCES = sorted((ROOT / "edgemtl").rglob("*.py"))


def tracked(*patterns: str) -> list[Path]:
    """Files that git tracks, or a skip where this is no checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: no list of tracked files")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", *patterns]
    listed = subprocess.run(command, check=True, capture_output=True).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if (ROOT / name).is_file()]


def test_imports_go_one_way() -> None:
    program = "import sys; from importlinter.cli import lint_imports; "
    program += "sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))"
    # in a process of its own: it switches off every logger that there is
    command = [sys.executable, "-c", program, str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_contracts_see_a_circle_inside_a_package(tmp_path: Path) -> None:
    """Ours, held against a package with a circle between two modules, and without it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (circles,) = (
        one
        for one in settings["tool"]["importlinter"]["contracts"]
        if one["type"] == "acyclic_siblings"
    )
    assert circles["ancestors"] == ["edgemtl"]
    inside = tmp_path / "twirl" / "pipeline" / "deep"
    inside.mkdir(parents=True)
    for folder in (inside, *inside.parents[:2]):
        (folder / "__init__.py").touch()
    (inside / "one.py").write_text("from twirl.pipeline.deep import two\n", "utf-8")
    config = tmp_path / "contracts.toml"
    config.write_text(
        '[tool.importlinter]\nroot_package = "twirl"\n[[tool.importlinter.contracts]]\n'
        'name = "circles"\ntype = "acyclic_siblings"\nancestors = ["twirl"]\n',
        "utf-8",
    )
    program = "import sys; from importlinter.cli import lint_imports; "
    program += "sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))"
    command = [sys.executable, "-c", program, str(config)]

    def broken(two: str) -> bool:
        (inside / "two.py").write_text(two, "utf-8")
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert ("1 broken" in done.stdout) == (done.returncode != 0), done.stdout + done.stderr
        return done.returncode != 0

    assert broken("from twirl.pipeline.deep import one\n")
    assert not broken("ONE = 1\n")


def test_the_command_line_starts_without_heavy_packages() -> None:
    program = "import json, sys, edgemtl.cli.main; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "typer" in loaded  # it did import the command line
    assert not loaded & (HEAVY | {"torch"})


INSIDE_TVM = ROOT / "edgemtl" / "backends" / "tvm" / "schedule"


def imported_at_the_top(body: list[ast.stmt]) -> set[str]:
    """Packages that importing a module with this body imports, ``if TYPE_CHECKING`` left out."""
    found: set[str] = set()
    for node in body:
        match node:
            case ast.Import():
                found |= {alias.name.partition(".")[0] for alias in node.names}
            case ast.ImportFrom(module=str(module), level=0):
                found.add(module.partition(".")[0])
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                found |= imported_at_the_top(node.orelse)
            case ast.If() | ast.Try():
                found |= imported_at_the_top(node.body + node.orelse)
    return found


def test_runtimes_and_plots_are_imported_inside_functions() -> None:
    # OpenCV and SciPy read and letterbox pictures everywhere in data/ and tasks/; those rooms are
    # not imported at start-up (the test above).
    lazy = HEAVY - {"cv2", "scipy"}
    early = {
        str(path.relative_to(ROOT)): sorted(lazy & imported_at_the_top(tree.body))
        for path in SOURCES
        if INSIDE_TVM not in path.parents
        for tree in [ast.parse(path.read_text("utf-8"))]
        if lazy & imported_at_the_top(tree.body)
    }
    assert early == {}


def test_passes_over_tvms_programs_are_imported_inside_functions_too() -> None:
    # Their classes derive from TVM's, so that they cannot import it later. Only the process that
    # compiles imports them: tiles and records, which others read, do without TVM.
    free = {"__init__.py", "machine.py", "tuned.py"}
    assert {path.name for path in INSIDE_TVM.glob("*.py")} > free
    early = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if INSIDE_TVM not in path.parents or path.name in free
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom)
        and str(node.module).startswith("edgemtl.backends.tvm.schedule")
        and not str(node.module).endswith(("machine", "tuned"))
    ]
    assert early == []


def test_python_is_started_in_one_place() -> None:
    # The farm's guard runs a job's own command, isolated (-I).
    package = ROOT / "edgemtl"
    allowed = {package / "processes.py", package.joinpath("devices", "farm", "work.py")}
    assert {path for path in SOURCES if "sys.executable" in path.read_text("utf-8")} == allowed


def test_files_can_be_read_in_one_sitting() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert lengths
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > 400} == {}


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    machine = re.compile(rb"/(root|work|farm|tmp/[a-z]+|home/[a-z]+)/")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if b"\0" not in (content := path.read_bytes())
        for number, line in enumerate(content.splitlines(), 1)
        if machine.search(line)
    ]
    assert found == []


def test_every_target_loads_and_stands_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    names = targets.names()
    assert "cpu" in names
    for name in names:
        target = targets.load(name)
        assert target.name == name
        assert target.precisions
        assert f"| `{name}` |" in readme


def test_the_core_installs_nothing_under_gpl_or_agpl() -> None:
    findings = check_licences.check("edgemtl")
    assert {"torch", "numpy"} <= {finding.name for finding in findings}
    bad = [finding for finding in findings if finding.verdict in ("refused", "unknown")]
    assert bad == []


def pins() -> dict[str, Version]:
    """Package -> version of constraints.txt; every line pins exactly one version."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            found[str(canonicalize_name(name))] = Version(version)
    return found


def test_all_that_is_installed_for_the_core_is_pinned_as_installed() -> None:
    pinned = pins()
    installed = {
        str(canonicalize_name(package.metadata["Name"])): Version(package.version)
        for package in check_licences.closure("edgemtl", ["openvino", "farm"])
    }
    # "2.13.0+cpu" is a build of 2.13.0.
    differing = {
        name: (str(version), str(pinned.get(name)))
        for name, version in installed.items()
        if pinned.get(name) != Version(version.public)
    }
    assert differing == {}


def test_pins_satisfy_what_pyproject_asks_for() -> None:
    pinned = pins()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = project["dependencies"] + [
        line for name in ("dev", "openvino", "nncf", "farm") for line in extras[name]
    ]
    for requirement in map(Requirement, asked):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, requirement.name
        assert version in requirement.specifier, requirement.name


def test_every_imported_package_is_declared() -> None:
    # A package that only the tests' tools pull in would be missing where the core alone is.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = project["dependencies"] + [
        line for name, lines in extras.items() if name != "dev" for line in lines
    ]
    declared = {canonicalize_name(Requirement(line).name) for line in asked}
    distributions = packages_distributions()
    imported = {
        name: str(path.relative_to(ROOT))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported_at_the_top([node])
        if name != "edgemtl" and name not in sys.stdlib_module_names
    }
    assert imported.keys() >= {"torch", "numpy", "typer"}
    undeclared = {
        name: path
        for name, path in imported.items()
        if not declared & {canonicalize_name(owner) for owner in distributions.get(name, [name])}
    }
    assert undeclared == {}


#: tests of no module: of the whole repository, and of pages and files that no code reads
MIRROR_NOTHING = ("test_habits.py", "test_names.py", "docs/")


def mirrored(test: PurePath) -> bool:
    """Whether a file below tests/unit is named after what it tests (see CONTRIBUTING.md)."""
    folder = ROOT / ("" if test.parts[0] == "tools" else "edgemtl") / test.parent
    if not folder.is_dir():
        return False
    inside = {path.stem for path in folder.rglob("*.py")}
    inside |= {path.name for path in [folder, *folder.rglob("*")] if path.is_dir()}
    name = test.stem.removeprefix("test_")
    return any(name == one or name.startswith(f"{one}_") for one in inside)


def test_tests_mirror_the_rooms() -> None:
    unit = ROOT / "tests" / "unit"
    tests = [path.relative_to(unit) for path in tracked("tests/unit/**/test_*.py")]
    assert len(tests) > 100
    lost = [
        path.as_posix()
        for path in tests
        if not path.as_posix().startswith(MIRROR_NOTHING) and not mirrored(path)
    ]
    assert lost == [], "name them after the module or folder they test, in its folder"
    assert not mirrored(PurePath("backends/test_quantize_run.py"))
    assert not mirrored(PurePath("rooms/test_rooms.py"))


def test_files_of_tests_have_names_of_their_own() -> None:
    # pytest imports them by their names alone: a second one of the same name stops the whole run.
    seen: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        seen.setdefault(path.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in seen.items() if len(paths) > 1} == {}


@cache
def trees_of_tests() -> dict[str, ast.Module]:
    """Path below tests -> syntax tree, of every file there."""
    folder = ROOT / "tests"
    paths = sorted(folder.rglob("*.py"))
    assert len(paths) > 200
    return {str(path.relative_to(folder)): ast.parse(path.read_text("utf-8")) for path in paths}


def matrix_marks(tree: ast.Module) -> dict[str, bool]:
    """Name of a test -> whether it is left to ``make test-matrix`` with all of its cases."""
    return {
        node.name: any(ast.unparse(mark) == "pytest.mark.matrix" for mark in node.decorator_list)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


#: files of the matrix alone -> the test of ``make test`` that shows what they repeat
SHOWN_ELSEWHERE = {
    "e2e/test_same_bytes.py": (
        "e2e/test_compile.py",
        "test_the_same_bytes_from_fresh_caches_in_other_folders",
    ),
}


def test_what_the_matrix_repeats_is_shown_once_by_make_test() -> None:
    tests = {name: matrix_marks(tree) for name, tree in trees_of_tests().items()}
    alone = {name for name, found in tests.items() if found and all(found.values())}
    assert alone == SHOWN_ELSEWHERE.keys()
    assert not any(tests[file][name] for file, name in SHOWN_ELSEWHERE.values())
    # As a mark of the file it would be hidden from this test.
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if path.name != "test_habits.py"]
    assert not [path.name for path in marked if "pytestmark" in path.read_text("utf-8")]


def test_no_test_imports_openvino_before_we_do() -> None:
    # Imported in any other way it calls home, in that process and for every test after.
    skipping = f'importorskip("{"openvino"}"'
    texts = {path.name: path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")}
    assert sorted(name for name, text in texts.items() if skipping in text) == []


#: functions that sleep long in a process of their own, which the test ends
MAY_SLEEP = {"unit/tools/test_check_runtimes.py"}


def test_tests_wait_for_something_and_not_for_a_time() -> None:
    long = {
        name
        for name, tree in trees_of_tests().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
        if isinstance(node.args[0], ast.Constant) and float(str(node.args[0].value)) > 1
        if not name.startswith("support/")
    }
    assert long == MAY_SLEEP


def test_commit_hooks_fetch_nothing() -> None:
    lines = (ROOT / ".pre-commit-config.yaml").read_text("utf-8").splitlines()
    repositories = [line.strip() for line in lines if line.strip().startswith("- repo:")]
    assert repositories == ["- repo: local"]
