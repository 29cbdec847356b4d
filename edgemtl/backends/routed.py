"""Several networks behind a router, as one artefact and one session, for every backend.

``routing.json`` stands in for the one file that a backend compiles or opens. It names a router,
whose only output is a row of probabilities per picture, the full network and the prototypes. The
host runs the router, then the network it names; a picture that the router is not sure about goes
to the full network. Networks are loaded when first needed, and their weights lie once, in one file,
where the backend can read them so. The networks may run batches: pictures for the same network are
run together.

The runner that ships in a bundle reads the same file (``devices/runner/runtimes/routed.py``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, Variant
from edgemtl.errors import StageFailed

if TYPE_CHECKING:
    from edgemtl.targets import Target

ROUTING = "routing.json"
#: probabilities closer than this are not told apart: rounding may choose another network
CLOSE = 1e-3
FORMAT = 1
ROUTE = "route"
MAX_BYTES = 1 << 20
#: folder of an artefact's networks that share a file of weights
NETWORKS = "networks"


@dataclass(frozen=True)
class Part:
    """The compiled artefact of the router or of a network.

    Attributes:
        folder: name of its folder; networks that share weights share it.
        files: in it, the one to open first.
        facts: of the artefact.
    """

    folder: str
    files: tuple[str, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Routing:
    """What ``routing.json`` says.

    Attributes:
        input_shape: (B, 3, H, W) of the whole.
        outputs: names, in order.
        threshold: probability below which the full network answers.
        router: name of the router's file or part.
        networks: names of the networks, the full one first, then those the router's columns mean.
        parts: name -> its compiled artefact; empty before compilation.
    """

    input_shape: tuple[int, ...]
    outputs: tuple[str, ...]
    threshold: float
    router: str
    networks: tuple[str, ...]
    parts: Mapping[str, Part]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "format": FORMAT,
            "input_shape": list(self.input_shape),
            "outputs": list(self.outputs),
            "threshold": self.threshold,
            "router": self.router,
            "networks": list(self.networks),
            "parts": {
                name: {"folder": part.folder, "files": list(part.files), "facts": dict(part.facts)}
                for name, part in self.parts.items()
            },
        }

    def choose(self, probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        """(B,) index into ``networks`` for (B, prototypes) probabilities.

        What is not a number is not sure, so the full network answers it.
        """
        sure = probabilities.max(axis=1) >= self.threshold
        return np.where(sure, probabilities.argmax(axis=1) + 1, 0).astype(np.int64)


def read_routing(path: Path) -> Routing:
    """Read and check ``routing.json``.

    Raises:
        StageFailed: it is missing or not as it should be.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StageFailed(f"cannot read: {error.strerror}", where=path.name) from error
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError("it is too large")
        data = json.loads(raw)
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']}")
        routing = Routing(
            tuple(int(v) for v in data["input_shape"]),
            tuple(str(v) for v in data["outputs"]),
            float(data["threshold"]),
            _plain_name(data["router"]),
            tuple(_plain_name(v) for v in data["networks"]),
            {
                _plain_name(name): Part(
                    _plain_name(part.get("folder", name)),
                    tuple(_plain_name(f) for f in part["files"]),
                    dict(part["facts"]),
                )
                for name, part in data["parts"].items()
            },
        )
        if len(routing.networks) < 2 or len(routing.input_shape) != 4:
            raise ValueError("a network or the input is missing")
        if not 0 <= routing.threshold < 2:
            raise ValueError("the threshold")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StageFailed(f"the routing is not readable ({error})", where=path.name) from error
    return routing


