"""What of the code a stage's result depends on, as one hash.

A result kept by the cache is only as good as the code that made it. A hash over all of our source
is safe and throws an hour of pruning away when a docstring of the exporter changes. A version that
each stage declares keeps the hour, and answers for code that is gone on the day somebody forgets to
raise it. So the key is taken from the code itself:

- of the modules that the stage's own module imports, and what these import in turn, wherever in a
  file the import stands, and whether it is written as an import or as the name of a module that
  another process is to run. An import for the type checker alone does not count.
- of their syntax trees without docstrings and without what stands under ``if TYPE_CHECKING``;
  comments and layout are not in a tree to begin with.
- where a registry's table names modules, of those that the run really uses: the caller names the
  network's, the backend's and the tasks' (``_BUILT_IN`` itself does not lead on);
- of the files of other kinds beside them (C++ sources, say), byte by byte;
- of the versions of the tools that they import (:data:`TOOLS`);
- of another package's module, its tree and the version of its distribution, if it has one: what
  is installed from a checkout changes without another version.

A change that cannot matter may still change the key (a renamed variable does); one that matters,
and is not hidden from a reader of the imports, always does.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import (
    PackageNotFoundError,
    distributions,
    packages_distributions,
    version,
)
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "edgemtl"
ROOT = Path(__file__).parents[1]
#: imported name -> distribution, of packages whose version can change a result
TOOLS = {
    "cv2": "opencv-python-headless",
    "nncf": "nncf",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "onnxslim": "onnxslim",
    "openvino": "openvino",
    "scipy": "scipy",
    "tensorrt_rtx": "tensorrt-rtx",
    "torch": "torch",
    "torch_pruning": "torch-pruning",
    "tvm": "apache-tvm",
}
#: tables of a registry, from which one entry is used
_TABLE = "_BUILT_IN"


@lru_cache(maxsize=256)
def code_key(*modules: str) -> str:
    """SHA-256 of the code that these modules use, as this process finds it.

    Args:
        modules: names; the stage's own, and those of the network, the backend and the tasks that
            the run uses. Order and repetition do not matter.
    """
    return key_from(ROOT, frozenset(modules))


def key_from(root: Path, modules: frozenset[str]) -> str:
    """The same for our package as it lies in ``root``."""
    digest = hashlib.sha256()
    tools: set[str] = set()
    files = reached(root, modules)
    for name, path in sorted(files.items()):
        read = _source(name, path)
        tools |= read.imports & TOOLS.keys()
        digest.update(f"{name} {read.tree}\n".encode())
    folders = {path.parent for path in files.values()}
    for path in sorted(file for folder in folders for file in _others(folder)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root)} {content}\n".encode())
    for tool in sorted(tools):
        digest.update(f"{tool} {_version(TOOLS[tool])}\n".encode())
    for name in sorted(modules):
        if not _ours(name):
            digest.update(f"{name} {_foreign(name)}\n".encode())
    return digest.hexdigest()


def reached(root: Path, modules: frozenset[str]) -> dict[str, Path]:
    """Our modules that these ones use, themselves included: name -> file."""
    found: dict[str, Path] = {}
    pending = [name for name in modules if _ours(name)]
    while pending:
        name = pending.pop()
        path = _file(root, name)
        if name in found or path is None:
            continue
        found[name] = path
        pending += _source(name, path).imports
        # Importing a module runs the packages that it lies in.
        pending.append(name.rpartition(".")[0])
    return found


def _ours(name: str) -> bool:
    return name.partition(".")[0] == PACKAGE


def _file(root: Path, name: str) -> Path | None:
    """The file of one of our modules or packages; None for anything else."""
    if not _ours(name):
        return None
    place = root.joinpath(*name.split(".")[1:])
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


@dataclass(frozen=True)
class _Read:
    """What a source file says.

    Attributes:
        tree: hash of its syntax tree without docstrings.
        imports: of ours the full names of what it imports (some are names inside modules, which are
            no files), of others the packages.
    """

    tree: str
    imports: frozenset[str]


def _source(name: str, path: Path) -> _Read:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return _read(path, package, path.stat().st_mtime_ns)


@lru_cache(maxsize=2048)
def _read(path: Path, package: str, changed_ns: int) -> _Read:
    tree = ast.parse(path.read_bytes(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
        elif isinstance(node, ast.If) and _for_types_alone(node):
            node.body = []
    imports = frozenset(_imports(tree, tuple(package.split("."))))
    return _Read(hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports)


def _drop_docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> None:
    first = node.body[0] if node.body else None
    match first:
        case ast.Expr(value=ast.Constant(value=str())):
            del node.body[0]


def _for_types_alone(node: ast.If) -> bool:
    """Whether its first branch is for a type checker, which alone takes it."""
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imports(node: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    match node:
        case ast.Assign(targets=[ast.Name(id=target)]) if target == _TABLE:
            return
        case ast.AnnAssign(target=ast.Name(id=target)) if target == _TABLE:
            return
        case ast.Import():
            for alias in node.names:
                yield alias.name if _ours(alias.name) else alias.name.partition(".")[0]
        case ast.ImportFrom():
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            if _ours(base):
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)
            else:
                yield base.partition(".")[0]
        case ast.Constant(value=str(text)) if text.startswith(f"{PACKAGE}."):
            yield text  # a module that a child process runs; other texts are no files
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, package)


@lru_cache(maxsize=256)
def _others(folder: Path) -> tuple[Path, ...]:
    """Files of other kinds in a package's folder, and in its folders that are no packages."""
    found: list[Path] = []
    for path in folder.iterdir():
        if path.is_dir():
            if path.name != "__pycache__" and not (path / "__init__.py").is_file():
                found += _others(path)
        elif path.suffix not in (".py", ".pyc") and path.name != "py.typed":
            found.append(path)
    return tuple(found)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "absent"


@lru_cache(maxsize=4)
def _distributions(path: tuple[str, ...]) -> Mapping[str, Sequence[str]]:
    """Imported name -> distributions, for one state of ``sys.path``.

    Asked once for it, since the answer takes a look at every file that is installed.
    """
    return packages_distributions()


def _installed(package: str) -> bool:
    """Whether any distribution lies beside a package; beside a user's own file none does."""
    spec = sys.modules[package].__spec__ if package in sys.modules else find_spec(package)
    if spec is None:
        return False
    inside = spec.submodule_search_locations
    place = Path(next(iter(inside))).parent if inside else Path(spec.origin or "").parent
    return next(iter(distributions(path=[str(place)])), None) is not None


def _foreign(name: str) -> str:
    """What tells one state of another package's module from the next."""
    package = name.partition(".")[0]
    owners = _distributions(tuple(sys.path)).get(package, ()) if _installed(package) else ()
    versions = " ".join(f"{owner}={version(owner)}" for owner in sorted(owners))
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file is None:
        spec = find_spec(name)
        file = None if spec is None else spec.origin
    if file is None or not Path(file).is_file():
        return f"{versions} absent"
    return f"{versions} {_source(name, Path(file)).tree}"
