"""A loaded artefact that answers for images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from edgemtl.errors import StageFailed


class Session(ABC):
    """A loaded artefact.

    Args:
        input_shape: (B, 3, H, W) of the one input.
        outputs: output names in the order of the graph.

    Attributes:
        kind: "measured" when this is the target itself; "proxy" when something else stands in for
            it here, whose outputs are right but whose latency says nothing.
    """

    kind: ClassVar[str] = "measured"

    def __init__(self, input_shape: tuple[int, ...], outputs: tuple[str, ...]) -> None:
        self.input_shape = input_shape
        self.outputs = outputs

    @final
    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run once.

        Args:
            images: ``input_shape`` float32, normalised, C-contiguous.

        Returns:
            output name -> array, batch first, in the order of ``outputs``.

        Raises:
            StageFailed: wrong shape or type, or the runtime failed.
        """
        if images.shape != self.input_shape or images.dtype != np.float32:
            raise StageFailed(
                f"input is {images.dtype} {images.shape}, the artefact wants float32 "
                f"{self.input_shape}"
            )
        results = self.run_impl(images)
        if tuple(results) != self.outputs:
            raise StageFailed(f"the runtime returned {tuple(results)}, expected {self.outputs}")
        return results

    @abstractmethod
    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run once; the input is already checked."""

    def close(self) -> None:  # noqa: B027 - nothing to release is a valid default
        """Release the runtime's resources; the session is not used afterwards."""
