"""A stage's key changes with the code that the stage uses, and not with what is said about it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from edgemtl.pipeline import code_key as keys
from edgemtl.pipeline.code_key import ROOT, code_key, key_from, reached

FILES = {
    "__init__.py": (
        "from typing import TYPE_CHECKING\n\n"
        '__version__ = "1"\n\nif TYPE_CHECKING:\n    from edgemtl.api import *\nelse:\n\n'
        "    def __getattr__(name):\n        from importlib import import_module\n\n"
        '        return getattr(import_module(".api", __name__), name)\n'
    ),
    "stage.py": '"""A stage."""\n\nfrom edgemtl.work import operation\n\nrun = operation.run\n',
    "work/__init__.py": "",
    "work/operation.py": (
        '"""An operation."""\n\nfrom __future__ import annotations\n\n'
        "from typing import TYPE_CHECKING\n\n"
        "if TYPE_CHECKING:\n    from edgemtl.types_only import Typed\n\n\n"
        'def run(value: Typed) -> int:\n    """Do it."""\n    # two is enough\n'
        "    from edgemtl.work.lazily import step\n\n"
        '    child = "edgemtl.work.child"\n    return step(2, child)\n'
    ),
    "work/lazily.py": "import numpy\n\nfrom . import nearby\n\nstep = nearby.step\n",
    "work/nearby.py": "import edgemtl.registry\n\n\ndef step(a, b):\n    return a\n",
    "work/child.py": "print(1)\n",
    "work/tables/scales.json": "[1, 2]",
    "api/__init__.py": '"""The door."""\n\nNAMES = {".parts": ("stage",)}\n',
    "registry.py": '_BUILT_IN = {"one": "edgemtl.one"}\n',
    "one.py": "ONE = 1\n",
    "types_only.py": "Typed = int\n",
    "elsewhere.py": "TWO = 2\n",
}
STAGE = frozenset({"edgemtl.stage"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small package of the same name."""
    folder = tmp_path / "edgemtl"  # as in a checkout whose folder has the package's name
    for name, content in FILES.items():
        path = folder / "edgemtl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    return folder / "edgemtl"


def edit(root: Path, name: str, old: str, new: str) -> None:
    content = (root / name).read_text("utf-8")
    assert old in content
    (root / name).write_text(content.replace(old, new), "utf-8")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("stage.py", "A stage.", "A stage, explained at length."),
        ("work/operation.py", "Do it.", "Do it well."),
        ("work/operation.py", "# two is enough", "# two is enough, as measured"),
        ("work/operation.py", '    """Do it."""\n', ""),
        ("work/nearby.py", "import edgemtl.registry\n\n\n", "import edgemtl.registry\n\n"),
        ("types_only.py", "int", "float"),
        ("work/operation.py", "types_only import Typed", "types_only import Typed, Other"),
        ("one.py", "1", "2"),
        ("elsewhere.py", "2", "3"),
        ("api/__init__.py", "The door.", "The door, explained."),
        ("api/__init__.py", "stage", "other"),
        ("__init__.py", "edgemtl.api import *", "edgemtl.api import stage"),
    ],
)
def test_what_cannot_matter_keeps_the_key(root: Path, name: str, old: str, new: str) -> None:
    before = key_from(root, STAGE)
    edit(root, name, old, new)
    assert key_from(root, STAGE) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("__init__.py", '"1"', '"2"'),
        ("stage.py", "run = operation.run", "run = print"),
        ("work/operation.py", "step(2, child)", "step(3, child)"),
        ("work/lazily.py", "nearby.step", "print"),
        ("work/nearby.py", "return a", "return b"),
        ("work/child.py", "1", "2"),
        ("work/tables/scales.json", "2", "3"),
        ("registry.py", "one", "two"),
    ],
)
def test_what_can_matter_changes_the_key(root: Path, name: str, old: str, new: str) -> None:
    before = key_from(root, STAGE)
    edit(root, name, old, new)
    assert key_from(root, STAGE) != before


def test_what_a_registry_offers_counts_where_it_is_used(root: Path) -> None:
    asked = STAGE | {"edgemtl.one"}
    before = key_from(root, asked)
    edit(root, "one.py", "1", "2")
    assert key_from(root, asked) != before


