"""Quantisation."""

from edgemtl.compress.quantize.results import (
    Culprit,
    QuantizeOptions,
    QuantizeResult,
    TaskVerdict,
)
from edgemtl.compress.quantize.run import quantize

__all__ = ["Culprit", "QuantizeOptions", "QuantizeResult", "TaskVerdict", "quantize"]
