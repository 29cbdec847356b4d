"""How artefacts are run: one rule for everything that opens one."""

from __future__ import annotations

from edgemtl.backends.types import SessionOptions
from edgemtl.targets import Target


def session_options(target: Target, threads: int) -> SessionOptions:
    """Threads as asked, in the precision that the target computes in."""
    return SessionOptions(threads, str(target.options.get("precision_hint", "f32")))
