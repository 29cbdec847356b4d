"""A console for tables in which any name may stand."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from edgemtl.sinks import table_line

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(file: IO[str] | None = None) -> Console:
    """A console that takes text as text.

    Rich reads ``[red]`` and ``:smile:`` in a text as orders, ends at a tag that nobody opened
    (``[/x]``), and lets escape sequences through. Colours are given as styles instead.

    Args:
        file: where to; standard output by default.
    """
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **how: Any) -> Text:
            lines = "\n".join(table_line(line) for line in text.split("\n"))
            return super().render_str(lines, **{**how, "markup": False, "emoji": False})

    return Plain(file=file)
