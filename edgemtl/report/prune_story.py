"""What pruning did, as a table and as sentences."""

from __future__ import annotations

from statistics import median

from edgemtl.record.prune_story import PruneStory
from edgemtl.report.texttables import TextRow, TextTable

#: groups left whole that a sentence names; the page has them all
NAMED = 3


def cost_table(story: PruneStory) -> TextTable:
    """Which group cost which task how much, as text."""
    timed = any(group.latency_ms is not None for group in story.groups)
    several = len({group.round for group in story.groups}) > 1
    tasks = story.tasks
    headers = (
        *(("round",) if several else ()),
        *("group", "before", "after", "MACs saved"),
        *(("ms saved",) if timed else ()),
        *tasks,
        "stopped by",
    )
    cells = [
        (
            *((str(group.round),) if several else ()),
            group.name,
            f"{group.before:.0f}",
            f"{group.after:.0f}",
            "" if group.macs is None else f"{group.macs:.2%}",
            *(("" if group.latency_ms is None else f"{group.latency_ms:.3f}",) if timed else ()),
            *(f"{group.rises[task]:+.2%}" if task in group.rises else "" for task in tasks),
            group.stopped_by,
        )
        for group in story.groups
    ]
    first = 1 if several else 0
    numeric = tuple(range(first + 1, len(headers) - 1))
    return TextTable(headers, tuple(TextRow(row, "pass") for row in cells), numeric)


def sentences(story: PruneStory) -> list[str]:
    """What came of it."""
    lines = []
    for share, words in ((story.macs, "multiply-accumulates"), (story.params, "parameters")):
        if share is not None:
            lines.append(f"{share:.1%} of the {words} kept")
    if story.latency:
        predicted, measured, half = story.latency[-1]
        noise = "unknown" if story.noise is None else f"{story.noise:.1%}"
        lines.append(
            f"latency on {story.target or 'the target'}: {measured:.1%} of the dense network's "
            f"measured (+- {half:.1%}), {predicted:.1%} predicted; noise of the table {noise}"
        )
    if story.compensated:
        shares = [one.explained for one in story.compensated]
        least = min(story.compensated, key=lambda one: one.explained)
        lines.append(
            f"compensation: {len(shares)} layers re-solved, the kept channels give back "
            f"{median(shares):.0%} of what was removed from their outputs (median), least in "
            f"{least.weight} ({least.explained:.0%})"
        )
    for round_ in dict.fromkeys(one.round for one in story.after_cut):
        told = [
            f"{one.name} {one.drop:+.2%}"
            for one in story.after_cut
            if one.round == round_ and one.drop is not None
        ]
        if told:
            lines.append(
                f"round {round_}, held-out drop after the cut, before training: {', '.join(told)}"
            )
    for number_, drops in enumerate(story.recoveries, 1):
        last = ", ".join(f"{task} {points[-1][1]:+.2%}" for task, points in drops.items())
        if last:
            lines.append(f"round {number_}, held-out drop at the last evaluation: {last}")
    if story.whole:
        named = [f"{name} ({why})" if why else name for name, why in story.whole.items()]
        more = f", and {len(named) - NAMED} more" if len(named) > NAMED else ""
        lines.append(f"left whole as asked: {', '.join(named[:NAMED])}{more}")
    return [*lines, *story.reach, *story.refused, *story.notes]
