"""Nobody asks an object for its name to learn what it can do: it is asked for the thing itself.

Names of backends, families and kinds of tasks, and imports of the modules behind them, stay in
their rooms (:data:`ROOMS`). What is left outside stands in :data:`ALLOWED`, each with its reason;
an entry that is no longer needed fails too.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from edgemtl.backends import registry as backends
from edgemtl.models import registry as families
from edgemtl.tasks import registry as tasks

SOURCES = Path(backends.__file__).parents[1]
#: kind of name -> the room that may know them
ROOMS = {
    "backend": ("backends/", "devices/runner/runtimes/"),
    "family": ("models/",),
    "task": ("tasks/",),
}
LABELS = "a data set's labels bear these words: they are kinds of labels, not of tasks"
PACKAGES = "names of Python packages, whose versions are recorded"
FAMILY = "a family builds its own tasks"
PUBLISHED = "reads weights that others published: whose they are is the question"
#: (file, kind of name) -> why it may know such names
ALLOWED = {
    (
        "backends/fpga/backend.py",
        "family",
    ): "the accelerator of the M3ViT paper: its schedule is of "
    "the family's experts, which no graph shows",
    ("backends/fpga/m3vit.py", "family"): "the same",
    ("backends/tensorrt/suppression.py", "task"): "writes what follows boxes and scores of "
    "detections into a graph, whose metadata say which outputs these are",
    ("bundle/sbom.py", "backend"): PACKAGES,
    ("cli/models.py", "task"): "the figures of the protocol for WIDER FACE",
    ("data/coco.py", "task"): LABELS,
    ("data/dense.py", "task"): LABELS,
    ("data/published_dense.py", "task"): LABELS,
    (
        "devices/runner/detection.py",
        "task",
    ): "decodes boxes on a device that has no more than this; the manifest tells it the kind",
    ("measure/multiscale.py", "task"): "the published protocol for WIDER FACE, which is of faces",
    ("pipeline/cache.py", "backend"): PACKAGES,
    ("pipeline/code_key.py", "backend"): PACKAGES,
    ("pipeline/evaluation.py", "task"): "'eval --multiscale' asks for that protocol",
    ("pipeline/importing.py", "family"): PUBLISHED,
    ("pipeline/importing.py", "task"): PUBLISHED,
    ("models/m3vit/importers.py", "task"): PUBLISHED,
    ("models/m3vit/network.py", "task"): FAMILY,
    ("models/mos/importers.py", "task"): PUBLISHED,
    ("models/mos/network.py", "task"): FAMILY,
}
#: words of many meanings: only who compares with them is asking
AMBIGUOUS = {"edges", "normals", "pose", "parts", "depth", "raw", "regression", "objects"}


def known() -> dict[str, set[str]]:
    """Names by their kind, as the registries have them."""
    return {
        "backend": set(backends._BUILT_IN),
        "family": set(families._BUILT_IN),
        "task": {name for name, kind in tasks.kinds().items() if "edgemtl." in kind.__module__},
    }


def modules() -> dict[str, str]:
    """Module of a backend, family or kind of task -> its kind of name."""
    found = {module: "backend" for module, _ in backends._BUILT_IN.values()}
    found |= {module.rpartition(".")[0]: "family" for module in families._BUILT_IN.values()}
    found |= {kind.__module__: "task" for kind in tasks.kinds().values()}
    packages = {
        name.rpartition(".")[0]: kind for name, kind in found.items() if name.endswith(".backend")
    }
    return {name: kind for name, kind in (found | packages).items() if name.startswith("edgemtl.")}


def asked(source: str) -> set[str]:
    """Kinds of names that a source file knows."""
    found = set()
    names, places = known(), modules()
    tree = ast.parse(source)
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    compared = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for part in ast.walk(node)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in documented:
                for kind, own in names.items():
                    if text in own and (text not in AMBIGUOUS or id(node) in compared):
                        found.add(kind)
                # a sentence for people that sends them to such a module, too
                found |= {kind for place, kind in places.items() if f"{place}." in f"{text}."}
            case ast.ImportFrom(module=str(module)):
                every = {module, *(f"{module}.{alias.name}" for alias in node.names)}
                found |= {
                    kind
                    for place, kind in places.items()
                    if any(f"{name}.".startswith(f"{place}.") for name in every)
                }
    return found


def found_outside() -> dict[tuple[str, str], None]:
    """(file, kind of name) of every file outside the kind's room that knows such names."""
    outside: dict[tuple[str, str], None] = {}
    for path in sorted(SOURCES.rglob("*.py")):
        name = path.relative_to(SOURCES).as_posix()
        for kind in sorted(asked(path.read_text("utf-8"))):
            if not name.startswith(ROOMS[kind]):
                outside[name, kind] = None
    return outside


