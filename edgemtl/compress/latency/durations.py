"""How long something takes, in words that are never nothing."""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """Seconds rounded up, or minutes: "1 s" at least."""
    if seconds < 90:
        return f"{max(math.ceil(seconds), 1)} s"
    return f"{seconds / 60:.1f} min"
