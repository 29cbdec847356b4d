"""A routed set that the mask stage left: where it is, and what it answers in torch.

Stages that only read the set import this module, so that their results do not depend on the code
that makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from edgemtl.backends.routed import CLOSE, ROUTING, read_routing
from edgemtl.errors import StageFailed
from edgemtl.exporting.parity import Run, onnx_runner
from edgemtl.exporting.routed import SINGLE_FILE
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network
from edgemtl.pipeline.parity import ParityOutcome, ParityRequest, check_parity
from edgemtl.pipeline.stage import Context
from edgemtl.recipes import Recipe
from edgemtl.tasks.base import Task

#: pictures looked at for each that parity is checked on, where a router must be sure of it
CANDIDATES = 8


def prototype_file(index: int) -> str:
    """Checkpoint of the prototype at this position."""
    return f"prototype-{index + 1}.pt"


def folded(network: MultiTaskNetwork, recipe: Recipe) -> MultiTaskNetwork:
    """The network of the wanted tasks, with its family's exact folds applied."""
    names = recipe.model.tasks
    if names is not None:
        wanted = [task.name for task in network.selected(list(names))]
        if len(wanted) < len(network.tasks):
            network = network.restricted(wanted)
    fold: Callable[[], MultiTaskNetwork] | None = getattr(network, "folded", None)
    return network.eval() if fold is None or network.pruning else fold().eval()


def routed_folder(context: Context) -> Path | None:
    """Where the mask stage left a routed set; None where there is none."""
    folder = context.folders.get("mask")
    return folder if folder is not None and (folder / ROUTING).exists() else None


class Dispatched:
    """A routed set in torch, told by its router which network answers: what parity is held against.

    Args:
        folder: with ``routing.json`` and the prototypes' checkpoints.
        full: what answers where the router is not sure (:func:`folded`).
        factory: ``package.module:function`` of the user's own network, or None.
    """

    def __init__(self, folder: Path, full: MultiTaskNetwork, factory: str | None) -> None:
        self._folder = folder
        self._routing = read_routing(folder / ROUTING)
        count = len(self._routing.networks) - 1
        prototypes = [
            load_network(folder / prototype_file(index), factory) for index in range(count)
        ]
        self._networks = [full, *prototypes]
        self._router: Run = onnx_runner(folder / self._routing.router)

    def parity(
        self, artefact: Run, candidates: NDArray[np.float32], count: int, tasks: Sequence[Task]
    ) -> ParityOutcome:
        """The networks behind the router, in torch, as one graph, and as the artefact.

        Args:
            artefact: runs what the target's backend made of the set.
            candidates: (N, 3, H, W) real pictures, :data:`CANDIDATES` times ``count`` or fewer.
            count: pictures to compare on, at most.
            tasks: whose outputs are compared.

        Raises:
            StageFailed: the router is close to changing its mind about all of them, or a form
                cannot run.
        """
        forms = {"torch": self.run, "one graph": onnx_runner(self._folder / SINGLE_FILE)}
        inputs = self.clear(candidates, count)
        return check_parity(ParityRequest(forms, artefact, inputs, tasks))

    def clear(self, candidates: NDArray[np.float32], count: int) -> Sequence[NDArray[np.float32]]:
        """The first pictures whose network no rounding changes.

        Args:
            candidates: (N, 3, H, W).
            count: at most so many.

        Raises:
            StageFailed: the router is close to changing its mind about all of them.
        """
        found = [image[None] for image in candidates if self._margin(image[None]) >= CLOSE]
        if not found:
            raise StageFailed(
                "the router is undecided about every picture that parity could be checked on",
                hint="give more with --set export.parity_images, or --set mask.enabled=false",
            )
        return found[:count]

    @torch.no_grad()
    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """(1, 3, H, W) -> output name -> values of the network that the router names."""
        chosen = int(self._routing.choose(self._probabilities(images))[0])
        answers = self._networks[chosen](torch.from_numpy(np.ascontiguousarray(images)))
        return {name: value.numpy() for name, value in answers.items()}

    def _probabilities(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return next(iter(self._router(images).values()))

    def _margin(self, images: NDArray[np.float32]) -> float:
        first, second = np.sort(self._probabilities(images)[0])[::-1][:2]
        return float(min(abs(first - self._routing.threshold), first - second))
