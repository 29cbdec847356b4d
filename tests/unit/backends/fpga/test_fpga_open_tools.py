"""What open tools say of the multiplier array: its multipliers (yosys), its cycles (verilator).

Neither is needed to work on EdgeMTL; where they are (Debian: yosys, verilator) the model's rules
for the array are held against them. They say nothing of placement, routing and the clock.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from edgemtl.backends.fpga.arith import requantise
from edgemtl.backends.fpga.design import ROUNDING_DSP
from edgemtl.backends.fpga.work import Array, Work

SOURCE = Path(__file__).resolve().parents[3] / "support" / "processing_elements.v"
ROWS, COLUMNS = 4, 4


@pytest.mark.skipif(shutil.which("yosys") is None, reason="yosys is not here (Debian: yosys)")
def test_the_models_multipliers_are_those_that_synthesis_finds(tmp_path: Path) -> None:
    found = {}
    for top in ("pe_array", "requantise"):
        script = f"read_verilog {SOURCE}; synth_xilinx -family xcup -noiopad -top {top}; "
        script += f"tee -o {tmp_path / top}.json stat -json"
        subprocess.run(
            ["yosys", "-q", "-p", script],
            check=True,
            capture_output=True,
            timeout=300,
            cwd=tmp_path,
        )
        stated = json.loads((tmp_path / f"{top}.json").read_text("utf-8"))
        found[top] = stated["design"]["num_cells_by_type"]
    assert found["pe_array"]["DSP48E2"] == ROWS * COLUMNS
    assert found["requantise"]["DSP48E2"] == ROUNDING_DSP
    # Logic is not in the model. The adders of a column cost some: more than one word's worth.
    logic = sum(n for cell, n in found["pe_array"].items() if cell.startswith("LUT"))
    assert 32 * ROWS < logic < 100 * ROWS * COLUMNS


BENCH = """\
#include <cstdio>
#include <cstring>
#include <memory>
#include "Vtop.h"
#include "verilated.h"

// positions, words, parts; then per position values and per part weights and biases; results.
int main(int, char **) {
    auto top = std::make_unique<Vtop>();
    long cycles = 0;
    auto tick = [&] { top->clock = 0; top->eval(); top->clock = 1; top->eval(); };
    int positions, words, parts;
    if (std::scanf("%d %d %d", &positions, &words, &parts) != 3) return 2;
    for (int step = 0; step < positions * parts; step++) {
        for (int word = 0; word < words; word++) {
            unsigned read[1 + 4 + 4];
            for (unsigned &value : read) if (std::scanf("%x", &value) != 1) return 2;
            top->valid = 1;
            top->first = word == 0;
            top->values = read[0];
            std::memcpy(&top->weights, read + 1, 16);
            std::memcpy(&top->biases, read + 5, 16);
            tick();
            cycles++;
        }
        int sums[4];
        std::memcpy(sums, &top->sums, 16);
        std::printf("%d %d %d %d\\n", sums[0], sums[1], sums[2], sums[3]);
    }
    int count;
    if (std::scanf("%d", &count) != 1) return 2;
    top->valid = 0;
    for (int i = 0; i < count; i++) {
        int sum; unsigned multiplier, shift;
        if (std::scanf("%d %u %u", &sum, &multiplier, &shift) != 3) return 2;
        top->sum = sum; top->multiplier = multiplier; top->shift = shift;
        tick(); tick();
        std::printf("%d\\n", int((signed char)top->result));
    }
    std::printf("cycles %ld\\n", cycles);
}
"""
TOP = """\
module top(input clock, input first, input valid, input [31:0] values, input [127:0] weights,
           input [127:0] biases, output [127:0] sums, input signed [31:0] sum,
           input [15:0] multiplier, input [5:0] shift, output signed [7:0] result);
    pe_array array(clock, first, valid, values, weights, biases, sums);
    requantise unit(clock, sum, multiplier, shift, result);
endmodule
"""


def words_of(values: np.ndarray) -> list[str]:  # type: ignore[type-arg]
    return [f"{word:x}" for word in np.ascontiguousarray(values).reshape(-1).view("<u4")]


@pytest.mark.skipif(
    shutil.which("verilator") is None or shutil.which("g++") is None,
    reason="verilator or g++ is not installed (Debian: verilator)",
)
def test_the_array_takes_the_models_cycles_and_computes_the_references_numbers(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    positions, inputs, outputs = 5, 18, 10  # neither a multiple of the array's sides
    words, parts = ceil(inputs / COLUMNS), ceil(outputs / ROWS)
    image = rng.integers(-127, 128, (positions, inputs)).astype(np.int8)
    weight = rng.integers(-127, 128, (outputs, inputs)).astype(np.int8)
    bias = rng.integers(-(2**20), 2**20, outputs).astype(np.int32)
    padded = np.zeros((positions, words * COLUMNS), np.int8)
    padded[:, :inputs] = image
    filled = np.zeros((parts * ROWS, words * COLUMNS), np.int8)
    filled[:outputs, :inputs] = weight
    biases = np.zeros(parts * ROWS, np.int32)
    biases[:outputs] = bias
    given = [str(positions), str(words), str(parts)]
    for position in range(positions):
        for part in range(parts):
            rows = slice(part * ROWS, (part + 1) * ROWS)
            for word in range(words):
                columns = slice(word * COLUMNS, (word + 1) * COLUMNS)
                given += words_of(padded[position, columns])
                given += words_of(filled[rows, columns]) + words_of(biases[rows])
    sums = rng.integers(-(2**31), 2**31, 200).astype(np.int32)
    multipliers = rng.integers(2**15, 2**16, 200)
    shifts = rng.integers(17, 45, 200)
    given.append("200")
    for each in zip(sums, multipliers, shifts, strict=True):
        given += [str(int(value)) for value in each]

    (tmp_path / "top.v").write_text(TOP, "utf-8")
    (tmp_path / "bench.cpp").write_text(BENCH, "utf-8")
    command = ["verilator", "--cc", "--exe", "--build", "-Wno-fatal", "--top-module", "top"]
    command += ["top.v", str(SOURCE), "bench.cpp", "-o", "bench"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    done = subprocess.run(
        [str(tmp_path / "obj_dir" / "bench")],
        input="\n".join(given),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.split("\n")
    found = np.array([line.split() for line in lines[: positions * parts]], np.int64)
    wanted = image.astype(np.int64) @ weight.T.astype(np.int64) + bias
    assert np.array_equal(found.reshape(positions, parts * ROWS)[:, :outputs], wanted)
    rounded = [int(line) for line in lines[positions * parts : positions * parts + 200]]
    assert rounded == requantise(sums, multipliers, shifts, -127, 127).tolist()
    cycles = int(lines[positions * parts + 200].split()[1])
    work = Work("layer", "matmul", positions, inputs, outputs, inputs=("a",), output="b")
    assert cycles == work.cycles(Array(ROWS, COLUMNS))
