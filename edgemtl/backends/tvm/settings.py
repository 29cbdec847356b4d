"""What a target file may say under ``[options]`` for TVM."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgemtl.backends.processor import host_flags
from edgemtl.errors import UsageError
from edgemtl.targets import Target

#: levels of x86-64 that code is made for, best first: LLVM's name, width of a vector in bytes,
#: vector registers, and the flags that tell them from the level below, as /proc/cpuinfo has them
X86_LEVELS = (
    ("x86-64-v4", 64, 32, ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
    ("x86-64-v3", 32, 16, ("avx2", "fma", "bmi2", "f16c")),
    ("x86-64-v2", 16, 16, ("sse4_2", "popcnt", "ssse3")),
)


class TunedTile(BaseModel):
    """A tile that was measured for one operator (``edgemtl tune``).

    Attributes:
        processor: LLVM's name; tiles of another one are left out.
        kind, sizes: of the operator.
        tile: rows and columns.
        seconds: the shortest run.
        machine: name of the processor that measured it; empty where nobody noted it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    processor: str
    kind: str
    sizes: tuple[int, ...]
    tile: tuple[int, int]
    seconds: float = Field(gt=0)
    machine: str = ""


class TvmOptions(BaseModel):
    """The processor that code is made for.

    Attributes:
        mcpu: LLVM's name of the processor; "host" takes this machine's level of x86-64.
        mtriple: LLVM's target triple; empty for this machine.
        cores: processors that share the work.
        vector_bytes: width of a vector register; 0 with "host".
        registers: how many vector registers there are; 0 with "host".
        l2_kib: second data cache of one core.
        schedule: whether loops are shaped for this processor; TVM's own are many times slower.
        tiles: that were measured; the cost rule chooses for the other operators.
        compiler: what links the library.
        emulator: what runs it here; empty where this machine is the device.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mcpu: str = "host"
    mtriple: str = ""
    cores: int = Field(1, ge=1, le=256)
    vector_bytes: int = Field(0, ge=0, le=64)
    registers: int = Field(0, ge=0, le=64)
    l2_kib: int = Field(512, ge=16, le=1 << 16)
    schedule: bool = True
    tiles: tuple[TunedTile, ...] = ()
    compiler: str = "g++"
    emulator: str = ""


def options_of(target: Target) -> TvmOptions:
    """The target's options.

    Raises:
        UsageError: they are not valid.
    """
    try:
        return TvmOptions.model_validate(target.options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"'options.{key}': {first['msg']}", where=f"target '{target.name}'"
        ) from error


def resolved(options: TvmOptions) -> TvmOptions:
    """The same with "host" replaced by what this machine is."""
    if options.mcpu != "host":
        return options
    flags = host_flags()
    for name, vector_bytes, registers, wanted in X86_LEVELS:
        if flags.issuperset(wanted):
            found = {"mcpu": name, "vector_bytes": vector_bytes, "registers": registers}
            return options.model_copy(update=found)
    return options.model_copy(update={"mcpu": "generic", "vector_bytes": 16, "registers": 16})


def wanted_flags(mcpu: str) -> tuple[str, ...]:
    """Flags without which code for this processor does not run here."""
    names = [level[0] for level in X86_LEVELS]
    levels = X86_LEVELS[names.index(mcpu) :] if mcpu in names else ()
    return tuple(flag for *_, flags in levels for flag in flags)
