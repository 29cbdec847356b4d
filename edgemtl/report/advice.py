"""What to do next when a run is not good enough."""

from __future__ import annotations

from collections.abc import Iterator

from edgemtl.gates.judge import GateOutcome
from edgemtl.record.rundata import RunData


def next_steps(run: RunData) -> tuple[str, ...]:
    """Instructions, most useful first; empty when there is nothing to do."""
    gates: dict[str, list[str]] = {}
    for outcome in run.gates.outcomes if run.gates else ():
        if not outcome.ok:
            gates.setdefault(_for_gate(outcome, run), []).append(outcome.name)
    steps = [f"{', '.join(names)}: {advice}" for advice, names in gates.items()]
    return (*dict.fromkeys(_after_a_failure(run)), *steps)


def _after_a_failure(run: RunData) -> Iterator[str]:
    facts = run.run
    if facts is None:
        return
    if facts.error and facts.error.hint:
        hint = facts.error.hint
        yield f"{hint[0].upper()}{hint[1:]}."
    for index, stage in enumerate(facts.stages):
        if stage.status == "failed":
            log = f"stages/{index + 1:02d}-{stage.name}/log.txt"
            yield (
                f"Read {log} in the run folder, then run the same command again: "
                "finished stages are taken from the cache."
            )


def _for_gate(outcome: GateOutcome, run: RunData) -> str:
    front = outcome.name.rpartition(".")[0]
    if outcome.status == "unstable":
        return (
            "the timings moved while they were taken. Stop other work on the device, let it cool, "
            "and run again with a longer [bench] seconds."
        )
    if outcome.status == "not-measured":
        allow = f'[gates] allow_not_measured = ["{front}"]'
        return f"{_measure_it(front)}, or allow that nothing is measured: {allow}."
    if front.startswith("tasks."):
        return _save_the_task(front.removeprefix("tasks."), run)
    if front == "latency":
        return (
            "'Where the work goes' names the costly modules; a smaller network, a lower precision "
            "or another target makes it faster. Change [gates.latency] only if the application can "
            "wait."
        )
    return "the result is larger than allowed. Ask for more compression, or change [gates.cost]."


def _measure_it(front: str) -> str:
    if front.startswith("tasks."):
        return "name pictures that are labelled for this task in [data] root"
    if front == "latency":
        return "measure on the device itself ('edgemtl bench')"
    return "make sure that the cost of both networks could be counted (cost.json)"


def _save_the_task(task: str, run: RunData) -> str:
    broken = [row for row in run.parity or () if row.task == task and row.verdict == "fail"]
    change = f"or change [gates.tasks.{task}] if the application can take it."
    if broken:
        forms = f"{broken[0].before} and {broken[0].after}"
        return (
            f"its outputs differ between {forms}, so the loss comes from there: "
            "'edgemtl parity A B --bisect' names the first layer that differs."
        )
    changes = [changed for changed in (run.pruning, run.quantisation) if changed]
    costly = sorted(
        (row for changed in changes for row in changed.rows if row.drops.get(task, 0) > 0),
        key=lambda row: (-row.drops[task], row.name),
    )
    if costly:
        return f"'{costly[0].name}' costs this task most; leave it as it was, {change}"
    if changes:
        return f"compress less or train longer afterwards, {change}"
    return (
        "nothing was compressed, so compare the forms of the network with 'edgemtl parity', "
        f"{change}"
    )
