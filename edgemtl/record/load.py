"""Read a run folder. Any file may be missing or broken; what is there is still shown.

The folder's files and their layouts are in ``docs/run-folder.md``. They are data to be shown:
nothing in them is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgemtl.errors import EdgemtlError, InputRefused
from edgemtl.gates.judge import GateReport
from edgemtl.measure.accuracy import AccuracyReport
from edgemtl.measure.results import Comparison, LatencyResult
from edgemtl.measure.statistics import Ratio
from edgemtl.record.designs import parse_plan
from edgemtl.record.mask_story import read_masks
from edgemtl.record.prune_story import read_changes
from edgemtl.record.run_record import RUN, is_later, refuse_unreadable
from edgemtl.record.rundata import (
    Accuracy,
    Change,
    Changes,
    CostFacts,
    Failure,
    LayerFacts,
    ModelFacts,
    NodeFacts,
    ParityRow,
    Picture,
    RunData,
    RunFacts,
    StageFacts,
    TargetFacts,
    TaskMetrics,
)
from edgemtl.record.untrusted import (
    NAMELESS,
    integer,
    number,
    numbers,
    read_object,
    rows,
    table,
    text,
    texts,
)
from edgemtl.sinks import shown
from edgemtl.tasks.base import MetricSpec

__all__ = ["RunData", "load_run"]

T = TypeVar("T")

COST_FIGURES = ("macs", "parameters", "activation_bytes", "peak_activation_bytes", "size_bytes")
#: more pairs than this make a page that no phone opens
MOST_PICTURES = 12
MOST_PICTURE_BYTES = 32 << 20


def load_run(folder: Path) -> RunData:
    """Read what a run left, whole or not.

    Raises:
        InputRefused: the folder is not there, holds none of the files of a run, or was written by
            a later version.
    """
    if not folder.is_dir():
        raise InputRefused("there is no such run folder", where=str(folder))
    _refuse_later(folder / RUN)
    problems: list[str] = []

    def load(name: str, parse: Callable[[Mapping[str, Any]], T], expected: bool = True) -> T | None:
        path = folder / name
        if not path.is_file():
            if expected:
                problems.append(f"{name} is missing")
            return None
        try:
            return parse(_readable(path))
        except EdgemtlError as error:
            problems.append(shown(f"{name}: {error.message}"))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problems.append(shown(f"{name} does not have the expected form: {error!r}"))
        return None

    identical = (folder / "bench" / "identical.json").is_file()
    skipped = load("bench/skipped.json", lambda data: text(data, "reason"), expected=False)
    alone = identical or skipped is not None
    costs = load("cost.json", lambda data: (_cost(data, "reference"), _cost(data, "artefact")))
    run = RunData(
        folder=shown(folder.resolve().name),
        run=load("run.json", lambda data: _run(data, _stage_notes(folder / "stages"))),
        accuracy=load("accuracy.json", _accuracy),
        cost_before=costs[0] if costs else None,
        cost_after=costs[1] if costs else None,
        parity=load("parity.json", _parity),
        latency_before=load("bench/reference.json", LatencyResult.from_dict, not alone),
        latency_after=load("bench/artefact.json", LatencyResult.from_dict, skipped is None),
        comparison=load("bench/comparison.json", Comparison.from_dict, not alone),
        against_float=load("bench/precision.json", _ratio, expected=False),
        layers=load("bench/layers.json", _layers, expected=False) or (),
        design=load("modelled.json", parse_plan, expected=False),
        not_timed=skipped or "",
        identical=identical,
        gates=load("gates.json", GateReport.from_dict),
        pruning=load("prune.json", read_changes, expected=False),
        masks=load("mask.json", read_masks, expected=False),
        quantisation=load("quantize.json", _quantisation, expected=False),
        pictures=_pictures(folder / "pictures"),
        problems=tuple(problems),
    )
    if not (folder / "run.json").exists() and not any(folder.glob("*.json")):
        raise InputRefused(
            "this folder holds no run",
            where=str(folder),
            hint="name a folder that 'edgemtl compile' wrote",
        )
    return run


def _refuse_later(path: Path) -> None:
    """Half of what a later version meant would be shown as the whole."""
    try:
        data = read_object(path)
    except InputRefused:
        return  # missing or broken: what else is there is shown, and this said of it
    if is_later(data):
        refuse_unreadable(data, str(path))


def _readable(path: Path) -> Mapping[str, Any]:
    data = read_object(path)
    if is_later(data):
        refuse_unreadable(data, path.name)
    return data


def _run(data: Mapping[str, Any], notes: Mapping[str, tuple[str, ...]]) -> RunFacts:
    model, target = table(data, "model"), table(data, "target")
    bundle = table(data, "bundle")
    return RunFacts(
        name=text(data, "name"),
        command=" ".join(texts(data, "command")),
        model=ModelFacts(
            text(model, "path"),
            text(model, "family"),
            text(model, "variant"),
            text(model, "source_sha256"),
            integer(model, "parameters"),
        ),
        target=TargetFacts(
            *(text(target, key) for key in ("name", "backend", "device", "description"))
        ),
        recipe=table(data, "recipe"),
        stages=tuple(
            StageFacts(
                text(row, "name") or NAMELESS,
                text(row, "status"),
                number(row, "seconds"),
                text(row, "key"),
                notes.get(text(row, "name"), ()),
            )
            for row in rows(data, "stages")
        ),
        versions={shown(k): text(table(data, "versions"), k) for k in table(data, "versions")},
        machine={shown(k): text(table(data, "machine"), k) for k in table(data, "machine")},
        started_utc=text(data, "started_utc"),
        status=text(data, "status"),
        exit_code=integer(data, "exit_code"),
        error=_failure(data),
        bundle=text(bundle, "path") if bundle else text(data, "bundle"),
    )


def _failure(data: Mapping[str, Any]) -> Failure | None:
    error = table(data, "error")
    if error:
        return Failure(*(text(error, key) for key in ("message", "where", "hint")))
    message = text(data, "error")
    return Failure(message) if message else None


def _metric(data: Mapping[str, Any]) -> MetricSpec:
    key, direction = text(data, "key"), text(data, "direction")
    if not key or direction not in ("higher", "lower"):
        raise InputRefused("a metric has no key or no direction")
    return MetricSpec(
        key,
        text(data, "label") or key,
        "higher" if direction == "higher" else "lower",
        text(data, "unit"),
    )


def _accuracy(data: Mapping[str, Any]) -> Accuracy:
    def report(key: str) -> AccuracyReport | None:
        found = table(data, key)
        return AccuracyReport.from_dict(found) if found else None

    metrics = table(data, "metrics")
    return Accuracy(
        {
            shown(task): TaskMetrics(
                _metric(table(table(metrics, task), "primary")),
                tuple(_metric(row) for row in rows(table(metrics, task), "secondary")),
                _metric(found) if (found := table(table(metrics, task), "classes")) else None,
            )
            for task in metrics
        },
        report("reference"),
        report("artefact"),
    )


def _cost(data: Mapping[str, Any], side: str) -> CostFacts | None:
    found = table(data, side)
    if not found:
        return None
    figures = {key: number(found, key) for key in COST_FIGURES}
    return CostFacts(
        {key: value for key, value in figures.items() if value is not None},
        tuple(
            NodeFacts(
                text(row, "name") or text(row, "node") or NAMELESS,
                text(row, "op"),
                text(row, "module"),
                max(number(row, "macs") or 0.0, 0.0),
                max(number(row, "parameters") or 0.0, 0.0),
            )
            for row in rows(found, "per_node")
        ),
        texts(found, "uncounted"),
        {k: v for k in ("macs", "parameters") if (v := number(table(found, "network"), k))},
    )


def _layers(data: Mapping[str, Any]) -> tuple[LayerFacts, ...]:
    """``{"backend": ..., "layers": [LayerTime.to_dict(), ...]}``."""
    return tuple(
        LayerFacts(
            text(row, "layer") or NAMELESS,
            text(row, "kind"),
            texts(row, "nodes"),
            max(number(row, "ms") or 0.0, 0.0),
        )
        for row in rows(data, "layers")
    )


def _parity(data: Mapping[str, Any]) -> tuple[ParityRow, ...]:
    """``ChainReport.to_dict()``: every form of the network against the first."""
    stages = table(data, "stages")
    found = []
    for stage in stages:
        report = table(stages, stage)
        for position, row in enumerate(rows(report, "outputs")):
            relative, allowed = number(row, "max_relative"), number(report, "max_relative_allowed")
            over = allowed is not None and (relative is None or relative > allowed)
            note = text(row, "problem")
            if not note and over and row.get("ok") is True:
                note = "over the tolerance, which only informs at this precision"
            found.append(
                ParityRow(
                    text(report, "reference") or text(data, "reference"),
                    shown(stage),
                    position,
                    text(row, "name") or NAMELESS,
                    text(row, "task"),
                    number(row, "max_abs"),
                    relative,
                    number(row, "snr_db"),
                    # anything but a plain true is no agreement
                    "pass" if row.get("ok") is True else "fail",
                    note,
                )
            )
    return tuple(found)


def _ratio(data: Mapping[str, Any]) -> Ratio:
    found = data["speedup"]
    value, low, high = (float(found[key]) for key in ("value", "low", "high"))
    return Ratio(value, low, high, found["stable"] is True, text(found, "reason"))


def _quantisation(data: Mapping[str, Any]) -> Changes:
    """``{"precision": ..., "layers": [{"name", "precision", "drops": {task: share}}, ...]}``.

    Beside them ``notes``, and ``choice`` with its ``reason`` and ``rejected`` where the precision
    was chosen by measuring.
    """
    choice = table(data, "choice")
    rejected = table(choice, "rejected")
    notes = [f"{text(data, 'precision')} was chosen: {text(choice, 'reason')}"] if choice else []
    notes += [f"not {shown(name)}: {text(rejected, name)}" for name in rejected]
    return Changes(
        text(data, "precision"),
        tuple(
            Change(
                text(row, "name") or NAMELESS,
                None,
                None,
                text(row, "precision"),
                numbers(row, "drops"),
            )
            for row in rows(data, "layers")
        ),
        (*notes, *texts(data, "notes")),
    )


def _stage_notes(folder: Path) -> dict[str, tuple[str, ...]]:
    """Stage name -> what it told, from ``stages/NN-name/stage.json``."""
    found = {}
    for path in sorted(folder.glob("*/stage.json")):
        try:
            data = read_object(path)
        except InputRefused:
            continue
        found[text(data, "name")] = texts(data, "notes")
    return found


def _pictures(folder: Path) -> tuple[Picture, ...]:
    if not folder.is_dir():
        return ()
    names: dict[str, None] = {}
    for path in sorted(folder.glob("*.png")):
        for side in (".before.png", ".after.png"):
            if path.name.endswith(side):
                names[path.name.removesuffix(side)] = None
    return tuple(
        Picture(
            name, _picture(folder / f"{name}.before.png"), _picture(folder / f"{name}.after.png")
        )
        for name in list(names)[:MOST_PICTURES]
    )


def _picture(path: Path) -> bytes | None:
    # A link could lead anywhere on this machine, and the page is made to be sent to others.
    if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_PICTURE_BYTES:
        return None
    return path.read_bytes()
