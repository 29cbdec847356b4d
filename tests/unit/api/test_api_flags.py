"""Every flag of a verb is a keyword of the function of the same name, and means the same."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

import edgemtl
from edgemtl import recipes, targets
from edgemtl.api.asking import assignments, call_of, factory_of, names, resolved
from edgemtl.cli.main import app
from edgemtl.errors import UsageError
from edgemtl.gates.limits import CostLimits, GateLimits
from edgemtl.pipeline import settings
from edgemtl.pipeline.defaults import recipe_for
from edgemtl.recipes import PruneSection, Recipe

COMMANDS: Any = typer.main.get_command(app)
#: flag -> keyword, where they are called differently
CALLED = {
    "assign": "overrides",
    "config": "recipe",
    "task": "tasks",
    "budget": "budgets",
    "no_cache": "use_cache",
    "trusted_key": "trusted_keys",
    "bundle": "artefact",
}
#: keywords that no flag of the verb has: ``--set data.seed=1`` there
MORE = {"progress", "seed", "overrides", "recipe"}
FARM = {"farm", "certificates", "without_tls"}
OUTPUT = {"as_json", "verbose", "quiet"}
#: verb -> function, flags that only the command line has, and keywords that only the function has
VERBS: dict[str, tuple[str, set[str], set[str]]] = {
    "compile": ("compile", {*FARM, "dry_run"}, set()),
    "prune": ("prune", {*FARM, "report"}, set()),  # Pruned.write_report
    "quantize": ("quantize", set(), set()),
    "mask": ("mask", {"analyse"}, set()),  # without an output
    "export": ("export", set(), set()),
    "eval": ("evaluate", {*FARM, "wider_ground_truth", "multiscale"}, set()),
    # Judged has methods for what is written
    "gate": (
        "gate",
        {"junit", "markdown", "bencher", "annotations", "step_summary", "save_baseline"},
        set(),
    ),
    "parity": ("parity", set(), set()),
    "inspect": ("inspect", {"target", "modules"}, {"targets"}),  # a package has that name in it
    "verify": ("verify", set(), {"bundle"}),
    "bench": (
        "bench",
        {*FARM, "device", "all_devices", "device_python", "output", "self_check", "claim"}
        | {"reference"},  # against takes checkpoints, too
        set(),
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_flags_and_keywords_agree(verb: str) -> None:
    function, only_flags, only_keywords = VERBS[verb]
    flags = {one.name for one in COMMANDS.commands[verb].params} - OUTPUT - {"help"}
    assert only_flags <= flags, "no longer needed: take them off the list"
    meant = {CALLED.get(flag, flag) for flag in flags - only_flags}
    given = set(inspect.signature(getattr(edgemtl, function)).parameters)
    if verb == "verify":
        meant.discard("artefact")
    assert meant - given == set()
    assert given - meant - only_keywords <= MORE


@pytest.mark.parametrize("kind", settings.Settings.__subclasses__())
def test_every_setting_is_a_key_of_the_recipe(kind: type[settings.Settings]) -> None:
    known = Recipe.model_fields
    for one in fields(kind):
        section, _, key = one.metadata["key"].partition(".")
        assert key in known[section].annotation.model_fields, one.name  # type: ignore[union-attr]
    assert kind().assignments() == []


def test_four_verbs_have_settings() -> None:
    assert len(settings.Settings.__subclasses__()) == 4


def test_keywords_and_flags_resolve_to_one_recipe(tmp_path: Path) -> None:
    given = settings.PruneSettings(
        data=(tmp_path / "with 'quotes' and \\",),
        seed=3,
        tasks=("pose",),
        method="l1-global",
        flops=0.25,
        budgets={"pose": 1.5},
        compensate=False,
        keep_whole=("decoders.*",),
        steps=0,
        recover="norms",
    )
    target = targets.load("intel-cpu")
    found = resolved(target, None, given, {"bench.threads": 2, "model.tasks": ["depth"]})
    told = recipes.validate(
        {
            "data": {"root": [str(given.data[0])], "seed": 3},
            "model": {"tasks": ["depth"]},
            "prune": {
                "method": "l1-global",
                "flops": 0.25,
                "budgets": {"pose": 1.5},
                "compensate": False,
                "keep_whole": ["decoders.*"],
            },
            "recover": {"steps": 0, "train": "norms"},
            "bench": {"threads": 2},
        },
        "here",
    )
    assert found == recipe_for(target, told)


def test_of_a_loaded_recipe_only_what_was_set_counts() -> None:
    target = targets.load("intel-cpu")
    asked = Recipe(
        prune=PruneSection(flops=0.5), gates=GateLimits(cost=CostLimits(size_ratio=None))
    )
    assert asked.to_dict(True) == {
        "prune": {"flops": 0.5},
        "gates": {"cost": {"size_ratio": False}},
    }
    found = recipe_for(target, asked, ["data.root=somewhere"])
    assert found.prune.flops == 0.5 and found.prune.params is None
    assert found.gates.cost.size_ratio is None
    assert found.gates.cost.macs_ratio == recipe_for(target, None).gates.cost.macs_ratio
    assert found.quantize == recipe_for(target, None, ["data.root=somewhere"]).quantize


def test_one_name_is_no_list_of_letters() -> None:
    assert names("pose") == ("pose",) and names(["a", "b"]) == ("a", "b") and names(None) == ()


def test_a_factory_may_be_the_function_itself() -> None:
    assert factory_of(recipe_for) == "edgemtl.pipeline.defaults:recipe_for"
    assert factory_of("their.module:build") == "their.module:build"
    for nameless in (lambda: None, Recipe.to_dict):
        with pytest.raises(UsageError, match="no function of a module"):
            factory_of(nameless)


def test_an_override_that_is_no_key_is_refused_by_its_name() -> None:
    with pytest.raises(UsageError, match="no_such"):
        resolved(targets.load("cpu"), None, settings.Settings(), {"bench.no_such": 1})
    assert assignments({"a.b": True, "a.c": "x y"}) == ["a.b=true", 'a.c="x y"']


def test_the_record_names_the_call() -> None:
    told = call_of("compile", model=Path("m.pt"), target=targets.load("cpu"), data=None, tasks=())
    assert told == "edgemtl.compile(model='m.pt', target='cpu')"
