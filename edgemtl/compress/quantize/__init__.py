"""Quantisation."""

from edgemtl.compress.quantize.choice import Candidate, Choice, choose_precision
from edgemtl.compress.quantize.results import (
    Culprit,
    QuantizeOptions,
    QuantizeResult,
    TaskVerdict,
)
from edgemtl.compress.quantize.run import quantize

__all__ = [
    "Candidate",
    "Choice",
    "Culprit",
    "QuantizeOptions",
    "QuantizeResult",
    "TaskVerdict",
    "choose_precision",
    "quantize",
]
