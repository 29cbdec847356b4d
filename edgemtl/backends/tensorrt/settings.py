"""``[options]`` of a TensorRT target, checked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgemtl.errors import UsageError
from edgemtl.targets import Target

Version = tuple[int, int]
#: TensorRT version -> highest ONNX opset its parser reads (8.5, 8.6: vendor's operator tables;
#: 10.3 from the tables of 10.0 and 10.1; 10.13 and 11.4 from release notes)
OPSET_LIMITS: dict[Version, int] = {(8, 5): 17, (8, 6): 17, (10, 3): 20, (10, 13): 24, (11, 4): 25}


class TensorRtOptions(BaseModel):
    """What a TensorRT target says in its TOML file.

    Attributes:
        tensorrt: version on the device; the operator table answers for it.
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

    tensorrt: Literal["8.5", "8.6", "10.3", "10.13", "11.4"]
    jetpack: str = ""
    compute_capability: str = ""
    dla_cores: int = Field(0, ge=0)
    power_modes: tuple[str, ...] = ()
    memory_mb: int | None = Field(None, ge=1)
    workspace_mb: int = Field(1024, ge=16)
    nms: Literal["host", "graph"] = "host"
    precision_hint: Literal["f32", "auto"] = "f32"

    @property
    def version(self) -> Version:
        """(major, minor) of TensorRT."""
        major, minor = self.tensorrt.split(".")
        return int(major), int(minor)


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
