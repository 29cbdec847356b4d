"""Cases that ``make test`` takes a few of, and ``make test-matrix`` the rest (CONTRIBUTING.md)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def only(kept: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """Cases for ``parametrize``: all but ``kept`` get the marker ``matrix``; tuples are spread.

    Raises:
        ValueError: one of ``kept`` is no case, or none of the cases is kept.
    """
    cases, kept = list(cases), list(kept)
    if not kept or any(one not in cases for one in kept):
        raise ValueError(f"kept are {kept}, the cases {cases}")
    return [
        case
        if case in kept
        else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.matrix)
        for case in cases
    ]
