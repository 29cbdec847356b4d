"""One module per runtime, chosen by the manifest's backend and imported only then.

A module has ``load(model, device, threads, precision_hint, outputs) -> Session``. It raises
:class:`~.errors.RunnerError` with ``UNAVAILABLE`` where the runtime or the device is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import UNAVAILABLE, RunnerError
from ..latency import sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: backend of the manifest -> module of this package
MODULES = {
    "onnxruntime": "onnx_runtime",
    "openvino": "open_vino",
    "tensorrt": "tensorrt_rt",
    "tensorrt-rtx": "tensorrt_rt",
    "tvm": "tvm_board",
}
try:
    #: of another package's backend, whose module and this table of it lie in bundles for it
    MORE: Mapping[str, str] = dict(import_module(".more", __name__).MODULES)
except ImportError:
    MORE = {}
#: the file that stands for several networks behind a router
ROUTING = "routing.json"


class Session:
    """A loaded artefact; what every runtime module returns.

    Attributes:
        runtime: name of the runtime.
        version: its version, as it reports itself.
        clock: what times its runs: ``host``, or ``gpu`` for the GPU's own events.
        facts: plain data worth keeping with the results.
    """

    runtime: str = ""
    version: str = ""
    clock: str = "host"

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """Run once on (B, 3, H, W) float32; output name -> array, batch first."""
        raise NotImplementedError

    def samples(
        self,
        images: NDArray[np.float32],
        warm_up_s: float,
        min_runs: int,
        min_s: float,
        observe: Callable[[], object] = lambda: None,
    ) -> list[float]:
        """Milliseconds of each timed run, copies included, in the order they happened.

        ``observe`` looks at the device now and then, never in a run that is timed by the host.
        """
        return sample(
            lambda: self.run(images),
            warm_up_s=warm_up_s,
            min_runs=min_runs,
            min_s=min_s,
            observe=observe,
        )

    def stages(self, images: NDArray[np.float32], runs: int) -> Mapping[str, list[float]]:
        """Milliseconds per step of a run on the device's own clock; empty where it has none."""
        return {}

    def close(self) -> None:
        """Give back what the session holds."""


def load(
    backend: str,
    model: str,
    device: str,
    threads: int,
    precision_hint: str,
    outputs: Sequence[str],
) -> Session:
    """Load an artefact.

    Args:
        backend: as in the manifest.
        model: path of the file that the runtime opens.
        device: the runtime's name of the device.
        threads: 0 lets the runtime choose.
        precision_hint: "f32" computes as written, "auto" lets the runtime choose.
        outputs: names of the outputs to fetch.

    Raises:
        RunnerError: this runner has no module for the backend, the runtime or device is not here,
            or the runtime refuses the file.
    """
    if model.endswith(ROUTING):
        from . import routed

        session: Session = routed.load(backend, model, device, threads, precision_hint, outputs)
        return session
    known = {**MODULES, **MORE}
    if backend not in known:
        raise RunnerError(
            UNAVAILABLE,
            f"this runner has no runtime for backend '{backend}' (it has {', '.join(known)})",
        )
    module = import_module(f".{known[backend]}", __name__)
    session = module.load(model, device, threads, precision_hint, outputs)
    return session