def test_the_version_of_an_imported_tool_counts_and_of_others_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(tool: str) -> str:
        monkeypatch.setattr(keys, "_version", lambda name: "2" if name == tool else "1")
        return key_from(root, STAGE)

    assert key("nothing") == key("openvino") != key("numpy")


def test_another_package_counts_by_its_version_and_by_its_source(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "their_module.py"
    monkeypatch.syspath_prepend(str(tmp_path))

    def key(source: str) -> str:
        path.write_text(source, "utf-8")
        sys.modules.pop("their_module", None)
        return key_from(root, frozenset({"their_module"}))

    assert key("X = 1\n") == key('"""Said."""\nX = 1\n') != key("X = 2  # other\n")
    record = tmp_path / "theirs-1.dist-info"
    record.mkdir()
    (record / "top_level.txt").write_text("their_module\n", "utf-8")
    (record / "METADATA").write_text("Name: theirs\nVersion: 1\n", "utf-8")
    one = key("X = 1\n")
    assert key("X = 2  # other\n") != one  # installed from a checkout that is worked on
    (record / "METADATA").write_text("Name: theirs\nVersion: 2\n", "utf-8")
    assert key("X = 1\n") != one


# --- the real stages -----------------------------------------------------------------------------

STAGES = {
    "prune_stage": ("edgemtl.compress.paper", "edgemtl.compress.recover", "edgemtl.data.faces"),
    "quantize_stage": ("edgemtl.compress.quantize.qdq", "edgemtl.measure.worker"),
    "build_stages": ("edgemtl.exporting.onnx_export", "edgemtl.models.checkpoint"),
    "mask_stage": ("edgemtl.compress.dynamic.build", "edgemtl.exporting.routed"),
    "parity_stage": ("edgemtl.exporting.parity", "edgemtl.backends.routed"),
    "check_stages": ("edgemtl.measure.worker", "edgemtl.tasks.depth"),
    "package_stages": ("edgemtl.bundle.write", "edgemtl.report.drawing"),
}
#: stage's module -> the operations that it calls
OPERATIONS = {
    "prune_stage": ("prune",),
    "quantize_stage": ("quantize", "bench"),
    "build_stages": ("export", "artefact"),
    "mask_stage": ("mask", "export"),
    "parity_stage": ("parity",),
    "check_stages": ("evaluate", "cost", "bench", "gate"),
    "package_stages": ("bundle", "predictions"),
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_is_keyed_by_what_it_uses(name: str) -> None:
    used = reached(ROOT, frozenset({f"edgemtl.pipeline.{name}"}))
    assert used.keys() >= {*STAGES[name], "edgemtl.pipeline.stage", "edgemtl.errors", "edgemtl"}
    assert used.keys() >= {f"edgemtl.pipeline.{one}" for one in OPERATIONS[name]}
    unused = (
        "edgemtl.api",
        "edgemtl.cli",
        "edgemtl.report.page",
        "edgemtl.backends.fpga",
        "edgemtl.backends.tvm",
    )
    if name == "prune_stage":
        # Not compress.quantize: where a recipe ships int8, pruning prices widths of int8 graphs.
        unused += ("edgemtl.bundle", "edgemtl.report")
    found = [module for module in used if module.startswith(unused)]
    assert found == []


def test_pruning_outlives_a_docstring_of_every_module(tmp_path: Path) -> None:
    """The whole package with another docstring in each file, and then with one other number."""
    copy = Path(shutil.copytree(ROOT, tmp_path / "edgemtl"))
    asked = frozenset({"edgemtl.pipeline.prune_stage", "edgemtl.models.mos.network"})
    before = key_from(copy, asked)
    assert before == key_from(ROOT, asked) == code_key(*asked)
    for path in copy.rglob("*.py"):
        content = path.read_text("utf-8")
        if content.startswith('"""'):
            path.write_text(f'"""Said anew. {content[3:]}\n# and a last word\n', "utf-8")
    assert key_from(copy, asked) == before
    with (copy / "compress" / "importance.py").open("a", encoding="utf-8") as stream:
        stream.write("LIMIT = 3\n")
    assert key_from(copy, asked) != before
