"""The table of what runtimes do otherwise than ONNX says, and how it is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, defs, helper, numpy_helper

from edgemtl.backends.conformance.derived import asked
from edgemtl.backends.conformance.facts import NodeFacts, node_facts
from edgemtl.backends.conformance.rules import (
    Rule,
    RuntimeRules,
    all_rules,
    first_rule,
    known_problems,
)
from edgemtl.backends.rewriting.settle import REWRITES


def _facts(op: str, shape: tuple[int, ...], *more: Any, opset: int = 17, **given: Any) -> NodeFacts:
    names = [f"c{index}" if value is not None else "" for index, value in enumerate(more)]
    stored = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in zip(names, more, strict=True)
        if value is not None
    ]
    node = helper.make_node(op, ["x", *names], ["y"], "head/asked", **given)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    (facts,) = node_facts(model)
    return facts


def test_every_rule_asks_what_there_is() -> None:
    assert all_rules()
    for known in all_rules().values():
        for rule in known.rules:
            assert rule.because and rule.instead and rule.operators
            assert not rule.rewrite or rule.rewrite in REWRITES
            for operator in rule.operators:
                assert defs.has(operator), operator
                every = {
                    name
                    for schema in defs.get_all_schemas_with_history()
                    if schema.name == operator
                    for name in schema.attributes
                }
                for name in rule.when:
                    kind, _, attribute = name.partition(".")
                    if kind in ("attribute", "given"):
                        assert attribute in every, (operator, name)
            facts = _facts("Relu", (1, 2, 3, 4))
            for name in rule.when:
                asked(facts, name)  # raises where there is no such fact


def test_attributes_come_with_their_defaults() -> None:
    facts = _facts("MaxPool", (1, 2, 7, 9), kernel_shape=[3, 2])
    assert asked(facts, "attribute.ceil_mode") == 0 and not asked(facts, "given.ceil_mode")
    assert asked(facts, "attribute.kernel_shape") == [3, 2] and asked(facts, "given.kernel_shape")
    assert asked(facts, "opset") == 17 and asked(facts, "rank.0") == 4
    assert asked(facts, "input.0") == "computed" and asked(facts, "input.1") == "absent"
    assert asked(facts, "read.0") and not asked(facts, "read.1")
    with pytest.raises((KeyError, ValueError)):
        asked(facts, "colour")


@pytest.mark.parametrize(
    ("size", "window", "name", "is_so"),
    [
        (8, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, "ceil_differs", True),
        (7, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, "ceil_differs", False),
        (8, {"kernel_shape": [3, 3], "strides": [2, 2]}, "ceil_differs", False),
        # A third window would begin at 8, behind the input.
        (7, {"kernel_shape": [1, 1], "strides": [4, 4], "ceil_mode": 1}, "drops", True),
        (8, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, "drops", False),
        (4, {"kernel_shape": [1, 1], "strides": [2, 2], "pads": [0, 0, 1, 1], "ceil_mode": 1},
         "drops", True),
    ],
)  # fmt: skip
def test_windows_are_worked_out(size: int, window: Any, name: str, is_so: bool) -> None:
    facts = _facts("MaxPool", (1, 2, size, size), **window)
    assert asked(facts, f"window.{name}") is is_so


def test_scales_are_worked_out() -> None:
    def facts(scale: float) -> NodeFacts:
        return _facts("Resize", (1, 2, 5, 6), None, np.array([1, 1, scale, scale], np.float32))

    assert asked(facts(1.3), "resize.fractional") and not asked(facts(2), "resize.fractional")
    assert asked(facts(0.2), "resize.to_one") and asked(facts(0.5), "resize.shrinks")
    computed = _facts("Relu", (1, 2, 5, 6))
    assert asked(computed, "resize.fractional") is None


def test_the_first_rule_that_holds_speaks_and_names_the_versions() -> None:
    rules = (
        Rule(
            operators=("Elu",),
            when={"attribute.alpha": {"from": 2.0}, "opset": [13, 17]},
            outcome="wrong",
            because="squares alpha",
            instead="write it by Exp",
        ),
        Rule(operators=("Elu",), outcome="late", because="fails", instead="use Relu"),
    )
    known = RuntimeRules(title="Frob", version="1.2", rules=rules)
    first, second = _facts("Elu", (2, 2), alpha=2.5), _facts("Elu", (2, 2), alpha=0.5)
    assert first_rule(first, known) is rules[0]
    assert first_rule(second, known) is rules[1]
    assert first_rule(_facts("Relu", (2, 2)), known) is None


def test_a_problem_names_node_attribute_version_and_what_to_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule = Rule(
        operators=("Elu",),
        when={"given.alpha": True, "attribute.alpha": {"not": 1.0}},
        outcome="wrong",
        because="ignores alpha",
        instead="write it by Exp",
    )
    known = RuntimeRules(title="Frob", version="1.2", rules=(rule,))
    monkeypatch.setattr("edgemtl.backends.conformance.rules.all_rules", lambda: {"frob": known})
    node = helper.make_node("Elu", ["x"], ["y"], "head/Elu", alpha=0.5)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]))
    assert isinstance(model, onnx.ModelProto)
    (told,) = known_problems(model, "frob", lambda: "1.2-build7")
    assert told.node == "head/Elu" and told.fatal and told.known
    assert told.reason == "Frob 1.2 ignores alpha (alpha=0.5)"
    assert told.advice == "write it by Exp"
    (newer,) = known_problems(model, "frob", lambda: "2.0")
    assert newer.reason.startswith("Frob 1.2 (measured; here is 2.0) ignores alpha")
    assert known_problems(model, "other", lambda: "1") == []
