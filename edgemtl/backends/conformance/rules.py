"""The committed table of what runtimes do otherwise than ONNX says, and who asks it.

``rules.json`` holds, per runtime and the version that was measured, rules of an operator: under
which conditions the outcome is "wrong" (numbers without an error) or "late" (an error after the
runtime said that it knows the operator), why, and what to write instead. Conditions are facts of
the node (:mod:`.facts`, :mod:`.derived`), so that attributes decide and not names.
``tools/check_runtimes.py`` measures them and prints what a new version does otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgemtl.backends.conformance.derived import asked
from edgemtl.backends.conformance.facts import NodeFacts, node_facts
from edgemtl.backends.types import Problem

if TYPE_CHECKING:
    from onnx import ModelProto

RULES_FILE = Path(__file__).with_name("rules.json")


class Rule(BaseModel):
    """When a runtime does not do what an operator says.

    Attributes:
        operators: it holds for.
        when: fact -> what it must be, all of them: a value, a list of values, ``{"from", "to"}``
            (either may be absent) or ``{"not": value}``. Empty: always.
        outcome: "wrong": other numbers and no error; "late": it cannot compile or run it, though it
            says that it knows the operator; "died": the process may end, and the conditions are
            wider than what ends it.
        because: one half-sentence after the operator's name.
        instead: what to write.
        fatal: False where only some numbers bring it about: it is told, and compiled.
        rewrite: how rewriting/settle.py writes the node for this runtime; empty where it cannot.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    operators: tuple[str, ...]
    when: Mapping[str, Any] = Field(default_factory=dict)
    outcome: Literal["wrong", "late", "died"]
    because: str
    instead: str
    fatal: bool = True
    rewrite: str = ""


class RuntimeRules(BaseModel):
    """What is known of one runtime.

    Attributes:
        title: how it is called in messages.
        version: that was measured.
        rules: of it; the first that holds speaks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    version: str
    rules: tuple[Rule, ...]


@lru_cache(maxsize=1)
def all_rules() -> Mapping[str, RuntimeRules]:
    """Backend's name -> what is known."""
    data = json.loads(RULES_FILE.read_text("utf-8"))
    return {name: RuntimeRules.model_validate(known) for name, known in data.items()}


def known_problems(model: ModelProto, runtime: str, version: Callable[[], str]) -> list[Problem]:
    """Nodes that this runtime would compute wrongly or fail on, in the order of the graph.

    Args:
        model: as the runtime would get it, static shapes.
        runtime: name of the backend.
        version: tells the one that is here; where it is not the measured one the reason says so.
    """
    known = all_rules().get(runtime)
    if known is None:
        return []
    found = list(matches(model, known))
    if not found:
        return []
    named, here = f"{known.title} {known.version}", version().partition("-")[0]
    if here != known.version:
        named += f" (measured; here is {here})"
    return [
        Problem(
            facts.proto.name,
            facts.proto.op_type,
            f"{named} {rule.because}{_where(facts, rule)}",
            rule.instead,
            fatal=rule.fatal,
            known=True,
        )
        for facts, rule in found
    ]


def matches(model: ModelProto, known: RuntimeRules) -> Iterator[tuple[NodeFacts, Rule]]:
    """Every node for which a rule holds, with the first such rule."""
    operators = {operator for rule in known.rules for operator in rule.operators}
    if not any(node.op_type in operators for node in model.graph.node):
        return
    for facts in node_facts(model):
        rule = first_rule(facts, known)
        if rule is not None:
            yield facts, rule


def first_rule(facts: NodeFacts, known: RuntimeRules) -> Rule | None:
    """The first rule that holds for a node."""
    if facts.proto.domain not in ("", "ai.onnx"):
        return None
    for rule in known.rules:
        if facts.proto.op_type in rule.operators and all(
            _holds(asked(facts, name), wanted) for name, wanted in rule.when.items()
        ):
            return rule
    return None


def _holds(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if "not" in wanted:
            return not _holds(found, wanted["not"])
        if found is None:
            return False
        return bool(wanted.get("from", found) <= found <= wanted.get("to", found))
    if isinstance(wanted, list):
        return found in wanted
    return bool(found == wanted)


def _where(facts: NodeFacts, rule: Rule) -> str:
    """The attributes that decided, as they stand in the node."""
    told = []
    for name in rule.when:
        kind, _, attribute = name.partition(".")
        if kind in ("attribute", "given") and attribute in facts.attributes:
            told.append(f"{attribute}={facts.attributes[attribute]}")
        elif name == "opset":
            told.append(f"opset {facts.opset}")
    return f" ({', '.join(dict.fromkeys(told))})" if told else ""
