"""The tables of pruning without training, from the cells that bench_training_free.py kept."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemtl.files import write_text

#: what stands between these two lines of the page is made anew
BEGIN = "<!-- made by: python tools/bench_training_free.py table -->"
END = "<!-- end of what bench_training_free.py made -->"


def write_tables(work: Path, page: Path) -> None:
    """Write all models' tables into a page, between its two marks (at its end, the first time)."""
    lines = [BEGIN, ""]
    for folder in sorted(path for path in work.iterdir() if (path / "dense.json").is_file()):
        lines += model_lines(folder)
    text = page.read_text("utf-8") if page.is_file() else ""
    made = "\n".join([*lines, END])
    if BEGIN in text and END in text:
        before, _, rest = text.partition(BEGIN)
        text = before + made + rest.partition(END)[2]
    else:
        text = f"{text.rstrip()}\n\n{made}\n"
    write_text(page, text)


def model_lines(folder: Path) -> list[str]:
    """All tables of one model."""
    dense = json.loads((folder / "dense.json").read_text("utf-8"))
    found = [
        json.loads(path.read_text("utf-8"))
        for path in sorted(folder.glob("*.json"))
        if path.name != "dense.json" and not path.name.startswith(("cost-", "time-"))
    ]
    single = [one for one in found if one["cell"]["seed"] == 0 and not one["cell"]["target"]]
    tasks = list(dense["figures"])
    titles = [title_of(name, *dense["figures"][name]) for name in tasks]
    lines = [f"### `{folder.name}`, no training step", ""]
    head = ["method", "solved again", "MACs left", "params left", *titles, "worst drop"]
    head += ["oracle TMAC", "passes", "search s"]
    rows = [["dense", "", "100 %", "100 %", *(value_of(dense["accuracy"][t]) for t in tasks)]]
    rows[0] += [""] * 4
    for one in sorted(single, key=_order):
        rows.append([*_named(one), *figures_of(one, tasks), *_costs(one)])
    lines += [*markdown(head, rows), ""]
    lines += _seeds(found)
    lines += _latency_goals(found, tasks, titles)
    lines += _speeds(found)
    lines += _times(folder)
    lines += _oracle(folder)
    return lines


def _order(one: Mapping[str, Any]) -> tuple[Any, ...]:
    cell = one["cell"]
    return (-cell["share"], not cell["compensate"], not cell["labels"], _worst(one)[1])


def _worst(one: Mapping[str, Any]) -> tuple[str, float]:
    drops = {name: math.inf if drop is None else drop for name, drop in one["drops"].items()}
    name = max(drops, key=drops.__getitem__)
    return name, drops[name]


def worst_drop(one: Mapping[str, Any]) -> str:
    """The worst task's drop in words."""
    name, drop = _worst(one)
    return f"{_percent(drop)} ({name})"


def _percent(drop: float) -> str:
    return f"{100 * drop:+.1f} %" if math.isfinite(drop) else "all lost"


def _named(one: Mapping[str, Any]) -> list[str]:
    cell = one["cell"]
    method = cell["method"] + ("" if cell["labels"] else ", no labels")
    return [method, "yes" if cell["compensate"] else "no"]


