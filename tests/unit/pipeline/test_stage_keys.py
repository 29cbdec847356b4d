"""Everything that can change a stage's result changes its key, and that of all stages after it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from support.dense_family import build
from support.dense_work import FACTORY, DenseWork, write_dense_work
from support.plugins import installed

from edgemtl import recipes, targets
from edgemtl.backends.onnxruntime import OnnxRuntimeBackend
from edgemtl.backends.types import Availability
from edgemtl.compress.context import METHODS
from edgemtl.errors import EdgemtlError
from edgemtl.models.threads import torch_threads
from edgemtl.pipeline import stage
from edgemtl.pipeline.cache import StageCache
from edgemtl.pipeline.code_key import code_key
from edgemtl.pipeline.plan import plan
from edgemtl.pipeline.stage import Context

ALL = {
    "model",
    "export",
    "compile",
    "parity",
    "accuracy-reference",
    "accuracy",
    "cost-reference",
    "cost",
    "bundle",
    "pictures",
    "bench",
    "gates",
}
AFTER_EXPORT = ALL - {"model", "accuracy-reference"}
AFTER_COMPILE = AFTER_EXPORT - {"export"}


@dataclass
class Asked:
    """What a run is asked, to be changed in one place."""

    work: DenseWork
    target: str = "cpu"
    assign: list[str] = field(default_factory=list)
    patch: pytest.MonkeyPatch = field(default_factory=pytest.MonkeyPatch)

    def keys(self, factory: str = FACTORY) -> dict[str, str]:
        """Stage -> key, without running any."""
        recipe = recipes.resolve({}, None, [f"data.root={self.work.data}", *self.assign], {})
        if recipe.prune.enabled is None:  # too few pictures
            recipe = recipes.resolve(recipe.to_dict(), None, ["prune.enabled=false"], {})
        context = Context(
            self.work.model,
            factory,
            recipe,
            targets.load(self.target),
            StageCache(self.work.data.parent / "cache"),
            self.work.data.parent / "private",
        )
        for one in plan(recipe):
            context.keys[one.name] = one.key(context)
        return context.keys


def write_weights(asked: Asked) -> None:
    torch.save(build(seed=1).state_dict(), asked.work.model)


def rename_model(asked: Asked) -> None:
    renamed = asked.work.model.with_name("other.pt")
    asked.work.model.rename(renamed)
    asked.work = DenseWork(renamed, asked.work.data)


def change_image(split: str) -> Callable[[Asked], None]:
    def change(asked: Asked) -> None:
        path = asked.work.data / split / "images" / "0000.jpg"
        image = cv2.imread(str(path))
        assert image is not None
        path.write_bytes(cv2.imencode(".jpg", image[::-1])[1].tobytes())

    return change


def change_label(asked: Asked) -> None:
    path = asked.work.data / "val" / "labels" / "0000.png"
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert label is not None
    label[40:60] = 3
    path.write_bytes(cv2.imencode(".png", label)[1].tobytes())


def change_target(line: str) -> Callable[[Asked], None]:
    def change(asked: Asked) -> None:
        path = asked.work.data.parent / "cpu.toml"
        text = (Path(__file__).parents[3] / "targets" / "cpu.toml").read_text("utf-8")
        name = line.split(" ")[0]
        kept = [row for row in text.splitlines() if not row.startswith(name)]
        # Top-level keys come before the first table.
        path.write_text("\n".join([line, *kept]), "utf-8")
        asked.target = str(path)

    return change


def patch(owner: Any, name: str, value: Any) -> Callable[[Asked], None]:
    return lambda asked: asked.patch.setattr(owner, name, value)


def assign(*assignments: str) -> Callable[[Asked], None]:
    return lambda asked: asked.assign.extend(assignments)


CHANGES: dict[str, tuple[Callable[[Asked], None], set[str]]] = {
    "weights": (write_weights, ALL),
    "our own code or a tool's version": (patch(stage, "code_key", lambda *modules: "other"), ALL),
    "tasks": (assign('model.tasks=["parts"]'), ALL),
    "the model's name": (rename_model, {"bundle"}),
    "opset": (assign("export.opset=16"), AFTER_EXPORT),
    "lowering": (assign("export.deformable=portable"), AFTER_EXPORT),
    "the target's opset": (change_target("opset = 16"), AFTER_EXPORT),
    "the target's options": (change_target("threads = 3"), AFTER_COMPILE),
    "the runtime's version": (
        patch(OnnxRuntimeBackend, "availability_impl", lambda self: Availability(True, "0.0")),
        AFTER_COMPILE,
    ),
    "parity pictures": (assign("export.parity_images=2"), {"parity", "bundle"}),
    "a training picture": (change_image("train"), {"parity", "bundle"}),
    "an evaluation picture": (
        change_image("val"),
        {"accuracy-reference", "accuracy", "bundle", "pictures", "gates"},
    ),
    "an evaluation label": (
        change_label,
        {"accuracy-reference", "accuracy", "bundle", "pictures", "gates"},
    ),
    "the evaluation split": (
        assign("data.evaluation=train"),
        {"accuracy-reference", "accuracy", "bundle", "pictures", "gates"},
    ),
    "how many pictures": (
        assign("data.limit=1"),
        {"parity", "accuracy-reference", "accuracy", "bundle", "pictures", "gates"},
    ),
    "threads": (
        assign("bench.threads=2"),
        {"parity", "accuracy-reference", "accuracy", "bundle", "pictures", "bench", "gates"},
    ),
    "gates": (assign("gates.cost.size_bytes=1e6"), {"bundle", "gates"}),
    "the processor": (
        patch(stage, "processor_name", lambda: "another"),
        {"parity", "accuracy-reference", "accuracy", "bundle", "pictures", "bench", "gates"},
    ),
}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(write_dense_work(tmp_path, images=2), patch=monkeypatch)


def test_the_same_question_has_the_same_keys(asked: Asked) -> None:
    keys = asked.keys()
    assert set(keys) == ALL
    assert len(set(keys.values())) == len(ALL)
    assert asked.keys() == keys


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_a_result_changes_its_key(asked: Asked, what: str) -> None:
    before = asked.keys()
    change, expected = CHANGES[what]
    change(asked)
    after = asked.keys()
    assert {name for name in ALL if before[name] != after[name]} == expected


def test_the_tasks_gates_change_pruning_and_the_cost_gates_do_not(asked: Asked) -> None:
    def key(*assignments: str) -> str:
        asked.assign = ["prune.enabled=true", *assignments]
        return asked.keys()["prune"]

    gate = "gates.tasks.parts.max_relative_drop=0.1"
    # what a task may lose says how losses are shared out, also on the way to a goal of the user's
    assert key() != key(gate)
    assert key("prune.flops=0.5") != key("prune.flops=0.5", gate)
    assert key() == key("gates.cost.size_bytes=1e6")


def test_torchs_threads_are_part_of_the_key_of_what_makes_weights(asked: Asked) -> None:
    asked.assign = ["prune.enabled=true", "quantize.precision=int8", "quantize.enabled=true"]
    keys = []
    for count in (1, 2):
        with torch_threads(count):
            keys.append(asked.keys())
    assert keys[0]["prune"] != keys[1]["prune"]
    assert keys[0]["quantize"] != keys[1]["quantize"]
    assert keys[0]["accuracy-reference"] == keys[1]["accuracy-reference"]


class _Look(stage.Stage):
    """Notes how many threads torch has."""

    def inputs(self, context: Context) -> dict[str, Any]:
        return {}

    def run(self, context: Context, folder: Path) -> stage.StageResult:
        self.seen = torch.get_num_threads()
        raise InterruptedError


@pytest.mark.parametrize(
    ("needs_data", "makes_weights", "seen"), [(False, False, 1), (True, False, 2), (True, True, 3)]
)
def test_stages_compute_with_threads_of_their_own(
    asked: Asked, needs_data: bool, makes_weights: bool, seen: int
) -> None:
    recipe = recipes.resolve({}, None, [f"data.root={asked.work.data}", "bench.threads=2"], {})
    folder = asked.work.data.parent
    parts = (targets.load("cpu"), StageCache(folder / "cache"), folder / "private")
    context = Context(asked.work.model, FACTORY, recipe, *parts)
    look = _Look("look")
    asked.patch.setattr(_Look, "needs_data", needs_data)
    asked.patch.setattr(_Look, "makes_weights", makes_weights)
    with torch_threads(3), pytest.raises(EdgemtlError):
        look.execute(context)
    assert look.seen == seen


def test_the_factorys_module_is_part_of_the_key(asked: Asked, tmp_path: Path) -> None:
    def key(source: str) -> str:
        (tmp_path / "their_network.py").write_text(source, "utf-8")
        sys.modules.pop("their_network", None)
        code_key.cache_clear()
        return asked.keys(factory="their_network:build")["export"]

    asked.patch.syspath_prepend(str(tmp_path))
    source = "from support.dense_family import build\n"
    assert key(source) == key('"""What it is."""\n' + source)
    assert key(source) != key(source + "\nCLASSES = 3\n")


def test_a_method_of_another_package_is_part_of_the_key(asked: Asked, tmp_path: Path) -> None:
    asked.assign = ["prune.enabled=true", "prune.flops=0.5", "prune.method=l1-uniform"]
    before = asked.keys()["prune"]
    with installed(tmp_path / "site", "first-units"):
        from first_units import first_units

        asked.patch.setitem(METHODS, "l1-uniform", first_units)
        assert asked.keys()["prune"] != before