def _plain_name(value: Any) -> str:
    """A file's name without a folder.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(value, str) or Path(value).name != value or value in ("", ".", ".."):
        raise ValueError(f"'{str(value)[:80]}' is not a plain file name")
    return value


def compile_routed(
    backend: str,
    compile_one: Callable[[Path, Target, Path], Artefact],
    gather: Callable[[Mapping[str, Artefact], Path], dict[str, Artefact]] | None,
    path: Path,
    target: Target,
    folder: Path,
) -> Artefact:
    """Compile the router and every network; the networks share weights where that can be done.

    Args:
        backend: name of the backend that compiles each.
        compile_one: compiles an ONNX file for a target into an empty folder.
        gather: puts the weights of several artefacts into one file; None where that cannot be.
        path: ``routing.json`` beside the ONNX files it names.
        target: what for.
        folder: exists and is empty.

    Raises:
        StageFailed: a file is missing or does not compile.
    """
    routing = read_routing(path)
    names = {name: Path(name).stem for name in (routing.router, *routing.networks)}
    made: dict[str, Artefact] = {}
    for onnx_name, name in names.items():
        (folder / name).mkdir()
        made[name] = compile_one(path.with_name(onnx_name), target, folder / name)
    networks = tuple(names[name] for name in routing.networks)
    if gather is not None:
        (folder / NETWORKS).mkdir()
        made |= gather({name: made[name] for name in networks}, folder / NETWORKS)
        for name in networks:
            shutil.rmtree(folder / name)
    parts = {name: Part(a.folder.name, a.files, a.facts) for name, a in made.items()}
    files = [f"{part.folder}/{file}" for part in parts.values() for file in part.files]
    compiled = Routing(
        routing.input_shape,
        routing.outputs,
        routing.threshold,
        names[routing.router],
        networks,
        parts,
    )
    text = json.dumps(compiled.to_dict(), indent=1, sort_keys=True)
    (folder / ROUTING).write_text(text, "utf-8")
    return Artefact(
        backend,
        target.name,
        folder,
        (ROUTING, *dict.fromkeys(files)),
        all(one.reproducible for one in made.values()),
        parts[networks[0]].facts,
        tuple(_variant(name, parts[name], routing.outputs) for name in networks),
    )


def _variant(name: str, part: Part, outputs: tuple[str, ...]) -> Variant:
    """A network alone, without the router."""
    files = tuple(f"{part.folder}/{file}" for file in part.files)
    return Variant(name, "prototype", files, outputs, part.facts)


def load_routed(artefact: Artefact, load_part: Callable[[Artefact], Session]) -> Session:
    """Load the router now and each network when it is first needed.

    Args:
        artefact: of :func:`compile_routed`.
        load_part: loads the artefact of the router or of a network.
    """
    routing = read_routing(artefact.folder / ROUTING)

    def load(name: str) -> Session:
        if name not in routing.parts:
            raise StageFailed(f"the routing names no files of '{name}'", where=ROUTING)
        part = routing.parts[name]
        place = artefact.folder / part.folder
        return load_part(
            Artefact(artefact.backend, artefact.target, place, part.files, facts=part.facts)
        )

    return routed_session(routing, load)


def routed_session(routing: Routing, load: Callable[[str], Session]) -> Session:
    """A session over anything that can load the networks by name."""

    class RoutedSession(Session):
        """Runs the router, then what it names.

        Attributes:
            chosen: pictures that each network answered so far.
        """

        def __init__(self) -> None:
            super().__init__(routing.input_shape, routing.outputs)
            self._router = load(routing.router)
            self._loaded: dict[int, Session] = {}
            self.chosen = dict.fromkeys(routing.networks, 0)

        def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            size = self._router.input_shape[0]
            looked = [
                next(iter(self._router.run(part).values()))[:count]
                for part, count in _chunks(images, size)
            ]
            choice = routing.choose(np.concatenate(looked))
            answers: dict[str, NDArray[np.float32]] = {}
            for index in np.unique(choice).tolist():
                network = self._network(index)
                mine = np.flatnonzero(choice == index)
                self.chosen[routing.networks[index]] += len(mine)
                done = 0
                for part, count in _chunks(images[mine], network.input_shape[0]):
                    for name, value in network.run(part).items():
                        if len(images) == 1:
                            answers[name] = value[:1]
                            continue
                        if name not in answers:
                            answers[name] = np.empty((len(images), *value.shape[1:]), value.dtype)
                        answers[name][mine[done : done + count]] = value[:count]
                    done += count
            return {name: answers[name] for name in routing.outputs}

        def _network(self, index: int) -> Session:
            if index not in self._loaded:
                self._loaded[index] = load(routing.networks[index])
            return self._loaded[index]

        def close(self) -> None:
            for session in (self._router, *self._loaded.values()):
                session.close()
            self._loaded.clear()

    return RoutedSession()


def _chunks(images: NDArray[np.float32], size: int) -> list[tuple[NDArray[np.float32], int]]:
    """Batches of exactly ``size`` with the number of pictures that count; the last repeats one."""
    found = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        count = len(part)
        if count < size:
            part = np.concatenate([part, np.repeat(part[-1:], size - count, axis=0)])
        found.append((np.ascontiguousarray(part), count))
    return found
