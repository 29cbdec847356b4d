"""What the machine did while something was timed: clock, temperature, throttling, power.

Readings are taken between timed runs, never in one and by no thread of their own: a monitor that
runs beside the measurement is a load of its own, and shows up as spikes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemtl.errors import InputRefused

#: seconds between two readings
INTERVAL_SECONDS = 0.5
_ROOT = Path("/sys")
#: a counter that wrapped, or a sensor that was swapped, gives no power
_MOST_WATTS = 10_000.0


@dataclass(frozen=True)
class Reading:
    """The machine at one moment; None where it does not tell.

    Attributes:
        seconds: of a monotonic clock, for differences.
        frequency_mhz: mean clock of all cores.
        temperature_c: hottest thermal zone.
        throttle_count: how often cores and packages have throttled since the system started.
        energy_j: energy counter of the processor package (RAPL), where it may be read.
        power_w: sum of the power sensors of the board (hwmon), where there are any.
    """

    seconds: float
    frequency_mhz: float | None = None
    temperature_c: float | None = None
    throttle_count: int | None = None
    energy_j: float | None = None
    power_w: float | None = None


@dataclass(frozen=True)
class Telemetry:
    """A series of readings in a few figures; None where the machine did not tell.

    Attributes:
        readings: how many.
        seconds: from the first to the last.
        frequency_min_mhz, frequency_max_mhz: of the mean clock.
        temperature_first_c, temperature_max_c: of the hottest zone.
        throttled: how often it throttled meanwhile.
        power_w: mean, from the energy counter or else from the sensors.
    """

    readings: int
    seconds: float
    frequency_min_mhz: float | None = None
    frequency_max_mhz: float | None = None
    temperature_first_c: float | None = None
    temperature_max_c: float | None = None
    throttled: int | None = None
    power_w: float | None = None

    @property
    def problem(self) -> str:
        """Why timings taken meanwhile may not be quoted; empty when nothing speaks against it."""
        if not self.throttled:
            return ""
        return f"the processor throttled {self.throttled} times meanwhile"

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Telemetry:
        """Parse ``asdict``; InputRefused when fields are missing or of the wrong type."""
        try:
            figures = {
                key: None if data[key] is None else float(data[key])
                for key in Telemetry.__dataclass_fields__
                if key not in ("readings", "seconds", "throttled")
            }
            throttled = data["throttled"]
            return Telemetry(
                readings=int(data["readings"]),
                seconds=float(data["seconds"]),
                throttled=None if throttled is None else int(throttled),
                **figures,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(f"telemetry is not readable: {error!r}") from error


def read_machine(root: Path = _ROOT) -> Reading:
    """Read what the kernel shows in files; takes well under a millisecond."""
    clocks = _numbers(root, "devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    heat = [v / 1000 for v in _numbers(root, "class/thermal/thermal_zone*/temp")]
    # Broken sensors report -273 or 0; a running chip is warmer than freezing.
    plausible = [v for v in heat if 0 < v < 150]
    throttles = _numbers(root, "devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")
    energies = _numbers(root, "class/powercap/intel-rapl:[0-9]/energy_uj")
    powers = _numbers(root, "class/hwmon/hwmon*/power*_input")
    return Reading(
        time.monotonic(),
        sum(clocks) / len(clocks) / 1000 if clocks else None,
        max(plausible) if plausible else None,
        int(sum(throttles)) if throttles else None,
        sum(energies) / 1e6 if energies else None,
        sum(powers) / 1e6 if powers else None,
    )


def _numbers(root: Path, pattern: str) -> list[float]:
    found = []
    for path in root.glob(pattern):
        try:
            found.append(float(path.read_text("ascii")))
        except (OSError, ValueError):
            continue
    return found


def summarise_readings(readings: Sequence[Reading]) -> Telemetry | None:
    """A series of readings in a few figures; None when there is none."""
    if not readings:
        return None
    first, last = readings[0], readings[-1]
    clocks = [r.frequency_mhz for r in readings if r.frequency_mhz is not None]
    heat = [r.temperature_c for r in readings if r.temperature_c is not None]
    throttled = None
    if first.throttle_count is not None and last.throttle_count is not None:
        throttled = max(0, last.throttle_count - first.throttle_count)
    return Telemetry(
        len(readings),
        last.seconds - first.seconds,
        min(clocks, default=None),
        max(clocks, default=None),
        first.temperature_c,
        max(heat, default=None),
        throttled,
        _power(readings),
    )


def _power(readings: Sequence[Reading]) -> float | None:
    first, last = readings[0], readings[-1]
    if first.energy_j is not None and last.energy_j is not None and last.seconds > first.seconds:
        watts = (last.energy_j - first.energy_j) / (last.seconds - first.seconds)
        if 0 < watts < _MOST_WATTS:
            return watts
    powers = [r.power_w for r in readings if r.power_w is not None]
    return sum(powers) / len(powers) if powers else None


class Recorder:
    """Takes a reading at the start, and another one whenever enough time has passed."""

    def __init__(self, root: Path = _ROOT) -> None:
        self._root = root
        self.readings = [read_machine(root)]

    def between_runs(self, force: bool = False) -> None:
        """Called between two timed runs; reads only when it is time to."""
        if force or time.monotonic() - self.readings[-1].seconds >= INTERVAL_SECONDS:
            self.readings.append(read_machine(self._root))

    def to_list(self) -> list[dict[str, Any]]:
        """Plain data: the worker's answer."""
        return [asdict(reading) for reading in self.readings]


def readings_from(data: Sequence[Mapping[str, Any]]) -> list[Reading]:
    """Parse :meth:`Recorder.to_list`."""
    return [Reading(**row) for row in data]
