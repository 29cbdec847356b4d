"""Functions of one number that the accelerator does by table, as ONNX writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def _erf(x: Values) -> Values:
    from scipy.special import erf

    found: Values = erf(x)
    return found


def _gelu(x: Values, attributes: dict[str, Any]) -> Values:
    if attributes.get("approximate", b"none") == b"tanh":
        found: Values = x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return found
    return x * 0.5 * (1 + _erf(x / np.sqrt(2)))


def _hard_sigmoid(x: Values, attributes: dict[str, Any]) -> Values:
    slope, offset = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    found: Values = np.clip(slope * x + offset, 0, 1)
    return found


#: longest chain that is taken for a function
DEEPEST = 10
FUNCTIONS: dict[str, Callable[[list[Values], dict[str, Any]], Values]] = {
    "Erf": lambda x, _: _erf(x[0]),
    "Gelu": lambda x, a: _gelu(x[0], a),
    "Sigmoid": lambda x, _: 1 / (1 + np.exp(-np.clip(x[0], -60, 60))),
    "Tanh": lambda x, _: np.tanh(x[0]),
    "HardSigmoid": lambda x, a: _hard_sigmoid(x[0], a),
    "HardSwish": lambda x, _: x[0] * np.clip(x[0] / 6 + 0.5, 0, 1),
    "LeakyRelu": lambda x, a: np.where(x[0] < 0, a.get("alpha", 0.01) * x[0], x[0]),
    "Elu": lambda x, a: np.where(
        x[0] < 0, a.get("alpha", 1.0) * np.expm1(np.minimum(x[0], 0)), x[0]
    ),
    "Mul": lambda x, _: x[0] * x[1],
    "Add": lambda x, _: x[0] + x[1],
    "Sub": lambda x, _: x[0] - x[1],
    "Div": lambda x, _: x[0] / x[1],
}