def test_names_stay_in_their_rooms() -> None:
    outside = found_outside()
    assert sorted(set(outside) - set(ALLOWED)) == []
    assert sorted(set(ALLOWED) - set(outside)) == [], "no longer needed: take them off the list"
    assert all(ALLOWED.values())


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("if target.backend == 'tvm': pass", "backend"),
        ("names = {'onnxruntime', 'openvino'}", "backend"),
        ("from edgemtl.backends.tvm.tuner import told", "backend"),
        ("from edgemtl.models.m3vit.network import M3ViT", "family"),
        ("from edgemtl.models.m3vit import experts", "family"),
        ("if network.family == 'mos': pass", "family"),
        ("from edgemtl.tasks.detection import Detection", "task"),
        ("if task.kind in ('segmentation', 'depth'): pass", "task"),
        ("if task.kind == 'depth': pass", "task"),
        ("hint = 'build it from edgemtl.models.m3vit.experts.Experts'", "family"),
    ],
)
def test_a_name_is_seen(source: str, kind: str) -> None:
    assert asked(source) == {kind}


@pytest.mark.parametrize(
    "source",
    [
        '"""tvm"""',
        "import onnxruntime",
        "size = {'depth': 3}['depth']",
        "from edgemtl.backends.base import Backend",
        "from edgemtl.models.base import MultiTaskNetwork",
        "from edgemtl.tasks.base import Task",
    ],
)
def test_what_asks_for_no_name_is_not(source: str) -> None:
    assert asked(source) == set()


#: where a picture is one that a person looks at: drawn predictions, the folder that holds them; and
#: the flag ``bench --picture``
PICTURES = ("report/", "record/")


def pictures(source: str) -> list[str]:
    """Identifiers of a source file that call what a network sees a picture: it is an image."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.keyword(arg=str(name)):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names |= {name.rpartition(".")[2], other or ""}
    return sorted(name for name in names if "picture" in name.lower())


def test_what_a_network_sees_is_an_image() -> None:
    found = {
        (path.relative_to(SOURCES).as_posix(), name)
        for path in sorted(SOURCES.rglob("*.py"))
        for name in pictures(path.read_text("utf-8"))
    }
    assert sorted(one for one in found if not one[0].startswith(PICTURES)) == []
    assert {place for place in PICTURES if any(file.startswith(place) for file, _ in found)} == set(
        PICTURES
    ), "no longer needed: take it off the list"


@pytest.mark.parametrize(
    "source",
    [
        "pictures = 3",
        "def run_on_picture(): ...",
        "class DensePicture: ...",
        "view.picture_size",
        "lambda picture: 1",
        "call(picture=1)",
        "from edgemtl.data import read_picture as read",
        "import edgemtl.pictures",
    ],
)
def test_a_picture_is_seen(source: str) -> None:
    assert len(pictures(source)) == 1
    assert pictures(source.replace("icture", "").replace("pictures", "")) == []


def test_prose_may_say_picture() -> None:
    assert (
        pictures('"""A picture."""\n# a picture\nraise ValueError("the picture is broken")') == []
    )
