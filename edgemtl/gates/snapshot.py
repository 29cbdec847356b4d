"""The figures of one run, small enough to be committed: what a later run is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgemtl.errors import InputRefused
from edgemtl.measure.statistics import summarise

FORMAT = "edgemtl-baseline"
VERSION = 1
#: more timings than this make a file that nobody wants in a repository; taken evenly in order
MOST_SAMPLES = 1000
COST_KEYS = ("macs", "parameters", "size_bytes")


@dataclass(frozen=True)
class TaskFigure:
    """One figure of merit.

    Attributes:
        value: None where there was nothing to measure.
        direction: ``higher`` or ``lower``: which way is better.
        primary: whether the task is judged by it.
    """

    value: float | None
    direction: str
    label: str = ""
    unit: str = ""
    primary: bool = False


@dataclass(frozen=True)
class LatencySamples:
    """Timings of the artefact, with what makes them comparable.

    Attributes:
        samples_ms: in the order taken, at most :data:`MOST_SAMPLES` of them.
        machine: name of the processor; other machines' timings are no baseline.
        threads: that the runtime was given.
        kind: ``measured`` or another word for what is no measurement.
        stable: whether they may be quoted.
        reason: one sentence when not stable.
    """

    samples_ms: tuple[float, ...]
    machine: str
    threads: int
    kind: str = "measured"
    stable: bool = True
    reason: str = ""


@dataclass(frozen=True)
class Snapshot:
    """All figures of a run.

    Attributes:
        name: of the network and its target.
        tasks: task -> figure -> value.
        data: what accuracy was measured on, per task as one set: name and number of pictures.
        images: pictures evaluated; None when nothing was.
        cost: ``macs``, ``parameters``, ``size_bytes``; what was not counted is absent.
        latency: None when not measured.
        source: where it came from: hashes, versions, time; shown, never compared.
    """

    name: str
    tasks: Mapping[str, Mapping[str, TaskFigure]] = field(default_factory=dict)
    data: str = ""
    images: int | None = None
    cost: Mapping[str, float] = field(default_factory=dict)
    latency: LatencySamples | None = None
    source: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; equal figures give equal text."""
        data = asdict(self)
        if self.latency is not None:
            data["latency"]["samples_ms"] = [round(v, 4) for v in self.latency.samples_ms]
        return {"format": FORMAT, "version": VERSION, **data}

    @staticmethod
    def from_dict(data: Mapping[str, Any], where: str) -> Snapshot:
        """Parse :meth:`to_dict`.

        Raises:
            InputRefused: not a baseline, of another version, or not of the right form.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise InputRefused(
                "this is not a baseline",
                where=where,
                hint="'edgemtl gate RUN --save-baseline FILE' writes one",
            )
        if data.get("version") != VERSION:
            raise InputRefused(
                f"baseline version {data.get('version')!r} is not known here",
                where=where,
                hint="write the baseline again with this version",
            )
        try:
            latency = data["latency"]
            images = data["images"]
            return Snapshot(
                name=str(data["name"]),
                tasks={
                    str(task): {str(key): _figure(row) for key, row in rows.items()}
                    for task, rows in data["tasks"].items()
                },
                data=str(data["data"]),
                images=None if images is None else int(images),
                cost={str(key): _number(value) for key, value in data["cost"].items()},
                latency=None if latency is None else _latency(latency),
                source={str(key): str(value) for key, value in data["source"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputRefused(f"the baseline is not readable: {error!r}", where=where) from error


def thinned(samples_ms: Sequence[float]) -> tuple[float, ...]:
    """At most :data:`MOST_SAMPLES` of the timings, evenly over the run, in order."""
    if len(samples_ms) <= MOST_SAMPLES:
        return tuple(samples_ms)
    step = len(samples_ms) / MOST_SAMPLES
    return tuple(samples_ms[int(index * step)] for index in range(MOST_SAMPLES))


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number


def _figure(row: Mapping[str, Any]) -> TaskFigure:
    direction = row["direction"]
    if direction not in ("higher", "lower"):
        raise ValueError(f"direction {direction!r}")
    value = row["value"]
    return TaskFigure(
        None if value is None else _number(value),
        direction,
        str(row["label"]),
        str(row["unit"]),
        bool(row["primary"]),
    )


def _latency(data: Mapping[str, Any]) -> LatencySamples:
    samples = tuple(_number(value) for value in data["samples_ms"])
    summarise(samples)  # none, or negative ones, are refused
    return LatencySamples(
        samples,
        str(data["machine"]),
        int(data["threads"]),
        str(data["kind"]),
        bool(data["stable"]),
        str(data["reason"]),
    )
