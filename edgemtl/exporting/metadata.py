"""Tasks and input specification inside an ONNX file, so that the file explains itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgemtl.data.preprocess import InputSpec
from edgemtl.errors import InputRefused
from edgemtl.files import write_atomically
from edgemtl.tasks.base import Task
from edgemtl.tasks.registry import build, spec_from_dict

KEY = "edgemtl"


def write_metadata(path: Path, tasks: Sequence[Task], input_spec: InputSpec) -> None:
    """Add both to a file's properties, in place; runtimes ignore them."""
    import onnx

    model = onnx.load(path)
    described = {
        "tasks": [task.spec().to_dict() for task in tasks],
        "input": input_spec.to_dict(),
    }
    onnx.helper.set_model_props(model, {KEY: json.dumps(described, sort_keys=True)})
    data = model.SerializeToString(deterministic=True)
    write_atomically(path, lambda stream: stream.write(data))


def read_metadata(path: Path) -> tuple[tuple[Task, ...], InputSpec]:
    """Tasks and input specification of an ONNX file.

    Raises:
        InputRefused: not an ONNX file, or one that was not exported by EdgeMTL.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise InputRefused("there is no such file", where=str(path)) from error
    except Exception as error:  # protobuf raises its own kinds
        raise InputRefused("this is not a readable ONNX file", where=str(path)) from error
    for entry in model.metadata_props:
        if entry.key == KEY:
            try:
                data = json.loads(entry.value)
                tasks = tuple(build(spec_from_dict(task)) for task in data["tasks"])
                spec = InputSpec.from_dict(data["input"])
            except RecursionError as error:
                raise InputRefused(
                    "its task description is nested too deeply", where=str(path)
                ) from error
            except (ValueError, KeyError, TypeError) as error:
                raise InputRefused(
                    f"its task description is not readable: {error}", where=str(path)
                ) from error
            held = {output.name for output in model.graph.output}
            absent = [name for task in tasks for name in task.outputs if name not in held]
            if absent:
                raise InputRefused(
                    f"its task description names the output '{absent[0]}', which it does not have",
                    where=str(path),
                )
            return tasks, spec
    raise InputRefused(
        "this ONNX file does not say what its outputs mean",
        where=str(path),
        hint="use one that 'edgemtl export' or 'edgemtl compile' wrote, or the checkpoint",
    )
