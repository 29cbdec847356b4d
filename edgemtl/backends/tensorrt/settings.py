"""``[options]`` of a TensorRT target, checked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from edgemtl.errors import UsageError
from edgemtl.targets import Target

Version = tuple[int, int]
#: TensorRT version -> highest ONNX opset its parser reads (8.5, 8.6: vendor's operator tables;
#: 10.3 from the tables of 10.0 and 10.1; later ones from release notes, where 11.5 adds opset 25)
OPSET_LIMITS: dict[Version, int] = {
    (8, 5): 17,
    (8, 6): 17,
    (10, 3): 20,
    (10, 13): 24,
    (10, 14): 24,
    (11, 4): 24,
    (11, 5): 25,
}


class TensorRtOptions(BaseModel):
    """What a TensorRT target says in its TOML file.

    Attributes:
        tensorrt: version on the device, "10.3" or "10.7.0.23"; its operator table answers, or that
            of the nearest lower version that has one.
        jetpack: of the board's system image; empty where there is none.
        compute_capability: of the GPU.
        dla_cores: deep learning accelerators on the board. They are not used: only static float16
            and int8 graphs of few layer kinds run there, and nothing here can check that.
        power_modes: names of ``nvpmodel``, for the reader of a result.
        memory_mb: of the board.
        workspace_mb: scratch memory that the builder may plan with.
        nms: where detections are suppressed: by the ``host`` or inside the ``graph``.
        precision_hint: "f32" forbids TF32, which rounds the inputs of multiplications to 11 bits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tensorrt: str = Field(pattern=r"^\d{1,3}\.\d{1,3}(\.\d{1,5}){0,2}$")
    jetpack: str = ""
    compute_capability: str = ""
    dla_cores: int = Field(0, ge=0)
    power_modes: tuple[str, ...] = ()
    memory_mb: int | None = Field(None, ge=1)
    workspace_mb: int = Field(1024, ge=16)
    nms: Literal["host", "graph"] = "host"
    precision_hint: Literal["f32", "auto"] = "f32"

    @field_validator("tensorrt")
    @classmethod
    def _has_a_table(cls, told: str) -> str:
        if _major_minor(told) < min(OPSET_LIMITS):
            oldest = ".".join(map(str, min(OPSET_LIMITS)))
            raise ValueError(f"the oldest version with an operator table is {oldest}")
        return told

    @property
    def version(self) -> Version:
        """(major, minor) whose table answers: the device's, or the nearest lower."""
        return max(version for version in OPSET_LIMITS if version <= _major_minor(self.tensorrt))

    @property
    def between(self) -> str:
        """What to know where the device's version has no table of its own; empty where it has."""
        major, minor = self.version
        if (major, minor) == _major_minor(self.tensorrt):
            return ""
        return (
            f"there is no operator table of TensorRT {self.tensorrt}: that of {major}.{minor}, the "
            "nearest lower version, answered"
        )


def _major_minor(told: str) -> Version:
    major, minor, *_ = (int(part) for part in told.split("."))
    return major, minor


def options_of(target: Target) -> TensorRtOptions:
    """The target's options.

    Raises:
        UsageError: a key is unknown or a value does not fit.
    """
    try:
        return TensorRtOptions.model_validate(target.options)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"'options.{key}': {first['msg']}", where=target.name) from error
