"""Write a program for a design as HLS C++: ``program.h`` beside the engine, weights as binaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.fpga.design import Design
from edgemtl.backends.fpga.placement import ALIGNMENT, aligned, on_chip
from edgemtl.backends.fpga.program import Program, Step

ENGINE = Path(__file__).parent / "hls" / "accelerator.cpp"
SOURCE_FILE, HEADER_FILE = "accelerator.cpp", "program.h"
WEIGHTS_FILE, PARAMETERS_FILE = "weights.bin", "parameters.bin"
_OPS = {
    "conv": "CONV",
    "depthwise": "DEPTHWISE",
    "add": "ADD",
    "upsample": "UPSAMPLE",
    "maxpool": "MAXPOOL",
    "average": "AVERAGE",
}
Table = NDArray[np.int16]
#: fields of a step in the header, in order
_FIELDS = (
    *("stage", "op", "inputs", "in", "other", "out", "in_bits", "other_bits", "out_bits"),
    *("in_height", "in_width", "in_channels", "out_height", "out_width", "out_channels"),
    *("first", "channels", "kernel_height", "kernel_width", "stride_y", "stride_x"),
    *("pad_y", "pad_x", "dilation_y", "dilation_x", "factor_y", "factor_x"),
    *("rounded", "low", "high", "table", "parameters", "weights"),
)
_PLACES = ("in", "other", "out")


@dataclass(frozen=True)
class Emitted:
    """A program as files.

    Attributes:
        files: name -> contents.
        external: tensor -> offset in the external memory.
        external_bytes: of the external memory.
        on_chip_bytes: of activations that have a place on the chip.
    """

    files: dict[str, bytes]
    external: dict[str, int]
    external_bytes: int
    on_chip_bytes: int


def emit(program: Program, design: Design) -> Emitted:
    """Write a program; the same program and design give the same bytes."""
    array = design.array
    chip = on_chip(program.works(), design.activation_bytes, {*program.inputs, *program.outputs})
    external: dict[str, int] = {}
    # The array reads whole words, beyond a tensor's last channel: what it reads there counts
    # nothing, but has to be there.
    guard = aligned(max(array.rows, array.columns))
    end = 0
    for name, tensor in program.tensors.items():
        if name not in chip:
            external[name] = end
            end += aligned(tensor.size_bytes)
    held = max(
        (aligned(offset + program.tensors[name].size_bytes) for name, offset in chip.items()),
        default=0,
    )
    weights, parameters, tables = bytearray(), list[int](), list[Table]()
    # Layers that several tasks compute from different inputs have their weights once.
    written: dict[bytes, int] = {}
    rows = []
    for step in program.steps:
        place = len(weights)
        if step.weight is not None:
            data = step.weight.tobytes()
            place = written.setdefault(data, place)
            if place == len(weights):
                weights += data
        places = (place, len(parameters), -1 if step.table is None else len(tables))
        parameters += _parameters(step)
        if step.table is not None:
            tables.append(step.table)
        rows.append(_row(step, program, chip, external, places))
    weights += bytes(-len(weights) % ALIGNMENT + ALIGNMENT)
    sizes = {
        "ROWS": array.rows,
        "COLUMNS": array.columns,
        "CHIP_BYTES": held + guard,
        "EXTERNAL_BYTES": end + guard,
        "WEIGHT_WORDS": max(1, _weight_words(program, array.columns)),
        "STEPS": len(program.steps),
        **_most(program, array.rows, array.columns),
    }
    files = {
        SOURCE_FILE: ENGINE.read_bytes(),
        HEADER_FILE: _header(sizes, rows, tables, program.steps).encode(),
        WEIGHTS_FILE: bytes(weights),
        PARAMETERS_FILE: np.array([*parameters, 0], "<i4").tobytes(),
    }
    return Emitted(files, external, end + guard, held)


def _weight_words(program: Program, columns: int) -> int:
    """Words of the buffer for the largest part of any step's weights."""
    found = [0]
    for step in program.steps:
        if step.op == "depthwise":
            found.append(ceil(step.window.taps / columns))
        elif step.op == "conv":
            inputs = program.tensors[step.inputs[0]].channels
            found.append(step.window.taps * ceil(inputs / columns))
    return max(found)


