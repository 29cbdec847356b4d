"""What ``inspect`` prints for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgemtl.report.designs import print_plan
from edgemtl.report.terminal import plain_console

if TYPE_CHECKING:
    from rich.console import Console


def print_inspection(
    found: Mapping[str, Any], every_module: bool = False, console: Console | None = None
) -> None:
    """Print :func:`edgemtl.pipeline.inspection.inspect_file`'s answer as tables.

    Args:
        found: the answer.
        every_module: and not only those near the top.
        console: where to; standard output by default.
    """
    from rich.table import Table

    console = console or plain_console()
    height, width = found["input"]["size"]
    console.print(f"{found['file']}: {found['kind']}", style="bold", highlight=False)
    if found["params"] is not None:
        console.print(
            f"{found['params']:,} parameters, {found['macs'] / 1e6:,.1f} M MACs at "
            f"{height}x{width} {found['input']['channel_order']}",
            highlight=False,
        )
    if folded := found.get("folded"):
        console.print(
            f"folded, as it is pruned and exported: {folded['params']:,} parameters, "
            f"{folded['macs'] / 1e6:,.1f} M MACs",
            highlight=False,
        )
    for mixture in found.get("mixtures", ()):
        console.print(
            f"router '{mixture['module']}' picks {mixture['picked']} of {mixture['of']}, but every "
            f"one of '{mixture['experts']}' is computed",
            highlight=False,
            markup=False,
        )
    table = Table(title="tasks")
    table.add_column("task")
    table.add_column("kind")
    table.add_column("outputs")
    alone = all("macs" in task for task in found["tasks"].values())
    if alone:
        table.add_column("parameters alone", justify="right")
        table.add_column("M MACs alone", justify="right")
    for name, task in found["tasks"].items():
        row = [name, task["kind"], ", ".join(task["outputs"])]
        if alone:
            row += [f"{task['params']:,}", f"{task['macs'] / 1e6:,.1f}"]
        table.add_row(*row)
    console.print(table)
    if "modules" in found:
        _print_modules(console, found, every_module)
    if "channels" in found:
        _print_channels(console, found["channels"])
    for name, answer in found.get("targets", {}).items():
        if answer["int8_runs_as_float"]:
            console.print(
                f"target {name}: int8 runs as float32: {answer['int8_runs_as_float']}", markup=False
            )
        if not answer["available"]:
            console.print(f"target {name}: not available here: {answer['reason']}", markup=False)
            continue
        if answer.get("plan"):
            print_plan(console, name, answer["plan"], every_module)
        if "refused" in answer:
            refused = answer["refused"]
            hint = f" -> {refused['hint']}" if refused.get("hint") else ""
            console.print(f"target {name}: refused: {refused['message']}{hint}", markup=False)
        if graph := answer.get("graph"):
            console.print(
                f"target {name}: the graph stores {graph['values']:,} values (norms folded into "
                f"layers, tables included) and costs {graph['macs'] / 1e6:,.1f} M MACs",
                highlight=False,
            )
        _print_problems(console, name, answer["problems"])


#: nodes that are named of those with one problem
MOST_NODES = 3


def _print_problems(console: Any, target: str, problems: Sequence[Mapping[str, Any]]) -> None:
    """What the target cannot run or runs otherwise, equal sentences once with their nodes."""

    def told(line: str) -> None:
        # Reasons are the words of runtimes: brackets in them are no markup.
        console.print(line, markup=False, highlight=False)

    fatal = sum(bool(problem["fatal"]) for problem in problems)
    if not problems:
        told(f"target {target}: runs everything as written")
    elif fatal:
        told(f"target {target}: refuses {fatal} of the graph's nodes")
    else:
        told(f"target {target}: runs everything, with something to know")
    by_sentence: dict[tuple[Any, ...], list[str]] = {}
    for problem in problems:
        key = (problem["op"], problem["fatal"], problem["reason"], problem["advice"])
        by_sentence.setdefault(key, []).append(problem["node"])
    for (op, is_fatal, reason, advice), nodes in by_sentence.items():
        named = [node for node in nodes if node]
        more = f" and {len(named) - MOST_NODES} more" if len(named) > MOST_NODES else ""
        where = ", ".join(f"'{node}'" for node in named[:MOST_NODES]) + more
        subject = " ".join(part for part in (op, where) if part)
        sign = "refused" if is_fatal else "note"
        told(f"  {sign}: {f'{subject}: ' if subject else ''}{reason} -> {advice}")


def _print_modules(console: Any, found: Mapping[str, Any], every_module: bool) -> None:
    from rich.table import Table

    table = Table(title="modules" if every_module else "modules (--modules shows all)")
    table.add_column("module")
    table.add_column("kind")
    table.add_column("parameters", justify="right")
    table.add_column("M MACs", justify="right")
    table.add_column("share", justify="right")
    for module in found["modules"]:
        if every_module or module["module"].count(".") <= 1:
            share = module["macs"] / found["macs"] if found["macs"] else 0.0
            table.add_row(
                module["module"] or "(network)",
                module["kind"],
                f"{module['parameters']:,}",
                f"{module['macs'] / 1e6:,.1f}",
                f"{share:.1%}",
            )
    console.print(table)


def _print_channels(console: Any, channels: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table(title="channels that can be cut")
    table.add_column("group", overflow="fold")
    table.add_column("units", justify="right")
    table.add_column("channels of a unit", justify="right")
    table.add_column("tasks")
    for group in channels["groups"]:
        table.add_row(
            group["name"],
            str(group["units"]),
            str(group["channels_per_unit"]),
            ", ".join(group["tasks"]),
        )
    console.print(table)
    table = Table(title="channels that cannot be cut")
    table.add_column("module", overflow="fold")
    table.add_column("channels", justify="right")
    table.add_column("MACs", justify="right")
    table.add_column("because")
    for one in channels["whole"]:
        share = f"{one['macs_share']:.1%}"
        table.add_row(one["module"] or "(network)", str(one["channels"]), share, one["reason"])
    console.print(table)
    console.print(
        f"{channels['whole_macs_share']:.1%} of the multiply-accumulates write channels that "
        "cannot be cut",
        highlight=False,
    )
    for multiple, share in channels["lowest_macs_share"].items():
        widths = "any width" if multiple == "1" else f"widths in multiples of {multiple}"
        console.print(
            f"with every group at its narrowest, {widths}: {share:.1%} of the "
            "multiply-accumulates are left",
            highlight=False,
        )
