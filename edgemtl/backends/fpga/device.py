"""What a board has, and the design that is put on it: both from a target's ``[options]``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgemtl.errors import UsageError
from edgemtl.targets import Target

#: how an expert layer is run, see moe.py
MoeSchedule = Literal["reordered", "cached", "resident"]
#: how weights reach the array, see plan.py
WeightBuffer = Literal["single", "ping-pong", "resident"]


class FpgaOptions(BaseModel):
    """``[options]`` of an FPGA target.

    Attributes:
        dsp, bram36, uram: multipliers, and memory blocks of 36 Kbit and 288 Kbit.
        clock_mhz: that the design is assumed to reach; nothing here can check it.
        ddr_gb_per_s: of the external memory, 10^9 bytes.
        power_w: of the whole board while it computes; energy is this times latency.
        rows, columns: of the multiplier array: output values and input values per cycle. Chosen
            for the network where one is 0.
        macs_per_dsp: multiply-accumulates that one DSP does per cycle.
        weight_buffer: one buffer, two in turn, or all weights on the chip; chosen when absent.
        weight_buffer_kib: of one half; chosen where 0.
        activation_buffer_kib: memory for activations; what does not fit goes to the external
            memory and back.
        moe_schedule: how an expert layer is run.
        cache_slots: experts that the cached schedule keeps on the chip.
        processor: the board's, as LLVM names it; empty for a bundle without its program.
        processor_triple, processor_cores: LLVM's target triple, and how many there are.
        compiler: that makes code for the processor.
        emulator: that runs it here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dsp: int = Field(ge=1)
    bram36: int = Field(ge=1)
    uram: int = Field(ge=0)
    clock_mhz: float = Field(300.0, gt=0)
    ddr_gb_per_s: float = Field(19.2, gt=0)
    power_w: float = Field(10.0, gt=0)
    rows: int = Field(0, ge=0)
    columns: int = Field(0, ge=0)
    macs_per_dsp: int = Field(1, ge=1, le=2)
    weight_buffer: WeightBuffer | None = None
    weight_buffer_kib: int = Field(0, ge=0)
    activation_buffer_kib: int = Field(0, ge=0)
    moe_schedule: MoeSchedule = "reordered"
    cache_slots: int = Field(4, ge=1)
    processor: str = ""
    processor_triple: str = "aarch64-linux-gnu"
    processor_cores: int = Field(4, ge=1, le=256)
    compiler: str = "aarch64-linux-gnu-g++"
    emulator: str = "qemu-aarch64-static"

    @property
    def bytes_per_cycle(self) -> float:
        """What the external memory delivers per cycle of the design."""
        return self.ddr_gb_per_s * 1e3 / self.clock_mhz


def options_of(target: Target) -> FpgaOptions:
    """The target's options.

    Raises:
        UsageError: a key is unknown or a value does not fit.
    """
    try:
        return FpgaOptions.model_validate(target.options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"'options.{key}': {first['msg']}", where=target.name) from error
