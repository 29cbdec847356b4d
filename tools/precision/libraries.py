"""The same network quantised by onnxruntime.quantization, by NNCF, and by EdgeMTL.

All get the same calibration pictures, min-max ranges and no accuracy-aware fallback; the form asked
of each is the one that every target reads: symmetric int8, weights per channel, no int32 bias.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.compress.quantize.layers import find_layers
from edgemtl.compress.quantize.names import shorten_names
from edgemtl.compress.quantize.results import QuantizeOptions
from edgemtl.compress.quantize.writers import Int8Writer

Images = Sequence[NDArray[np.float32]]
Quantizer = Callable[[Path, Path, Images], None]


def by_edgemtl(
    source: Path,
    output: Path,
    images: Images,
    equalise: bool = True,
    correct_bias: bool = True,
    reduce_range: bool = True,
) -> None:
    """This project's writer."""
    import onnx

    model = onnx.load(source)
    options = QuantizeOptions(
        equalise=equalise, correct_bias=correct_bias, reduce_range=reduce_range
    )
    writer = Int8Writer(model, find_layers(model), images, options, lambda line: None)
    written = writer.write(())
    shorten_names(written)
    output.write_bytes(written.SerializeToString(deterministic=True))


def by_placement_only(source: Path, output: Path, images: Images) -> None:
    """This project's placement, without equalisation and bias correction."""
    by_edgemtl(source, output, images, equalise=False, correct_bias=False)


def by_equalisation_only(source: Path, output: Path, images: Images) -> None:
    """Without bias correction."""
    by_edgemtl(source, output, images, correct_bias=False)


def by_full_range(source: Path, output: Path, images: Images) -> None:
    """With weights that leave no room for sums of 16 bits."""
    by_edgemtl(source, output, images, reduce_range=False)


def by_onnxruntime(source: Path, output: Path, images: Images) -> None:
    """``quantize_static``."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(range(len(images)))

        def get_next(self) -> dict[str, Any] | None:
            index = next(self._left, None)
            return None if index is None else {"images": images[index]}

    logging.disable(logging.WARNING)
    quantize_static(
        source,
        output,
        Reader(),
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
        },
    )


def by_nncf(source: Path, output: Path, images: Images) -> None:
    """``nncf.quantize`` with its symmetric preset and fast bias correction.

    Its activations are uint8 after a ReLU: asked for signed ones throughout (3.4.0) it stops with
    "incompatible with HW capabilities".

    Raises:
        ImportError: nncf is not installed (``pip install nncf``).
    """
    # Kept from calling home, as OpenVINO is.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import nncf
    import onnx

    nncf.set_log_level(logging.ERROR)
    quantized = nncf.quantize(
        onnx.load(source),
        nncf.Dataset([{"images": image} for image in images]),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        subset_size=len(images),
    )
    onnx.save(quantized, output)


LIBRARIES: dict[str, Quantizer] = {
    "onnxruntime": by_onnxruntime,
    "nncf": by_nncf,
    "placement": by_placement_only,
    "equalised": by_equalisation_only,
    "full-range": by_full_range,
    "edgemtl": by_edgemtl,
}
TITLES = {
    "onnxruntime": "`onnxruntime.quantization`",
    "nncf": "NNCF",
    "placement": "EdgeMTL, placement only",
    "equalised": "EdgeMTL, equalised",
    "full-range": "EdgeMTL, equalised and bias-corrected, weights of the full range",
    "edgemtl": "EdgeMTL, equalised and bias-corrected",
}
