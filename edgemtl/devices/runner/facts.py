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


def _memory_bytes(key: str = "MemTotal") -> int | None:
    kilobytes = (_field("/proc/meminfo", key) or "").split()
    return int(kilobytes[0]) * 1024 if kilobytes and kilobytes[0].isdigit() else None


def memory_available_bytes() -> int | None:
    """Memory that a new program can have without swapping."""
    return _memory_bytes("MemAvailable")


def jetpack(root: str = "/") -> str | None:
    """Release of the board's system image as it writes it itself; None where it is no Jetson."""
    line = _text(f"{root}etc/nv_tegra_release")
    return line.splitlines()[0].lstrip("# ") if line else None


def jetson_state(root: str = "/") -> dict[str, Any]:
    """Power mode, GPU clock and power rails of a Jetson now; each None where it does not tell.

    Args:
        root: of the file system, with a slash at its end.

    Returns:
        ``power_mode`` (number of ``nvpmodel``), ``gpu_mhz``, ``power_w`` per rail of the INA3221.
    """
    mode = (_text(f"{root}var/lib/nvpmodel/status") or "").rpartition(":")[2]
    gpus = sorted(Path(f"{root}sys/class/devfreq").glob("*gpu*/cur_freq"))
    gpus += sorted(Path(f"{root}sys/class/devfreq").glob("*gv11b*/cur_freq"))
    hertz = _number(str(gpus[0])) if gpus else None
    rails: dict[str, float] = {}
    drivers = Path(f"{root}sys/bus/i2c/drivers/ina3221")
    for label in sorted(drivers.glob("*/hwmon/hwmon*/in*_label")):
        channel = label.name[len("in") : -len("_label")]
        millivolts = _number(str(label.with_name(f"in{channel}_input")))
        milliamperes = _number(str(label.with_name(f"curr{channel}_input")))
        name = _text(str(label))
        if name and millivolts is not None and milliamperes is not None:
            rails[name] = millivolts * milliamperes / 1e6
    return {
        "power_mode": int(mode) if mode.strip().isdigit() else None,
        "gpu_mhz": None if hertz is None else hertz / 1e6,
        "power_w": rails or None,
    }


def clocks() -> dict[str, Any]:
    """Clock and temperature now: taken before and after a measurement.

    Returns:
        ``cpu_mhz`` per core, ``temperature_c`` per thermal zone and ``throttle_count`` of all cores
        since the device started, as far as it tells, and what :func:`jetson_state` says.
    """
    cores = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    kilohertz = [_number(str(path)) for path in sorted(cores)]
    counters = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    throttles = [value for path in counters for value in [_number(str(path))] if value is not None]
    zones: dict[str, float] = {}
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        value = _number(f"{zone}/temp")
        if value is not None:
            zones[f"{zone.name}:{_text(f'{zone}/type') or 'zone'}"] = value / 1000
    return {
        "cpu_mhz": [value / 1000 for value in kilohertz if value is not None] or None,
        "temperature_c": zones or None,
        "throttle_count": sum(throttles) if throttles else None,
        **jetson_state(),
    }


def throttled(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Why timings between two looks at the clocks may not be quoted; empty when they may."""
    counts = before.get("throttle_count"), after.get("throttle_count")
    if counts[0] is None or counts[1] is None or counts[1] <= counts[0]:
        return ""
    return f"the processor throttled {counts[1] - counts[0]} times meanwhile"


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
        "jetpack": jetpack(),
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
