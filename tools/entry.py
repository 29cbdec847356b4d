"""How a tool ends: with its exit code, or with what was wrong in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from edgemtl.errors import EdgemtlError


def run_tool(main: Callable[[], int]) -> NoReturn:
    """Run a tool as a program.

    Args:
        main: of the tool; returns the exit code.
    """
    try:
        raise SystemExit(main())
    except EdgemtlError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
