"""Writing a graph in lower precision again and again, with another choice of layers each time."""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.quantize.bias import bias_shifts, shift_biases
from edgemtl.compress.quantize.equalise import equalise
from edgemtl.compress.quantize.fp16 import to_float16
from edgemtl.compress.quantize.layers import Layer
from edgemtl.compress.quantize.qdq import insert_qdq
from edgemtl.compress.quantize.ranges import magnitudes
from edgemtl.compress.quantize.results import QuantizeOptions
from edgemtl.compress.quantize.simulate import Images, simulation
from edgemtl.errors import StageFailed
from edgemtl.exporting.differences import difference

if TYPE_CHECKING:
    from onnx import ModelProto

_log = logging.getLogger(__name__)

#: see :meth:`Int8Writer.trained`
Train = Callable[
    ["ModelProto", "ModelProto", Sequence[Layer], Mapping[str, float]],
    "ModelProto",
]
#: lowest opset with a scale per channel
LOWEST_OPSET = 13
#: largest change, as a share of an output's range, that equalisation may make: it is exact but for
#: float32's rounding
EXACT = 1e-3


class Writer(ABC):
    """Writes one graph.

    Attributes:
        notes: what the reader of the result must know.
    """

    notes: tuple[str, ...] = ()

    @abstractmethod
    def write(self, kept: Collection[str]) -> ModelProto:
        """A new graph; ``kept`` are the node names of layers that stay in float32."""


class Float16Writer(Writer):
    """Explicit casts to float16."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model

    def write(self, kept: Collection[str]) -> ModelProto:
        return to_float16(self._model, kept)


class Int8Writer(Writer):
    """QuantizeLinear and DequantizeLinear; equalised, calibrated and bias-corrected once.

    Args:
        model: the float32 graph.
        layers: its layers.
        images: calibration pictures.
        options: method, equalisation, bias correction.

    Raises:
        StageFailed: the graph's opset is too low, or it cannot run.
    """

    def __init__(
        self,
        model: ModelProto,
        layers: Sequence[Layer],
        images: Images,
        options: QuantizeOptions,
    ) -> None:
        opset = next((entry.version for entry in model.opset_import if entry.domain == ""), 0)
        if opset < LOWEST_OPSET:
            raise StageFailed(
                f"the graph is in opset {opset}; int8 with a scale per channel needs "
                f"{LOWEST_OPSET}",
                hint="export with a higher opset",
            )
        self._layers, self._reduce_range = layers, options.reduce_range
        self._model = self._equalised(model, images) if options.equalise else model
        sources = list(dict.fromkeys(layer.source for layer in layers))
        _log.info(f"reading the ranges of {len(sources)} tensors ({options.method})")
        self._magnitudes = magnitudes(self._model, sources, images, options.method)
        silent = [name for name, size in self._magnitudes.items() if size == 0]
        if silent:
            self.notes += (f"always zero on the calibration pictures: {', '.join(silent)}",)
        self._shifts: dict[str, NDArray[np.float32]] = {}
        if options.correct_bias:
            _log.info("measuring the mean error of every channel")
            rounded = insert_qdq(self._model, layers, self._magnitudes, self._reduce_range)
            self._shifts = bias_shifts(self._model, rounded, layers, images)

    def _equalised(self, model: ModelProto, images: Images) -> ModelProto:
        equal, joints = equalise(model, self._layers, images)
        if not joints:
            return model
        before, after = simulation(model)(images[0]), simulation(equal)(images[0])
        changes = [difference(before[name], after[name]) for name in before]
        if all(change.within(EXACT) for change in changes):
            _log.info(f"channels of {joints} tensors rescaled")
            return equal
        worst = max(change.max_relative for change in changes)
        self.notes += (f"not equalised: outputs would change by {worst:.2g} of their range",)
        return model

    def trained(self, kept: Collection[str], train: Train) -> Int8Writer:
        """One whose weights and biases were trained while these layers stayed in float32.

        Args:
            kept: node names.
            train: float32 graph to start from, its teacher, the layers in int8 and the ranges, to
                the graph after training.
        """
        chosen = [layer for layer in self._layers if layer.node not in kept]
        nodes = {layer.node for layer in chosen}
        start = type(self._model)()
        start.CopyFrom(self._model)
        shift_biases(start, {k: v for k, v in self._shifts.items() if k in nodes})
        other = copy.copy(self)
        other._model = train(start, self._model, chosen, self._magnitudes)
        # What the shifts corrected is in the biases that training began with.
        other._shifts = {}
        return other

    def write(self, kept: Collection[str]) -> ModelProto:
        chosen = [layer for layer in self._layers if layer.node not in kept]
        written = insert_qdq(self._model, chosen, self._magnitudes, self._reduce_range)
        nodes = {layer.node for layer in chosen}
        shift_biases(written, {k: v for k, v in self._shifts.items() if k in nodes})
        return written
