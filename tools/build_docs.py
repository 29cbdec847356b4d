"""Builds docs/api/ from the public docstrings of the package: one Markdown page per module.

Reads the source without importing it, so that it needs no package and runs nothing. The pages are
not committed; ``make docs`` writes them.

    python tools/build_docs.py [--output docs/api]
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "edgemtl"

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
#: headings that a docstring's sections start with
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Note|Class attributes[^:]*):$")
#: ``:meth:`` and its like, in front of a name in backquotes
_ROLE = re.compile(r":(meth|class|func|mod|data|attr):(?=`)")


@dataclass(frozen=True)
class Module:
    """One source file.

    Attributes:
        name: dotted name.
        path: its file.
        tree: its syntax tree.
    """

    name: str
    path: Path
    tree: ast.Module


def modules(package: Path = PACKAGE) -> list[Module]:
    """All public modules of a package, sorted by name; ``_private.py`` and its like are left out.

    Raises:
        SyntaxError: a file is not Python.
    """
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not any(part.startswith("_") for part in parts):
            tree = ast.parse(path.read_text("utf-8"), filename=str(path))
            found.append(Module(".".join(parts), path, tree))
    return sorted(found, key=lambda module: module.name)


def public(body: list[ast.stmt]) -> Iterator[Definition]:
    """The classes and functions of a module or class whose names have no underscore in front."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node


def undocumented(package: Path = PACKAGE) -> list[str]:
    """Dotted names of public modules, classes and functions without a docstring.

    Methods are not counted: most of them override one that is documented where it is declared.
    """
    missing = []
    for module in modules(package):
        if ast.get_docstring(module.tree) is None:
            missing.append(module.name)
        for node in public(module.tree.body):
            if ast.get_docstring(node) is None:
                missing.append(f"{module.name}.{node.name}")
    return missing


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """``name(arguments) -> result`` as written in the source, on one line."""
    result = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"{node.name}({ast.unparse(node.args)}){result}"


def markdown(docstring: str) -> str:
    """A docstring as Markdown: its sections become bold headings over bullet lists."""
    lines: list[str] = []
    in_section = False
    for line in inspect.cleandoc(docstring).splitlines():
        if _SECTION.match(line):
            in_section = True
            lines += [f"**{line[:-1]}**", ""]
        elif in_section and line.startswith("    "):
            # Deeper lines continue the entry above them.
            continued = line.startswith("     ")
            lines.append(f"  {line.strip()}" if continued else f"- {line.strip()}")
        else:
            in_section = in_section and not line
            lines.append(line)
    return _ROLE.sub("", "\n".join(lines)).replace("``", "`").rstrip() + "\n"


def page(module: Module) -> str:
    """The Markdown page of a module."""
    parts = [f"# `{module.name}`\n", markdown(ast.get_docstring(module.tree) or "")]
    for node in public(module.tree.body):
        parts.append(_section(node, level=2))
        if isinstance(node, ast.ClassDef):
            parts += [_section(method, level=3) for method in public(node.body)]
    return "\n".join(parts)


def _section(node: Definition, level: int) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        title = f"class {node.name}({bases})" if bases else f"class {node.name}"
    else:
        title = signature(node)
    return f"{'#' * level} `{title}`\n\n{markdown(ast.get_docstring(node) or '')}"


def build(output: Path, package: Path = PACKAGE) -> list[Path]:
    """Write all pages and their index into ``output``, less pages of modules that are gone.

    Returns:
        The files written, the index first.
    """
    pages = modules(package)
    output.mkdir(parents=True, exist_ok=True)
    for stale in output.glob(f"{package.name}*.md"):
        stale.unlink()
    index = ["# Modules\n", "Built from the docstrings by `make docs`.\n"]
    written = []
    for module in pages:
        path = output / f"{module.name}.md"
        path.write_text(page(module), "utf-8")
        written.append(path)
        first_line = markdown(ast.get_docstring(module.tree) or "").partition("\n")[0]
        index.append(f"- [`{module.name}`]({path.name}): {first_line}")
    index_path = output / "index.md"
    index_path.write_text("\n".join(index) + "\n", "utf-8")
    return [index_path, *written]


def main(arguments: list[str] | None = None) -> int:
    """Build the pages and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "api")
    written = build(parser.parse_args(arguments).output)
    print(f"{len(written)} pages, start at {written[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
