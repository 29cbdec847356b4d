"""What the device says about itself; a fact it does not tell is None, never a guess."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any


def _text(path: str) -> str | None:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.strip("\x00\n ") or None


def _number(path: str) -> int | None:
    try:
        return int(_text(path) or "")
    except ValueError:
        return None


def _field(path: str, key: str) -> str | None:
    """Value of the first ``key : value`` line."""
    for line in (_text(path) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _memory_bytes() -> int | None:
    kilobytes = (_field("/proc/meminfo", "MemTotal") or "").split()
    return int(kilobytes[0]) * 1024 if kilobytes and kilobytes[0].isdigit() else None


def clocks() -> dict[str, Any]:
    """Clock and temperature now: taken before and after a measurement.

    Returns:
        ``cpu_mhz`` per core and ``temperature_c`` per thermal zone, as far as the device tells.
    """
    cores = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    kilohertz = [_number(str(path)) for path in sorted(cores)]
    zones: dict[str, float] = {}
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        value = _number(f"{zone}/temp")
        if value is not None:
            zones[f"{zone.name}:{_text(f'{zone}/type') or 'zone'}"] = value / 1000
    return {
        "cpu_mhz": [value / 1000 for value in kilohertz if value is not None] or None,
        "temperature_c": zones or None,
    }


def device_facts() -> dict[str, Any]:
    """The machine, its processor, memory and software; no host or user name."""
    usable: list[int] = []
    if hasattr(os, "sched_getaffinity"):
        usable = sorted(os.sched_getaffinity(0))
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "release": platform.release(),
        "board": _text("/proc/device-tree/model"),
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor() or None,
        "cores": os.cpu_count(),
        "cores_usable": len(usable) or None,
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_bytes": _memory_bytes(),
        "python": platform.python_version(),
    }


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024
