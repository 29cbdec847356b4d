"""What each runtime makes of graphs whose right answer is known; resumable.

    python tools/check_runtimes.py run                       # ask every runtime that is here
    python tools/check_runtimes.py run --only openvino --cases Resize
    python tools/check_runtimes.py show                      # counts and what is not right
    python tools/check_runtimes.py run --mode plain          # as the runtimes alone would
    python tools/check_runtimes.py judge                     # what the rules name beforehand
    python tools/check_runtimes.py diff                      # what a new version does otherwise
    python tools/check_runtimes.py page                      # write docs/runtimes.md
    python tools/check_runtimes.py keep                      # write tools/runtimes/outcomes.csv

The questions: the package ``onnx``'s own node tests with one input (the others constant, and all of
them packed into one), torch layers exported as the product exports, and nodes with random
attributes. Each goes through the product's own backend in a process with limits. What was asked is
kept under --work, by case, runtime and version, and not asked again. TensorRT-RTX parses and builds
where it is installed (the extra 'tensorrt'; no GPU is needed), and nothing runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TVM_NUM_THREADS"):
    os.environ.setdefault(name, "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from runtimes import asking, judging, node_cases, pages, random_cases, table  # noqa: E402 - lies beside this file
from runtimes.cases import Case  # noqa: E402
from runtimes.forked import forked  # noqa: E402
from runtimes.kept import Found, Kept, operators, read_torch  # noqa: E402

from edgemtl.backends.conformance.rules import all_rules  # noqa: E402

WORK = ROOT / "work" / "runtimes"
#: limits of one case
SECONDS, MEMORY_MB = 60.0, 6144
#: draws of every operator, and the seeds; rules were written with the first in view
EACH, SEEDS = 8, (1, 2)


def all_cases(work: Path, each: int, seeds: Sequence[int]) -> Iterator[Case]:
    """Every case, sources one after the other."""
    folder = work / "torch"
    if not (folder / "complete").exists():
        # In a child: torch is not wanted where runtimes are imported.
        print("exporting torch layers", file=sys.stderr, flush=True)
        if forked(lambda: _write_torch(folder), 3600, 32768) is None:
            raise SystemExit("the torch layers could not be exported")
        (folder / "complete").touch()
    yield from node_cases.cases()
    yield from read_torch(folder)
    for seed in seeds:
        yield from random_cases.cases(each, seed)


def _write_torch(folder: Path) -> dict[str, Any]:
    from runtimes import torch_cases

    torch_cases.write(folder)
    return {}


def run(asked: argparse.Namespace) -> int:
    """Ask what was not asked yet."""
    kept = Kept(asked.work / "found.jsonl")
    done = kept.read()
    for runtime in asked.only or asking.TARGETS:
        cases = [
            c
            for c in all_cases(asked.work, asked.each, asked.seed or SEEDS)
            if asked.cases in c.name
        ]
        # One runtime after the other in a process each: what one imports the next does not have.
        child = os.fork()
        if child == 0:
            try:
                _run(runtime, cases, kept, done, asked.mode, asked.again)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)
        os.waitpid(child, 0)
    return 0


def _run(
    runtime: str,
    cases: Sequence[Case],
    kept: Kept,
    done: Mapping[Any, Found],
    mode: str,
    again: bool,
) -> None:
    version = asking.prepare(runtime)
    if version is None:
        print(f"{runtime}: not here: {asking.reason(runtime)}", flush=True)
        return
    counts: Counter[str] = Counter()
    for number, case in enumerate(cases):
        if (runtime, version, mode, case.name) in done and not again:
            continue
        before = done.get((runtime, version, "plain", case.name))
        ruled = mode == "product" and before is not None and runtime in all_rules()
        if ruled and before is not None and not asking.touched(runtime, case):
            kept.add(replace(before, mode="product"))
            continue
        told = forked(lambda c=case: asking.ask(runtime, c, mode), SECONDS, MEMORY_MB)  # type: ignore[misc]
        told = told or {"outcome": "died", "why": "the process died or took too long"}
        counts[told["outcome"]] += 1
        names = operators(case)
        kept.add(Found(runtime, version, mode, case.name, told["outcome"], told["why"], names))
        if number % 200 == 0:
            print(
                f"{runtime} {number} of {len(cases)}: {dict(counts)}", file=sys.stderr, flush=True
            )


def show(asked: argparse.Namespace) -> int:
    """Counts, and what is not right."""
    rows = [f for f in Kept(asked.work / "found.jsonl").read().values() if asked.cases in f.case]
    for runtime, version, mode in sorted({(f.runtime, f.version, f.mode) for f in rows}):
        if asked.only and runtime not in asked.only:
            continue
        own = [f for f in rows if (f.runtime, f.version, f.mode) == (runtime, version, mode)]
        for source in ("node", "torch", "random"):
            counts = Counter(f.outcome for f in own if f.case.startswith(source))
            told = ", ".join(f"{counts[name]} {name}" for name in asking.OUTCOMES)
            print(f"{runtime} {version} {mode} {source}: {told}")
        if asked.all:
            for found in sorted(own, key=lambda f: (f.operators, f.outcome, f.case)):
                if found.outcome in asked.all.split(","):
                    names = " ".join(found.operators)
                    print(f"  {found.outcome:5} {names:24} {found.case}: {found.why}")
    return 0


def _judged(
    asked: argparse.Namespace, found: Sequence[Found]
) -> tuple[dict[str, dict[str, judging.Verdict]], judging.Agreement]:
    cases = [*all_cases(asked.work, asked.each, asked.seed or SEEDS)]
    told = {}
    for runtime in [r for r in asked.only or asking.TARGETS if r in all_rules()]:
        version = asking.version(runtime)
        key = (runtime, version, "plain")
        own = {f.case: f for f in found if (f.runtime, f.version, f.mode) == key}
        told[f"{runtime} {version}"] = judging.judge(cases, own, runtime)
    built = {f.case: f for f in found if (f.runtime, f.mode) == ("tensorrt-rtx", "plain")}
    return told, judging.against_parser(cases, built, asking.PARSER_TABLE)


def judge(asked: argparse.Namespace) -> int:
    """How well the rules name beforehand what the runtimes do; 1 when they miss too much."""
    judged, parser = _judged(asked, [*Kept(asked.work / "found.jsonl").read().values()])
    failed = bool(parser.table_only)
    for runtime, by_kind in judged.items():
        for kind, verdict in by_kind.items():
            print(f"{runtime}, {kind}: {verdict.line()}")
            if asked.all:
                print("".join(f"  missed {name}\n" for name in verdict.missed), end="")
                print("".join(f"  refused {name}\n" for name in verdict.wrongly), end="")
            failed |= verdict.named < 0.98 * verdict.bad or verdict.refused > 0.01 * verdict.right
    print(f"tensorrt-rtx: {parser.line()}")
    print("".join(f"  only the table {name}\n" for name in parser.table_only), end="")
    return int(failed)


def page(asked: argparse.Namespace) -> int:
    """Write docs/runtimes.md from what was found."""
    found = [*Kept(asked.work / "found.jsonl").read().values()]
    here = {runtime: asking.version(runtime) for runtime in asking.TARGETS}
    asked_now = {case.name for case in all_cases(asked.work, asked.each, asked.seed or SEEDS)}
    own = [one for one in found if here[one.runtime] == one.version and one.case in asked_now]
    text = pages.page(own, *_judged(asked, found), all_rules())
    (ROOT / "docs" / "runtimes.md").write_text(text, "utf-8")
    return 0


def keep(asked: argparse.Namespace) -> int:
    """Write the outcomes that are committed."""
    told = table.outcomes(Kept(asked.work / "found.jsonl").read().values())
    table.write(table.OUTCOMES_FILE, told)
    return 0


def diff(asked: argparse.Namespace) -> int:
    """What the runtimes that are here do otherwise than the committed outcomes; 1 if anything."""
    found = list(Kept(asked.work / "found.jsonl").read().values())
    told = table.outcomes(found)
    before = table.read(table.OUTCOMES_FILE)
    here = {r: v for r in asked.only or asking.TARGETS if (v := asking.version(r))}
    now = {key: value for key, value in told.items() if here.get(key[0]) == key[1]}
    lines = table.changes(before, now, {one.case: one.operators for one in found})
    lines += [f"{r} {v}: not asked yet" for r, v in here.items() if (r, v) not in now]
    print("\n".join(lines))
    return int(any(line.startswith("  ") for line in lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("what", choices=tuple(VERBS))
    parser.add_argument("--work", type=Path, default=WORK, help="where findings are kept")
    parser.add_argument("--only", action="append", choices=asking.TARGETS, help="this runtime")
    parser.add_argument("--cases", default="", help="cases whose name contains this")
    parser.add_argument("--mode", choices=("plain", "product"), default="product")
    parser.add_argument("--again", action="store_true", help="ask what was asked already too")
    parser.add_argument("--each", type=int, default=EACH, help="random draws of every operator")
    parser.add_argument("--seed", type=int, action="append", help="of the random draws")
    parser.add_argument("--all", default="", help="list these outcomes, such as wrong,late")
    asked = parser.parse_args(arguments)
    return VERBS[asked.what](asked)


#: what can be asked of the tool
VERBS = {"page": page, "judge": judge, "run": run, "show": show, "keep": keep, "diff": diff}


if __name__ == "__main__":
    raise SystemExit(main())
