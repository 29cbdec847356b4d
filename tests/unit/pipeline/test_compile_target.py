"""What a recipe changes in a target."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemtl import recipes, targets
from edgemtl.backends.tensorrt.settings import options_of
from edgemtl.errors import UsageError
from edgemtl.pipeline.compile import CompileRequest, _built_for


def request(target: str, *assignments: str) -> CompileRequest:
    recipe = recipes.resolve({}, None, assignments, {})
    return CompileRequest(Path("model.pt"), targets.load(target), recipe)


def test_suppression_inside_the_graph_is_the_recipe_s_choice() -> None:
    assert _built_for(request("jetson")) == targets.load("jetson")
    changed = _built_for(request("jetson", "export.nms=graph"))
    assert options_of(changed).nms == "graph"
    assert options_of(targets.load("jetson")).nms == "host"


def test_a_target_that_cannot_is_refused() -> None:
    assert _built_for(request("cpu")) == targets.load("cpu")
    with pytest.raises(UsageError, match="'cpu' does not suppress"):
        _built_for(request("cpu", "export.nms=graph"))
