"""Text that others chose, made fit for each place that it is written to: one function per place.

Names of tasks, families, modules and files are input. A control character among them can order a
terminal about, ends a JUnit file's being XML, and a line break can begin a command of a CI service.
Names that a network stores are checked when it is loaded (:func:`check_name`); what cannot be
refused, a path above all, is cleaned where it is written. Pages need one rule more, which Jinja's
autoescaping keeps.
"""

from __future__ import annotations

import re

from edgemtl.errors import InputRefused

#: characters of the name of a task, a family, a kind or an output
MOST_IN_NAME = 128
#: characters of the dotted name of a weight
MOST_IN_PATH = 512
#: characters of one line of an error, or of a table's cell
MOST_IN_LINE = 2000
#: longest text that a page or a table shows; longer ones are cut
MOST_CHARACTERS = 4000
#: marks that turn the direction of text and so can make a name read as another one
_DIRECTION_MARKS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_UNSHOWN = {
    code: "\ufffd"
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        *range(0xD800, 0xE000),
        0xFFFE,
        0xFFFF,
        *map(ord, _DIRECTION_MARKS),
    )
    if chr(code) not in "\n\t"
}
#: what begins an order to a CI service: GitHub's ``::error`` and ``##[group]``, Azure's ``##vso[``
_ORDER = re.compile(r"^\s*:(?=:)|#(?=#\[|#vso\[)")
_ORDER_IN_JSON = re.compile(r"#(?=#\[|#vso\[)")
#: what Markdown, its tables and HTML act on
_ACTIVE = re.compile(r"([\\`*_{}\[\]<>|~&$])")
#: what code hosts turn into mentions of people and of issues; a backslash does not stop that
_LINKED = re.compile(r"([@#])(?=\w)")


def check_name(name: str, what: str, most: int = MOST_IN_NAME) -> str:
    """Return a stored name when every place can show it.

    Args:
        name: of a task, a family, an output or a weight.
        what: says which, for the message.
        most: characters that it may have.

    Raises:
        InputRefused: empty, too long, or with a character that is not printable.
    """
    if not name or len(name) > most or not name.isprintable():
        raise InputRefused(
            f"{what} is no name: {cut(repr(name), 60)}",
            hint=f"names are 1 to {most} printable characters",
        )
    return name


def cut(text: str, most: int) -> str:
    """The beginning of a text, with an ellipsis where something is missing."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def terminal(text: str, most: int = MOST_IN_LINE) -> str:
    """One line for a terminal or a CI log: no line break, control character or order to a CI."""
    # Not all of it is looked at when most of it is thrown away: an error may quote a whole file.
    words = " ".join(text[: 8 * most].split())
    return _ORDER.sub(lambda found: f"{found[0]} ", cut(_plain(words), most))


def json_text(text: str) -> str:
    """The same JSON without an order to a CI service: a ``#`` stands in strings alone."""
    return _ORDER_IN_JSON.sub("\\\\u0023", text)


def table_line(text: str) -> str:
    """The same for a line whose columns stand under each other: spaces stay."""
    return _ORDER.sub(lambda found: f"{found[0]} ", cut(_plain(text), MOST_CHARACTERS))


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def ci_message(text: str) -> str:
    """The message of a GitHub workflow command."""
    plain = shown(text).replace("\t", " ")
    return plain.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def ci_property(text: str) -> str:
    """The value of a property of a GitHub workflow command."""
    return ci_message(text).replace(":", "%3A").replace(",", "%2C")


def junit(text: str) -> str:
    """Text of a JUnit file: what XML 1.0 (section 2.2) can hold, and of bounded length."""
    return shown(text)


def html(text: str) -> str:
    """Text of a page; ``<`` and its kind are escaped by Jinja's autoescaping."""
    return shown(text)


def markdown(text: str) -> str:
    """One line that Markdown shows as it is, in a table's cell too."""
    plain = shown(text).replace("\n", " ").replace("\t", " ")
    return _LINKED.sub("\\1\u200b", _ACTIVE.sub(r"\\\1", plain))


def shown(text: str) -> str:
    """A text without control characters and direction marks, cut to a length fit to print."""
    kept = text[: MOST_CHARACTERS + 1].translate(_UNSHOWN)
    return kept if len(kept) <= MOST_CHARACTERS else f"{kept[:MOST_CHARACTERS]}…"
