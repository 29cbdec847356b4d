"""Constants that runtimes read in one form only, and sizes that are constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgemtl.backends.rewriting.writer import Writer

#: attributes of Constant beside ``value`` that hold numbers -> their type
_FORMS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def tensor_constant(writer: Writer) -> bool:
    """A Constant of a number or a list as one of a tensor."""
    for name, kind in _FORMS.items():
        if name in writer.facts.given:
            _store(writer, np.asarray(writer.facts.attributes[name], kind))
            return True
    return False


def stored_shape(writer: Writer) -> bool:
    """Shape and Size of a tensor of static shape as the constants that they are."""
    shape = writer.facts.shape(0)
    if shape is None or any(extent < 0 for extent in shape):
        return False
    if writer.node.op_type == "Size":
        _store(writer, np.asarray(int(np.prod(shape, dtype=np.int64)), np.int64))
        return True
    start, end = int(writer.attribute("start", 0)), writer.facts.attributes.get("end")
    whole = shape[start:] if end is None else shape[start : int(end)]
    _store(writer, np.asarray(whole, np.int64))
    return True


def _store(writer: Writer, value: Any) -> None:
    from onnx import numpy_helper

    output = writer.node.output[0]
    writer.add("Constant", [], output, value=numpy_helper.from_array(value, output))
