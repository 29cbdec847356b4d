"""Two runs side by side as text: for the console, and for a comment under a change."""

from __future__ import annotations

from edgemtl.gates.regression import Change, RegressionReport
from edgemtl.report.figures import Figure, nothing, percent, plain, scaled_figures
from edgemtl.report.markdown import markdown_table, safe
from edgemtl.report.texttables import TextRow, TextTable, aligned, simple
from edgemtl.report.verdict import State
from edgemtl.sinks import shown

#: what a reader sees for each status, and how it is coloured
WORDS: dict[str, tuple[str, State]] = {
    "pass": ("pass", "pass"),
    "improved": ("improved", "pass"),
    "fail": ("worse than allowed", "fail"),
    "new": ("new", "none"),
    "missing": ("missing", "not-measured"),
    "unknown": ("unknown", "not-measured"),
    "unstable": ("unstable", "unstable"),
    "reported": ("not judged", "none"),
}
#: what a comment under a change begins with, so that the next one can replace it
MARK = "<!-- edgemtl regression -->"


def state(change: Change) -> State:
    """How the figure stands; one that may stay unjudged is no failure."""
    word = WORDS[change.status][1]
    return "allowed" if word in ("not-measured", "unstable") and change.ok else word


def figures(change: Change) -> tuple[Figure, Figure, Figure]:
    """Before, after, and how much worse."""
    values, unit = [change.before, change.after], shown(change.unit)
    if change.name.startswith("regression.cost."):
        before, after = scaled_figures(values, unit, ["", ""], "nothing")
    else:
        before, after = (nothing(text="nothing") if v is None else plain(v, unit) for v in values)
    return before, after, amount(change)


def amount(change: Change) -> Figure:
    """How much worse in words; ``change.change`` as the value."""
    found = change.change
    if found is None:
        return nothing(text="unknown")
    if found == 0:
        return Figure(0.0, "unchanged")
    word = "worse" if found > 0 else "better"
    if not change.name.startswith("regression.tasks."):
        word = "more" if found > 0 else "less"
    return Figure(found, f"{percent(found)} {word}")


def short(change: Change) -> str:
    """The figure's name without its front part."""
    return change.name.removeprefix("regression.")


def verdict(report: RegressionReport) -> str:
    """One sentence."""
    worse = [short(c) for c in report.changes if c.status == "fail"]
    open_ = [short(c) for c in report.changes if not c.ok and c.status != "fail"]
    if not report.changes:
        return "There is nothing to compare."
    if worse:
        return f"Worse than allowed: {', '.join(worse)}."
    if open_:
        return f"Not known to be as good: {', '.join(open_)}."
    judged = [c for c in report.changes if c.limit is not None]
    return "Nothing got worse than allowed." if judged else "Compared; no limit was set."


def table(report: RegressionReport) -> TextTable:
    """One row per figure."""
    rows = []
    for change in report.changes:
        word = WORDS[change.status][0]
        if change.limit is not None:
            word += f" (at most {percent(change.limit)})"
        cells = (short(change), *(f.text for f in figures(change)), change.detail, word)
        rows.append(TextRow(cells, state(change)))
    return TextTable(
        ("figure", "before", "after", "change", "detail", "verdict"), tuple(rows), (1, 2, 3)
    )


def comparison_text(report: RegressionReport) -> str:
    """Plain lines for a terminal, a log or a pipe."""
    head = [f"before  {simple(report.before)}", f"after   {simple(report.after)}", ""]
    return "\n".join([*head, *aligned(table(report)), "", simple(verdict(report))]) + "\n"


def comparison_markdown(report: RegressionReport) -> str:
    """For a CI job's page, or a comment under a change."""
    sign = "✓" if report.passed else "✗"
    lines = [
        MARK,
        f"### {safe(report.after)}: compared with the baseline",
        "",
        f"**{sign} {safe(verdict(report))}**",
        "",
        *markdown_table(table(report)),
        "",
    ]
    if report.before != report.after:
        lines += [f"The baseline is {safe(report.before)}.", ""]
    return "\n".join(lines)
