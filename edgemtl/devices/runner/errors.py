"""Exit codes and the one exception of the runner; the codes are those of ``edgemtl.errors``."""

from __future__ import annotations

OK = 0
UNEXPECTED = 1
USAGE = 2
INPUT_REFUSED = 3
STAGE_FAILED = 4
UNAVAILABLE = 8
UNSTABLE = 9
VERIFICATION = 10


class RunnerError(Exception):
    """One sentence for the user and the exit code it leaves with.

    Args:
        code: one of the constants of this module.
        message: what was wrong and where.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
