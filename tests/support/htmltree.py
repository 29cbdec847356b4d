"""A strict reading of an HTML page as a tree: every tag must be closed by its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "link", "img", "br", "wbr", "hr", "input"}
#: elements of inline SVG that may close themselves
_SHAPES = {"rect", "line", "circle", "path"}


@dataclass
class Element:
    """One element; ``parts`` holds its text and children in order."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    parts: list[str | Element] = field(default_factory=list)

    def __iter__(self) -> Iterator[Element]:
        """This element and all below it, in the order of the page."""
        yield self
        for part in self.parts:
            if isinstance(part, Element):
                yield from part

    def all(self, *tags: str) -> list[Element]:
        """All elements of these tags."""
        return [element for element in self if element.tag in tags]

    @property
    def text(self) -> str:
        """Its text with that of its children, white space collapsed."""
        return " ".join(self._raw().split(" ")).strip()

    def _raw(self) -> str:
        found = (p if isinstance(p, str) else p._raw() for p in self.parts)
        return "".join(found).replace("\n", " ")

    def above(self, tag: str) -> Element | None:
        """The nearest element of this tag around it."""
        found = self.parent
        while found is not None and found.tag != tag:
            found = found.parent
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = self.root

    def _add(self, tag: str, attributes: list[tuple[str, str | None]]) -> Element:
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        element = Element(tag, {k: v or "" for k, v in attributes}, self.open)
        self.open.parts.append(element)
        return element

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = self._add(tag, attrs)
        if tag not in _VOID:
            self.open = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _SHAPES, f"<{tag}/> does not close itself in HTML"
        self._add(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.tag == tag, f"</{tag}> closes <{self.open.tag}>"
        assert self.open.parent is not None
        self.open = self.open.parent

    def handle_data(self, data: str) -> None:
        self.open.parts.append(data)


def parse(html: str) -> Element:
    """The page's root; AssertionError when a tag is not closed, or not by its own."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open is reader.root, f"<{reader.open.tag}> is never closed"
    return reader.root
