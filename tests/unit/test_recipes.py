"""The recipe: who wins over whom, what is refused, what is read back."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from pydantic import BaseModel

from edgemtl.errors import UsageError
from edgemtl.pipeline.environment import commented_recipe
from edgemtl.recipes import (
    Recipe,
    from_assignments,
    from_environment,
    merge,
    read_file,
    resolve,
    validate,
)

LAYERS = ("target", "file", "environment", "set")


@pytest.mark.parametrize("highest", range(-1, len(LAYERS)))
def test_later_layers_win(highest: int, tmp_path: Path) -> None:
    """default < target < file < environment < --set, with every layer up to one present."""
    present = LAYERS[: highest + 1]
    file = tmp_path / "recipe.toml"
    file.write_text("[gates.latency]\np99_ms = 2\n", "utf-8")
    recipe = resolve(
        {"gates": {"latency": {"p99_ms": 1}}} if "target" in present else {},
        file if "file" in present else None,
        ["gates.latency.p99_ms=4"] if "set" in present else [],
        {"EDGEMTL_GATES__LATENCY__P99_MS": "3"} if "environment" in present else {},
    )
    assert recipe.gates.latency.p99_ms == [None, 1, 2, 3, 4][highest + 1]


def test_layers_merge_key_by_key(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("[data]\nlimit = 7\n[gates.tasks.pose]\nmin = 0.5\n", "utf-8")
    recipe = resolve(
        {"gates": {"tasks": {"pose": {"max": 9.0}, "other": {"max": 1.0}}}},
        file,
        ["bench.threads=3", "gates.tasks.pose.max_relative_drop=0.1"],
        {"EDGEMTL_DATA__SEED": "5"},
    )
    assert (recipe.data.limit, recipe.data.seed, recipe.bench.threads) == (7, 5, 3)
    pose = recipe.gates.tasks["pose"]
    assert (pose.min, pose.max, pose.max_relative_drop) == (0.5, 9.0, 0.1)
    assert recipe.gates.tasks["other"].max == 1.0


def test_the_last_of_equal_assignments_wins() -> None:
    assert resolve({}, None, ["bench.threads=1", "bench.threads=2"], {}).bench.threads == 2


def test_merge_replaces_lists_and_values() -> None:
    base = {"a": {"x": [1, 2], "y": 1}, "b": 1}
    assert merge(base, {"a": {"x": [3]}}) == {"a": {"x": [3], "y": 1}, "b": 1}
    assert merge(base, {"b": {"c": 1}}) == {"a": {"x": [1, 2], "y": 1}, "b": {"c": 1}}
    assert merge(base, {"a": 2}) == {"a": 2, "b": 1}
    assert base == {"a": {"x": [1, 2], "y": 1}, "b": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1.5", 1.5),
        ("true", True),
        ('"text"', "text"),
        ("plain text", "plain text"),
        ("a=b", "a=b"),
        ('["a", "b"]', ["a", "b"]),
        ("", ""),
        ("1\nother = 2", 1),
    ],
)
def test_assigned_values_are_toml_or_text(text: str, value: Any) -> None:
    assert from_assignments([f"section.key={text}"]) == {"section": {"key": value}}


@pytest.mark.parametrize("text", ["", "key", "key=1", "=1", ".key=1", "section.=1", "a..b=1"])
def test_assignments_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"section\.key=value"):
        from_assignments([text])


def test_only_variables_with_a_section_are_keys() -> None:
    variables = {
        "EDGEMTL_CACHE": "x",
        "EDGEMTL_DEBUG": "1",
        "OTHER__KEY": "1",
        "EDGEMTL_BENCH__MAX_SECONDS": "9",
    }
    assert from_environment(variables) == {"bench": {"max_seconds": 9}}


def sections() -> list[tuple[str, type[BaseModel]]]:
    """Every table of the recipe with the model that checks it."""
    found: list[tuple[str, type[BaseModel]]] = []
    pending: list[tuple[str, type[BaseModel]]] = [("", Recipe)]
    while pending:
        path, model = pending.pop()
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                below = f"{path}.{name}".lstrip(".")
                found.append((below, kind))
                pending.append((below, kind))
    return sorted(found, key=lambda section: section[0])


@pytest.mark.parametrize("path", [path for path, _ in sections()])
def test_every_section_refuses_unknown_keys_naming_them(path: str) -> None:
    data: dict[str, Any] = {"nope": 1}
    for part in reversed(path.split(".")):
        data = {part: data}
    with pytest.raises(UsageError, match=f"unknown key '{path}.nope'") as caught:
        validate(data, "here")
    assert caught.value.where == "here" and "init" in str(caught.value.hint)


@pytest.mark.parametrize("path", [path for path, _ in sections()])
def test_every_section_is_a_table(path: str) -> None:
    data: Any = 3
    for part in reversed(path.split(".")):
        data = {part: data}
    with pytest.raises(UsageError, match=path):
        validate(data, "here")


def test_each_layer_is_named_in_its_error(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("[bench]\nnope = 1\n", "utf-8")
    good: dict[str, str] = {}
    for arguments, where in (
        (({"nope": 1}, None, [], good), "target"),
        (({}, file, [], good), str(file)),
        (({}, None, [], {"EDGEMTL_BENCH__NOPE": "1"}), "environment"),
        (({}, None, ["bench.nope=1"], good), "--set"),
    ):
        with pytest.raises(UsageError) as caught:
            resolve(*arguments)  # type: ignore[arg-type]
        assert caught.value.where == where


FULL: dict[str, Any] = {
    "model": {"tasks": ["a", "b"]},
    "data": {"root": ["one", "two"], "limit": 3, "seed": 9},
    "bench": {"enabled": False, "threads": 0},
    "export": {"opset": 17},
    "gates": {
        "tasks": {"a": {"max_relative_drop": False, "min": 0.5}, "b": {"max": 3.0}},
        "latency": {"ratio": False, "p99_ms": 12.0},
        "cost": {"flops_ratio": 0.4, "size_ratio": False},
        "allow_not_measured": ["latency"],
    },
}


@pytest.mark.parametrize("data", [{}, FULL])
def test_what_is_written_reads_back_as_the_same(data: dict[str, Any]) -> None:
    recipe = validate(data, "here")
    again = validate(tomllib.loads(tomlkit.dumps(recipe.to_dict())), "there")
    assert again.to_dict() == recipe.to_dict()
    assert again.gates.cost.macs == recipe.gates.cost.macs
    assert again.gates.latency == recipe.gates.latency
    assert again.gates.tasks == recipe.gates.tasks


def test_gates_that_are_off_stay_off() -> None:
    gates = validate(validate(FULL, "here").to_dict(), "there").gates
    assert gates.latency.ratio is None and gates.cost.size_ratio is None
    assert gates.tasks["a"].max_relative_drop is None
    assert gates.cost.macs == 0.4
    off = validate(validate({"gates": {"cost": {"flops_ratio": False}}}, "").to_dict(), "").gates
    assert off.cost.macs is None


def test_a_limit_that_has_two_names_is_replaced_under_either() -> None:
    stored = {"gates": validate(FULL, "").to_dict()["gates"]}
    for name in ("flops_ratio", "macs_ratio"):
        found = resolve(stored, None, [f"gates.cost.{name}=0.7"], {})
        assert found.gates.cost.macs == 0.7
    with pytest.raises(UsageError, match="one limit"):
        validate({"gates": {"cost": {"flops_ratio": 1, "macs_ratio": 1}}}, "here")


def test_one_folder_is_a_list_of_one() -> None:
    assert validate({"data": {"root": "here"}}, "").data.root == (Path("here"),)


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().bench.threads = 2  # type: ignore[misc]


def test_the_commented_recipe_is_a_recipe_of_defaults() -> None:
    text = commented_recipe()
    assert validate(tomllib.loads(text), "init").to_dict() == Recipe().to_dict()
    # With the '#' removed every line sets a key to its default.
    lines = [line.removeprefix("# ") for line in text.splitlines()[1:]]
    kept = [line for line in lines if "NAME" not in line and "max_relative_drop" not in line]
    set_lines = [line for line in kept if not line.split("#")[0].rstrip().endswith("=")]
    uncommented = tomllib.loads("\n".join(set_lines))
    assert validate(uncommented, "init").to_dict() == Recipe().to_dict()
    for path, model in sections():
        assert f"[{path}]" in text
        for name in model.model_fields:
            assert name in text


@pytest.mark.parametrize(
    "line",
    [
        "limit = " + "9" * 5000,
        "limit = " + "9" * 400,
        "limit = " + "[" * 5000 + "]" * 5000,
        "limit = " + "{a=" * 5000 + "1" + "}" * 5000,
        "limit = 1e9999",
    ],
    ids=["5000 digits", "400 digits", "lists", "tables", "infinite"],
)
def test_values_beyond_bounds_are_refused_in_a_file_and_in_an_assignment(
    line: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f"[data]\n{line}\n", "utf-8")
    with pytest.raises(UsageError):
        read_file(path)
    key, _, value = line.partition(" = ")
    with pytest.raises(UsageError):
        resolve({}, None, [f"data.{key}={value}"])


def test_a_key_of_thousands_of_parts_is_refused() -> None:
    with pytest.raises(UsageError, match="is not section"):
        from_assignments([".".join("a" * 5000) + "=1"])
