"""What this machine's processor has."""

from __future__ import annotations

import platform
from pathlib import Path

#: flags of processors that sum products of int8 in 32 bits at once
_WIDE_SUMS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}


def processor_name() -> str:
    """Name of this machine's processor, as the operating system tells it."""
    for line in _facts():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def host_flags() -> frozenset[str]:
    """Flags of this machine's processor; empty where there is no /proc/cpuinfo."""
    named = next((line for line in _facts() if line.startswith(("flags", "Features"))), "")
    return frozenset(named.partition(":")[2].split())


def vector_floats() -> int:
    """How many float32 one vector register holds: what kernels compute channels in blocks of."""
    flags = host_flags()
    if "avx512f" in flags:
        return 16
    return 8 if "avx" in flags else 4


def int8_sums_saturate() -> bool:
    """Whether int8 kernels here add pairs of products in 16 bits, which can be too few.

    x86-64 before VNNI multiplies unsigned by signed bytes and adds two neighbours in 16 bits
    (``vpmaddubsw``): two products of 255 and 127 do not fit, and stop at the largest value.
    """
    flags = host_flags()
    return "avx2" in flags and not flags & _WIDE_SUMS


def _facts() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
