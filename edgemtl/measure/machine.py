"""Facts about the machine that a timing was taken on, as far as it tells."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgemtl.backends.processor import processor_name
from edgemtl.errors import InputRefused

_CPU = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_THERMAL = Path("/sys/class/thermal")


@dataclass(frozen=True)
class MachineFacts:
    """The machine at one moment; None where it does not tell.

    Attributes:
        cpu: name of the processor.
        cores: logical cores that this process may use.
        system: operating system and machine type.
        load_1min: load average of the last minute; above ``cores`` the timings compete.
        governor: CPU frequency governor.
        frequency_mhz: current clock of the first core.
        temperature_c: hottest thermal zone.
    """

    cpu: str
    cores: int
    system: str
    load_1min: float | None = None
    governor: str | None = None
    frequency_mhz: float | None = None
    temperature_c: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> MachineFacts:
        """Parse :meth:`to_dict`; InputRefused when fields are missing or of the wrong type."""
        try:
            governor = data.get("governor")
            return MachineFacts(
                cpu=str(data["cpu"]),
                cores=int(data["cores"]),
                system=str(data["system"]),
                load_1min=_number(data.get("load_1min")),
                governor=None if governor is None else str(governor),
                frequency_mhz=_number(data.get("frequency_mhz")),
                temperature_c=_number(data.get("temperature_c")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(f"facts of a machine are not readable: {error!r}") from error


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _temperature_c() -> float | None:
    readings = []
    for zone in _THERMAL.glob("thermal_zone*/temp"):
        text = _read(zone)
        if text is not None and text.lstrip("-").isdigit():
            readings.append(int(text) / 1000)
    # Broken sensors report -273 or 0; a running chip is warmer than freezing.
    plausible = [value for value in readings if 0 < value < 150]
    return max(plausible) if plausible else None


def machine_facts() -> MachineFacts:
    """Ask the operating system; what it does not tell is None."""
    frequency = _read(_CPU / "scaling_cur_freq")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return MachineFacts(
        cpu=processor_name(),
        cores=cores or 1,
        system=f"{platform.system()} {platform.machine()}",
        load_1min=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        governor=_read(_CPU / "scaling_governor"),
        frequency_mhz=int(frequency) / 1000 if frequency and frequency.isdigit() else None,
        temperature_c=_temperature_c(),
    )


def resident_bytes() -> int:
    """Memory of this process that is resident now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """Largest resident memory of this process so far.

    On Linux this is VmHWM. ``getrusage`` is no use there: its figure survives fork and exec, so a
    small worker would report the size of the large process that started it.
    """
    for line in (_read(Path("/proc/self/status")) or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import psutil

    info = psutil.Process().memory_info()
    return int(getattr(info, "peak_wset", info.rss))
