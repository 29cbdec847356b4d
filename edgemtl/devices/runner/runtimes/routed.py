"""Several networks behind a router; the product's ``backends/routed.py``, in plain Python.

``routing.json`` lies beside the folders of the router and the networks. A picture that the router
is not sure about goes to the full network, the first; networks are loaded when first needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import INPUT_REFUSED, RunnerError
from . import Session
from . import load as load_one

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
ROUTE = "route"


class RoutedSession(Session):
    """Runs the router, then the network it names, one picture at a time.

    Attributes:
        chosen: runs that each network answered so far.
    """

    def __init__(self, routing: Mapping[str, Any], folder: str, opened: tuple[Any, ...]) -> None:
        super().__init__()
        self._folder, self._opened = folder, opened
        self._outputs = list(routing["outputs"])
        self._threshold = float(routing["threshold"])
        self._networks = [_plain(name) for name in routing["networks"]]
        self._files = {
            name: _place(name, routing["parts"][name])
            for name in [*self._networks, _plain(routing["router"])]
        }
        self._router = self._open(_plain(routing["router"]), [ROUTE])
        self._loaded: dict[str, Session] = {}
        self.chosen = dict.fromkeys(self._networks, 0)
        self.runtime, self.version = self._router.runtime, self._router.version
        self.facts = {"networks": self._networks, "chosen": self.chosen, **self._router.facts}

    def _open(self, name: str, outputs: Sequence[str]) -> Session:
        backend, device, threads, hint = self._opened
        path = str(Path(self._folder, self._files[name]))
        return load_one(backend, path, device, threads, hint, outputs)

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """See :meth:`Session.run`; one picture."""
        if len(images) != 1:
            raise RunnerError(INPUT_REFUSED, "a routed bundle runs one picture at a time")
        probabilities = self._router.run(images)[ROUTE][0]
        best = int(probabilities.argmax())
        # what is not a number is not sure
        sure = bool(probabilities[best] >= self._threshold)
        name = self._networks[best + 1 if sure else 0]
        if name not in self._loaded:
            self._loaded[name] = self._open(name, self._outputs)
        self.chosen[name] += 1
        return self._loaded[name].run(images)


def _plain(value: Any) -> str:
    """A name without a folder.

    Raises:
        ValueError: anything else; what is in a bundle may name only files beside itself.
    """
    if not isinstance(value, str) or Path(value).name != value or value in ("", ".", ".."):
        raise ValueError(f"'{str(value)[:80]}' is not a plain file name")
    return value


def _place(name: str, part: Mapping[str, Any]) -> str:
    """The file of a network, relative to the folder of ``routing.json``."""
    return f"{_plain(part.get('folder', name))}/{_plain(part['files'][0])}"


def load(
    backend: str,
    model: str,
    device: str,
    threads: int,
    precision_hint: str,
    outputs: Sequence[str],
) -> Session:
    """Load the router; the networks follow when they are needed.

    Raises:
        RunnerError: the routing is not readable, or the runtime refuses the router.
    """
    try:
        routing = json.loads(Path(model).read_text("utf-8"))
        if routing["format"] != FORMAT:
            raise ValueError(f"format {routing['format']}")
        opened = (backend, device, threads, precision_hint)
        return RoutedSession(routing, str(Path(model).parent), opened)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RunnerError(INPUT_REFUSED, f"routing.json is not readable ({error})") from error
