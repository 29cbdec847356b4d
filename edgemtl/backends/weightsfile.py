"""Stored tensors of several graphs in one file, equal ones once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import TensorProto

WEIGHTS_FILE = "weights.bin"
#: smaller tensors stay in the graph, where optimisers look for constants
SMALLEST_BYTES = 1024
#: weights begin at multiples of this, so that they can be mapped into memory
ALIGNMENT = 64


class WeightsFile:
    """The content of a file of weights while graphs hand in theirs.

    Attributes:
        data: what to write; every block begins at a multiple of 64 bytes.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self._places: dict[bytes, int] = {}

    def place(self, raw: bytes) -> int:
        """Offset in bytes of this content, which is added if it is not there yet."""
        key = hashlib.sha256(raw).digest()
        if key not in self._places:
            self.data += b"\0" * (-len(self.data) % ALIGNMENT)
            self._places[key] = len(self.data)
            self.data += raw
        return self._places[key]

    def take(self, tensors: Iterable[TensorProto], location: str) -> None:
        """Move the larger of an ONNX graph's stored tensors into the file, in place.

        Args:
            tensors: initializers, with their values inside.
            location: name of the file beside the graph.
        """
        from onnx import TensorProto, numpy_helper

        for tensor in tensors:
            raw = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
            if len(raw) < SMALLEST_BYTES:
                continue
            kept = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            kept.data_location = TensorProto.EXTERNAL
            reference = {"location": location, "offset": self.place(raw), "length": len(raw)}
            for key, value in reference.items():
                entry = kept.external_data.add()
                entry.key, entry.value = key, str(value)
            tensor.CopyFrom(kept)
