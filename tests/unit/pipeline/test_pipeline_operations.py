"""Each operation is written once: what it is made of, nobody else puts together again.

Stages, verbs, the Python API and tools call the operation. A part of one that is called elsewhere
stands in :data:`PARTS` with the places that may, each with its reason; one that no longer does
fails too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
#: part of an operation -> where the package may call it, and why there
PARTS: dict[tuple[str, str], dict[str, str]] = {
    ("edgemtl.measure.accuracy", "evaluate"): {
        "edgemtl/pipeline/evaluate.py": "the operation",
        "edgemtl/compress/quantize/judge.py": "below the pipeline: judges graphs while it searches",
        "edgemtl/compress/recover/judge.py": "below the pipeline: judges networks in training",
    },
    ("edgemtl.measure.latency", "bench"): {
        "edgemtl/pipeline/bench.py": "the operation",
        "edgemtl/measure/selfcheck.py": "measures the measurement",
    },
    ("edgemtl.measure.latency", "compare"): {
        "edgemtl/pipeline/bench.py": "the operation",
        "edgemtl/measure/selfcheck.py": "measures the measurement",
        "edgemtl/compress/latency_model.py": "below the pipeline: times networks while it searches",
    },
    ("edgemtl.exporting.cost", "count_cost"): {
        "edgemtl/pipeline/cost.py": "the operation",
        "edgemtl/pipeline/inspection.py": "of a graph that is not compiled",
    },
    ("edgemtl.bundle.write", "write_bundle"): {"edgemtl/pipeline/bundle.py": "the operation"},
    ("edgemtl.bundle.selftest", "record_selftest"): {"edgemtl/pipeline/bundle.py": "the operation"},
    ("edgemtl.exporting.parity", "check_chain"): {
        "edgemtl/pipeline/parity.py": "the operation",
        "edgemtl/pipeline/export.py": "an exported file against its network, on noise",
    },
    ("edgemtl.exporting.onnx_export", "export_onnx"): {
        "edgemtl/exporting/network.py": "the one chain from a network to a graph",
        "edgemtl/compress/context.py": "asks whether a cut network can be exported at all",
    },
    ("edgemtl.exporting.simplify", "simplify"): {
        "edgemtl/exporting/network.py": "the one chain from a network to a graph",
    },
    ("edgemtl.compress.prune", "prune"): {"edgemtl/pipeline/prune.py": "the operation"},
    ("edgemtl.gates.judge", "judge"): {"edgemtl/pipeline/gate.py": "the operation"},
}
#: tools that take an export apart
TOOLS = {
    "tools/bench_m3vit.py": "writes a single layer, which is no network",
    "tools/runtimes/torch_cases.py": "writes layers at opsets that no target asks for",
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Path and tree of every module of the package and of the tools."""
    for folder in ("edgemtl", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def imported() -> dict[tuple[str, str], set[str]]:
    """(module, name) -> who imports it from there or from its package."""
    found: dict[tuple[str, str], set[str]] = {}
    for path, tree in modules():
        for node in ast.walk(tree):
            match node:
                case ast.ImportFrom(module=str(module), names=names):
                    for alias in names:
                        found.setdefault((module, alias.name), set()).add(path)
    return found


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part[0]}.{part[1]}")
def test_only_the_operation_calls_its_parts(
    imported: dict[tuple[str, str], set[str]], part: tuple[str, str]
) -> None:
    module, name = part
    package = module.rpartition(".")[0]
    callers = imported.get(part, set()) | imported.get((package, name), set())
    # a package's own door is no caller
    own = f"{package.replace('.', '/')}/__init__.py"
    assert {path for path in callers - {own} if path.startswith("edgemtl/")} == set(PARTS[part])


def test_tools_export_as_the_product_does(imported: dict[tuple[str, str], set[str]]) -> None:
    by_hand = {
        path
        for part in (
            ("edgemtl.exporting.onnx_export", "export_onnx"),
            ("edgemtl.exporting.simplify", "simplify"),
        )
        for path in imported[part]
        if path.startswith("tools/")
    }
    assert by_hand == set(TOOLS)


def test_artefacts_are_compiled_and_requests_built_in_one_place() -> None:
    compiled, built = set(), set()
    for path, tree in modules():
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(attr="compile"), args=[_, _, _]):
                    compiled.add(path)
                case ast.Call(func=ast.Name(id="BenchRequest")):
                    built.add(path)
    # the tool shows what a backend itself says to a graph
    assert compiled == {"edgemtl/backends/artefacts.py", "tools/runtimes/asking.py"}
    # the second reads one back, in the process that measures
    assert built == {"edgemtl/measure/timed.py", "edgemtl/measure/results.py"}


def test_an_operation_has_a_frozen_request_and_outcome() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    told = text.split("An operation is one file")[1].split("A stage (")[0]
    names = re.findall(r"`(\w+)\.py`", told)
    assert len(names) > 10
    for name in names:
        tree = ast.parse((ROOT / "edgemtl" / "pipeline" / f"{name}.py").read_text("utf-8"))
        frozen = [
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef)
            and any("frozen=True" in ast.unparse(one) for one in node.decorator_list)
        ]
        assert frozen, name
