"""A user's script under ``mypy --strict``: what is right passes, what is wrong is found."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgemtl import recipes, targets
from edgemtl.gates import limits

ROOT = Path(__file__).resolve().parents[3]
WRONG = """\
import edgemtl

run = edgemtl.compile("model.pt", targte="cpu")
median: str = run.tasks["pose"].value
edgemtl.exprot("model.pt", "model.onnx")
edgemtl.prune("model.pt", "pruned.pt", recover="most")
"""


def test_a_script_is_checked_as_strictly_as_its_author_wants(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG, "utf-8")
    # With the project's own options, so that what `make lint` kept is used again.
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml"]
    command += ["--no-pretty", "--hide-error-context", "examples/python_api.py", str(wrong)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [
        line.partition(": error: ") for line in done.stdout.splitlines() if ": error: " in line
    ]
    # Not the whole path: mypy repeats what it kept of the same text at another place.
    assert [Path(place).name for place, _, _ in errors] == [f"wrong.py:{n}" for n in (3, 4, 5, 6)]
    for (_, _, said), word in zip(errors, ("targte", "float", "exprot", "recover"), strict=True):
        assert word in said


@pytest.mark.parametrize("module", [recipes, limits, targets])
def test_defaults_are_seen_without_the_plugin_of_pydantic(module: ModuleType) -> None:
    # The user's mypy has no plugin: it takes Field(None, ...) for a field that must be given.
    found = 0
    for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text("utf-8"))):
        match node:
            case ast.AnnAssign(value=ast.Call(func=ast.Name(id="Field"), args=positional)):
                assert positional == [], ast.unparse(node)
            case ast.AnnAssign(value=ast.Call(func=ast.Name(id="entry"))):
                found += 1
    assert found > 0


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "edgemtl" / "py.typed").is_file()