def figures_of(one: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    """Cells of a row: what is left, every task's figure, the worst drop."""
    return [
        f"{100 * one['macs']:.1f} %",
        f"{100 * one['params']:.1f} %",
        *(value_of(one["accuracy"][task]) for task in tasks),
        worst_drop(one),
    ]


def _costs(one: Mapping[str, Any]) -> list[str]:
    cost = one["cost"]
    passes = cost.get("passes")
    return [
        f"{cost['macs'] / 1e12:.2f}",
        "" if passes is None else f"{passes:.1f}",
        f"{cost['seconds']:.0f}",
    ]


def _latency_goals(
    found: Iterable[Mapping[str, Any]], tasks: Sequence[str], titles: Sequence[str]
) -> list[str]:
    """Cells whose goal is a share of milliseconds."""
    rows = []
    for one in sorted((one for one in found if one["cell"]["target"]), key=_order):
        cell, last = one["cell"], one["latency"][-1]
        goal = f"{cell['share']:.0%} of the ms on {cell['target']}"
        ratio = f"{last['predicted']:.3f}, {last['ratio']:.3f} ± {last['half']:.3f}"
        rows.append([*_named(one), goal, ratio, str(len(one["latency"])), *figures_of(one, tasks)])
    if not rows:
        return []
    head = ["method", "solved again", "goal", "predicted, measured", "times measured", "MACs left"]
    head += ["params left", *titles, "worst drop"]
    return [*markdown(head, rows), ""]


def _times(folder: Path) -> list[str]:
    """Cells that were done with nothing shared."""
    rows = []
    for path in sorted(folder.glob("time-*.json")):
        one = json.loads(path.read_text("utf-8"))
        cell = one["cell"]
        rows.append(
            [
                cell["method"],
                f"{cell['share']:.0%}",
                f"{one['seconds']:.1f}",
                f"{one['processor_seconds']:.1f}",
                str(one["threads"]),
                f"{one['peak_mib']:.0f}",
                f"{one['passes']:.1f}",
            ]
        )
    if not rows:
        return []
    head = ["method", "MACs left", "s", "processor s", "threads", "peak MiB", "passes"]
    return ["From images to checkpoint, in a process of its own:", "", *markdown(head, rows), ""]


def _seeds(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Mean and spread of the worst drop where a cell was done with several seeds."""
    alike: dict[tuple[Any, ...], list[float]] = {}
    for one in found:
        cell = one["cell"]
        key = (cell["share"], cell["method"], cell["compensate"], cell["labels"], cell["target"])
        alike.setdefault(key, []).append(_worst(one)[1])
    rows = [
        [
            method + ("" if labels else ", no labels"),
            "yes" if solved else "no",
            f"{share:.0%}" + (f" of the ms on {target}" if target else ""),
            str(len(drops)),
            _percent(statistics.mean(drops)),
            f"{_percent(min(drops))} to {_percent(max(drops))}",
        ]
        for (share, method, solved, labels, target), drops in sorted(alike.items(), reverse=True)
        if len(drops) > 1
    ]
    if not rows:
        return []
    head = ["method", "solved again", "goal", "seeds", "mean of the worst drop", "from, to"]
    return [*markdown(head, rows), ""]


def _speeds(found: Iterable[Mapping[str, Any]]) -> list[str]:
    timed = [one for one in found if "speed" in one]
    if not timed:
        return []
    labels = list(timed[0]["speed"])
    head = ["method", "solved again", "MACs left", "worst drop", *labels]
    rows = []
    for one in sorted(timed, key=_order):
        speeds = [
            f"x{s['speedup']:.2f} ({s['low']:.2f}-{s['high']:.2f})"
            + ("" if s["stable"] else ", unstable")
            for s in (one["speed"][label] for label in labels)
        ]
        share = f"{100 * one['macs']:.1f} %"
        share += " (by ms)" if one["cell"]["target"] else ""
        rows.append([*_named(one), share, worst_drop(one), *speeds])
    return [
        "Measured, one thread, dense and pruned in turns, 95 % interval in brackets:",
        "",
        *markdown(head, rows),
        "",
    ]


def _oracle(folder: Path) -> list[str]:
    costs = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("cost-*.json"))]
    if not costs:
        return []
    head = ["method", "oracle TMAC", "s", "MACs left", "worst drop", "worst loss ratio"]
    rows = []
    for one in costs:
        rows.append(
            [
                one["method"],
                f"{one['cost']['macs'] / 1e12:.2f}",
                f"{one['seconds']:.0f}",
                f"{100 * one['macs']:.1f} %",
                worst_drop(one),
                f"{max(one['loss_ratio'].values()):.3f}",
            ]
        )
    first = costs[0]
    return [
        f"At the same budgets (every loss at most {first['budget']:g} of the dense one), both on "
        f"{first['images']} held-out images:",
        "",
        *markdown(head, rows),
        "",
    ]


def title_of(task: str, label: str, unit: str) -> str:
    """Of the column of a task's figure."""
    named = label if label.lower().startswith(task) else f"{task} {label}"
    return f"{named} {unit}".strip()


def value_of(value: float | None) -> str:
    """A task's figure as text."""
    return "none" if value is None else f"{value:.3f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