def _most(program: Program, rows: int, columns: int) -> dict[str, int]:
    """How often each loop runs at most."""

    def most(of: Callable[[Step], int]) -> int:
        return max([1, *(of(step) for step in program.steps)])

    tensors = program.tensors
    return {
        "MOST_HEIGHT": most(lambda step: tensors[step.output].height),
        "MOST_WIDTH": most(lambda step: tensors[step.output].width),
        "MOST_CHANNELS": most(lambda step: step.channels),
        "MOST_TAPS": most(lambda step: step.window.taps),
        "MOST_WORDS": most(lambda step: ceil(tensors[step.inputs[0]].channels / columns)),
        "MOST_PARTS": most(lambda step: ceil(step.channels / rows)),
    }


def _parameters(step: Step) -> list[int]:
    """Per channel the bias, then shift and multiplier in one word; those of a sum as they are."""
    if step.op == "add":
        second = step.multiplier[1] if len(step.multiplier) > 1 else 0
        return [int(step.multiplier[0]), int(second), int(step.shift[0])]
    if step.op in ("upsample", "maxpool"):
        return []
    bias = np.zeros(step.channels, np.int32) if step.bias is None else step.bias
    if not step.multiplier.size:
        return [word for value in bias for word in (int(value), 1 << 16)]
    rounding = step.shift.astype(np.int64) << 16 | step.multiplier.astype(np.int64)
    return [int(word) for pair in zip(bias, rounding, strict=True) for word in pair]


def _row(
    step: Step,
    program: Program,
    chip: dict[str, int],
    external: dict[str, int],
    places: tuple[int, int, int],
) -> str:
    """A step as an initialiser of the header's ``Step``."""
    source, result = program.tensors[step.inputs[0]], program.tensors[step.output]
    other = program.tensors[step.inputs[1]] if len(step.inputs) > 1 else None

    def place(name: str) -> str:
        return f"{{1, {chip[name]}}}" if name in chip else f"{{0, {external[name]}}}"

    window = step.window
    weights, parameters, table = places
    values: list[object] = [
        step.stage,
        _OPS[step.op],
        len(step.inputs),
        place(source.name),
        place(other.name) if other else "{0, 0}",
        place(result.name),
        source.bits,
        other.bits if other else 8,
        result.bits,
        *source.shape,
        *result.shape,
        step.first,
        step.channels,
        *window.kernel,
        *window.stride,
        *window.pad,
        *window.dilation,
        *step.factor,
        int(step.multiplier.size > 0),
        step.low,
        step.high,
        table,
        parameters,
        weights,
    ]
    assert len(values) == len(_FIELDS)
    return "{" + ", ".join(map(str, values)) + "}"


def _header(
    sizes: dict[str, int], rows: Sequence[str], tables: Sequence[Table], steps: Sequence[Step]
) -> str:
    members = "\n".join(
        f"    {'Place' if name in _PLACES else 'int32_t'} {name};" for name in _FIELDS[:-1]
    )
    length = max((len(table) for table in tables), default=1)
    written = [", ".join(map(str, table.tolist())) for table in tables] or ["0"]
    table_rows = ",\n".join(f"    {{{row}}}" for row in written)
    # A name may hold anything; in a comment it must not end the line.
    named = [
        f"    {row},  // {''.join(c if c.isprintable() else '?' for c in step.name)}".rstrip("\\")
        for row, step in zip(rows, steps, strict=True)
    ]
    constants = "\n".join(f"const int {name} = {value};" for name, value in sizes.items())
    return f"""\
// Written by EdgeMTL for one network and one design; see accelerator.cpp.
#pragma once
#include <cstdint>

{constants}

enum Op {{ CONV, DEPTHWISE, ADD, UPSAMPLE, MAXPOOL, AVERAGE }};

// Where a tensor lies: offset in bytes on the chip or in the external memory.
struct Place {{
    int32_t on_chip;
    int32_t offset;
}};

struct Step {{
{members}
    int64_t weights;
}};

const int16_t TABLES[{max(len(tables), 1)}][{length}] = {{
{table_rows}
}};

const Step PROGRAM[STEPS > 0 ? STEPS : 1] = {{
{chr(10).join(named)}
}};
"""
