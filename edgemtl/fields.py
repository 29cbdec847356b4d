"""Keys of recipes, targets and limits that every type checker reads rightly."""

from __future__ import annotations

from typing import Any

from pydantic import Field


def entry(default: Any, **more: Any) -> Any:
    """A Pydantic field with this default; ``more`` is for ``Field``.

    A type checker without Pydantic's plugin takes ``x: int | None = Field(None, ge=1)`` for a value
    that must be given: of a field specifier it reads ``default=`` alone (PEP 681). Any other call
    it takes for the default.
    """
    return Field(default, **more)
