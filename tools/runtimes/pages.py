"""docs/runtimes.md: what was asked, what the rules name beforehand, and the rules themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgemtl.backends.conformance.rules import RuntimeRules
from runtimes.judging import Agreement, Verdict, counts
from runtimes.kept import Found

COLUMNS = ("right", "refused early", "refused late", "wrong")


def outcomes(found: Iterable[Found]) -> str:
    """Markdown: how the cases of each source end, without and with our rules.

    What was not asked of all cases of a source is left out.
    """
    by_key: dict[tuple[str, str, str, str], list[Found]] = {}
    for one in found:
        key = (one.runtime, one.version, one.case.partition("/")[0], one.mode)
        by_key.setdefault(key, []).append(one)
    lines = [
        "| runtime | source | | cases | " + " | ".join(COLUMNS) + " |",
        "|---|---|---|---|" + "---|" * len(COLUMNS),
    ]
    for (runtime, version, source, mode), rows in sorted(by_key.items()):
        plain = by_key.get((runtime, version, source, "plain"), [])
        if runtime == "tensorrt-rtx" or len(rows) < len(plain):
            continue
        told = counts(rows)
        how = "alone" if mode == "plain" else "with the rules"
        cells = " | ".join(str(told[column]) for column in COLUMNS)
        lines.append(f"| {runtime} {version} | {source} | {how} | {len(rows)} | {cells} |")
    return "\n".join(lines)


def verdicts(told: Mapping[str, Mapping[str, Verdict]]) -> str:
    """Markdown: how the rules do on cases that they were and were not written from."""
    lines = []
    for runtime, by_kind in told.items():
        for kind, verdict in by_kind.items():
            which = "written from" if kind == "seen" else "not written from"
            lines.append(f"- {runtime}, cases that the rules were {which}: {verdict.line()}.")
    return "\n".join(lines)


def _condition(when: Mapping[str, Any]) -> str:
    parts = []
    for name, wanted in when.items():
        short = name.removeprefix("attribute.")
        if isinstance(wanted, Mapping) and "not" in wanted:
            parts.append(f"{short} is not {wanted['not']}")
        elif isinstance(wanted, Mapping):
            ends = [f"{word} {wanted[word]}" for word in ("from", "to") if word in wanted]
            parts.append(f"{short} {' '.join(ends)}")
        elif isinstance(wanted, list):
            parts.append(f"{short} in {', '.join(map(str, wanted))}")
        elif isinstance(wanted, bool):
            parts.append(short if wanted else f"not {short}")
        else:
            parts.append(f"{short}={wanted}")
    return ", ".join(parts) or "always"


def rules(known: Mapping[str, RuntimeRules]) -> str:
    """Markdown: every rule of every runtime."""
    lines: list[str] = []
    for one in known.values():
        lines += ["", f"### {one.title} {one.version}", ""]
        lines += ["| operators | when | what happens | what compile does |", "|---|---|---|---|"]
        for rule in one.rules:
            does = "writes it with other operators" if rule.rewrite else "refuses it"
            if not rule.fatal:
                does = "says it" if not rule.rewrite else does
            cells = (", ".join(rule.operators), _condition(rule.when), rule.because, does)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(
    found: Sequence[Found],
    judged: Mapping[str, Mapping[str, Verdict]],
    parser: Agreement,
    known: Mapping[str, RuntimeRules],
) -> str:
    """docs/runtimes.md."""
    return f"""\
# What the runtimes compute otherwise

A runtime that knows an operator by name may still ignore one of its attributes. It then gives wrong
numbers without an error, or fails late. EdgeMTL has a table of these cases
(`edgemtl/backends/conformance/rules.json`). `inspect --target` and `compile` ask it before any
compiler runs. They write such a node with other operators where that is possible. Else they refuse
it, and name node, module, attribute, version and what to write instead.

`python tools/check_runtimes.py page` wrote this page from the findings of the runs below. The
questions are the package `onnx`'s own node tests with one float32 input (the others constant, or
all of them packed into one), torch layers exported as the product exports them (opsets 17 and 20),
and nodes with random attributes (seeds 1 and 2). Right means: within 1e-4 of the output's range, or
the test's own tolerance.

<!-- not tested: minutes each; tests/unit/tools/test_check_runtimes.py runs them on few cases -->
```
python tools/check_runtimes.py run --mode plain      # the runtimes alone
python tools/check_runtimes.py run                   # with the rules, as users have it
python tools/check_runtimes.py judge
python tools/check_runtimes.py diff                  # after an update of a runtime: what changed
```

{outcomes(found)}

"Refused early" is before compiling. A case that ends the process, or takes longer than a minute,
counts as refused late. A row is left out where not all of its cases were asked.

## What the rules name beforehand

{verdicts(judged)}

## TensorRT

The table of TensorRT 11.4 ([What TensorRT takes](tensorrt.md)) against the parser and builder of
TensorRT-RTX, which need no GPU: {parser.line()}. "Left to the device" are operators that a board's
version has and TensorRT-RTX lacks or cannot plan without a driver.

## The rules

Names such as `window.ceil_differs` are facts that follow from attributes and sizes
(`edgemtl/backends/conformance/derived.py`).
{rules(known)}
"""
