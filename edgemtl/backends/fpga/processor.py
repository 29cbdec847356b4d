"""The processor's program by TVM: ``python -m edgemtl.backends.fpga.processor REQUEST.json``.

It runs in a process of its own (edgemtl.backends.tvm.child), because TVM ends its process on some
failures. The request is plain data (board.py): the processor's turns as ONNX files, which TVM
imports and compiles for the processor, and the accelerator's turns as tensors that go in and out.
A turn of the accelerator is an external function for TVM (``call_dps_packed``); the C++ behind it,
which goes into the same library, copies the tensors and calls the driver (hls/driver.h).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgemtl.backends.tvm.build import compiled
from edgemtl.backends.tvm.child import serve
from edgemtl.backends.tvm.settings import TvmOptions

#: TVM's name of our code generator
CODEGEN = "edgemtl_hls"
_SHIM = """\
#include <cstdint>
#include <dlpack/dlpack.h>
#include <tvm/ffi/c_api.h>

#include "driver.h"

namespace {{

alignas(64) int8_t buffer[{most}];

template <typename T> T *data_of(const TVMFFIAny &value) {{
    DLTensor *tensor = value.type_index == kTVMFFIDLTensorPtr
                           ? static_cast<DLTensor *>(value.v_ptr)
                           : TVMFFITensorGetDLTensorPtr(value.v_obj);
    return reinterpret_cast<T *>(static_cast<char *>(tensor->data) + tensor->byte_offset);
}}

// Where the graph keeps a value that the accelerator keeps at (position, channel).
template <bool MAP> int place(int position, int channel, int positions, int channels) {{
    return MAP ? channel * positions + position : position * channels + channel;
}}

// The graph's integers to the accelerator.
template <bool MAP>
int give(const TVMFFIAny &value, int64_t offset, int positions, int channels) {{
    const int8_t *from = data_of<int8_t>(value);
    for (int i = 0; i < positions; i++) {{
        for (int c = 0; c < channels; c++) {{
            buffer[i * channels + c] = from[place<MAP>(i, c, positions, channels)];
        }}
    }}
    return edgemtl_write(offset, buffer, int64_t(positions) * channels);
}}

// The accelerator's integers as real numbers. In 64 bits: a sum does not fit into a float.
template <typename T, bool MAP>
int take(const TVMFFIAny &value, int64_t offset, int positions, int channels, const float *scales,
         int several) {{
    if (edgemtl_read(offset, buffer, int64_t(positions) * channels * int64_t(sizeof(T)))) return 1;
    const T *from = reinterpret_cast<const T *>(buffer);
    float *to = data_of<float>(value);
    for (int i = 0; i < positions; i++) {{
        for (int c = 0; c < channels; c++) {{
            const double real = double(from[i * channels + c]) * double(scales[several ? c : 0]);
            to[place<MAP>(i, c, positions, channels)] = static_cast<float>(real);
        }}
    }}
    return 0;
}}

}}  // namespace
"""
_TURN = """
extern "C" __attribute__((visibility("default"))) int __tvm_ffi_{name}(
    void *, const TVMFFIAny *values, int32_t count, TVMFFIAny *) {{
    if (count != {count}) {{
        TVMFFIErrorSetRaisedFromCStr("RuntimeError", "a turn takes {count} tensors");
        return -1;
    }}
    if ({calls}) {{
        TVMFFIErrorSetRaisedFromCStr("RuntimeError", "the accelerator failed in turn {stage}");
        return -1;
    }}
    return 0;
}}
"""


def function_name(stage: int) -> str:
    """Of a turn of the accelerator, as TVM calls it."""
    return f"edgemtl_accelerator_{stage}"


def shim(turns: list[dict[str, Any]]) -> str:
    """C++ between TVM's calls and the driver: tensors in, the turn, tensors out.

    Args:
        turns: each with ``stage`` and the tensors it ``writes`` and ``reads`` (see board.py).
    """
    tables, bodies, most = list[str](), list[str](), 64
    for turn in turns:
        calls = list[str]()
        ports = [*turn["writes"], *turn["reads"]]
        for index, port in enumerate(ports):
            height, width, channels = port["shape"]
            most = max(most, height * width * channels * port["bits"] // 8)
            form = "true" if port["rank"] == 4 else "false"
            given = f"values[{index}], {port['offset']}, {height * width}, {channels}"
            if index < len(turn["writes"]):
                if port["copied"]:
                    calls.append(f"give<{form}>({given})")
                continue
            if index == len(turn["writes"]):
                calls.append(f"edgemtl_run({turn['stage']})")
            table = f"scales_{turn['stage']}_{index}"
            scales = np.asarray(port["scale"], np.float32).reshape(-1)
            written = ", ".join(f"{float(scale).hex()}f" for scale in scales)
            tables.append(f"static const float {table}[] = {{{written}}};\n")
            several = int(len(scales) > 1)
            calls.append(f"take<int{port['bits']}_t, {form}>({given}, {table}, {several})")
        bodies.append(
            _TURN.format(
                name=function_name(turn["stage"]),
                count=len(ports),
                calls=" ||\n        ".join(calls),
                stage=turn["stage"],
            )
        )
    return _SHIM.format(most=most) + "".join([*tables, *bodies])


def partitioned(request: Mapping[str, Any]) -> Any:
    """The int8 network as a Relax module, split.

    ``main`` holds the processor's turns; every turn of the accelerator is a function of its own
    with the nodes' meaning in floating point, marked for our code generator as TVM wants it
    (``Codegen``). So far TVM could run all of it.
    """
    import onnx
    from tvm import relax
    from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

    model = onnx.load(request["model"])
    turns = {turn["stage"]: turn for turn in request["turns"]}
    stages = {stage["stage"]: stage for stage in request["hosts"]}
    builder = relax.BlockBuilder()
    regions = {number: _region(builder, model, turns[number]) for number in sorted(turns)}
    importer = ONNXGraphImporter({}, "float32")
    importer.bb, tensors = builder, importer._nodes
    (name,) = request["inputs"]
    image = relax.Var("picture", relax.TensorType(request["inputs"][name], "float32"))
    tensors[name] = image
    with builder.function("main", [image]):
        with builder.dataflow():
            for number in sorted({*stages, *turns}):
                if number in turns:
                    turn = turns[number]
                    given = [builder.emit(tensors[port["name"]]) for port in turn["writes"]]
                    _keep(builder, builder.emit(relax.Call(regions[number], given)), turn, tensors)
                else:
                    _construct(importer, onnx.load(stages[number]["file"]))
            made = [tensors[output] for output in request["outputs"]]
            result = builder.emit_output(made[0] if len(made) == 1 else relax.Tuple(made))
        builder.emit_func_output(result)
    return builder.finalize()


def _construct(importer: Any, model: Any) -> None:
    """What TVM's importer does for a graph, for a piece of one, whose inputs are there."""
    importer.opset = next(one.version for one in model.opset_import if not one.domain)
    importer._parse_graph_initializers(model.graph)
    importer._check_for_unsupported_ops(model.graph)
    importer._construct_nodes(model.graph)


def _region(builder: Any, model: Any, turn: Mapping[str, Any]) -> Any:
    """A turn of the accelerator as a function: int8 tensors in, float32 out."""
    import onnx
    from tvm import relax
    from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

    name = function_name(turn["stage"])
    importer = ONNXGraphImporter({}, "float32")
    importer.bb = builder
    params = []
    for index, port in enumerate(turn["writes"]):
        params.append(relax.Var(f"given_{index}", relax.TensorType(port["graph_shape"], "int8")))
        importer._nodes[port["name"]] = params[-1]
    results = [port["real"][0]["name"] for port in turn["reads"]]
    nodes = _between(model.graph, {port["name"] for port in turn["writes"]}, results)
    read = {tensor for node in nodes for tensor in node.input}
    stored = [tensor for tensor in model.graph.initializer if tensor.name in read]
    piece = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, name, [], [], stored), opset_imports=model.opset_import
    )
    marks = {"Codegen": CODEGEN, "global_symbol": name}
    with builder.function(name, params, attrs=marks):
        with builder.dataflow():
            _construct(importer, piece)
            made = [importer._nodes[result] for result in results]
            result = builder.emit_output(made[0] if len(made) == 1 else relax.Tuple(made))
        return builder.emit_func_output(result)


def _between(graph: Any, given: set[str], wanted: list[str]) -> list[Any]:
    """The nodes that make ``wanted`` from ``given``, in the graph's order."""
    writer = {name: node for node in graph.node for name in node.output}
    needed, names = set[int](), list(wanted)
    while names:
        name = names.pop()
        node = writer.get(name)
        if name in given or node is None or id(node) in needed:
            continue
        needed.add(id(node))
        names += node.input
    return [node for node in graph.node if id(node) in needed]


def _keep(builder: Any, found: Any, turn: Mapping[str, Any], tensors: dict[str, Any]) -> None:
    """Note what a turn wrote, as the graph's tensors."""
    several = len(turn["reads"]) > 1
    for index, port in enumerate(turn["reads"]):
        value = builder.emit(found[index]) if several else found
        for left in port["real"]:
            tensors[left["name"]] = value


def module(request: Mapping[str, Any]) -> Any:
    """The split network after code generation: marked functions have become calls of our C++.

    TVM's RunCodegen hands the marked functions to ``relax.ext.edgemtl_hls``, which is
    :func:`shim` here, links what it returns, and calls it (``call_dps_packed``).
    """
    import tvm
    from tvm import relax

    def generate(functions: Any, _options: Any, _constants: Any) -> list[Any]:
        marked = {str(function.attrs["global_symbol"]) for function in functions}
        turns = [turn for turn in request["turns"] if function_name(turn["stage"]) in marked]
        names = [function_name(turn["stage"]) for turn in turns]
        create = tvm.get_global_func("runtime.CSourceModuleCreate")
        return [create(shim(turns), "cc", names, None)]

    tvm.register_global_func(f"relax.ext.{CODEGEN}", generate, override=True)
    passes = [relax.transform.RunCodegen(), relax.transform.DeadCodeElimination(["main"])]
    return tvm.transform.Sequential(passes)(partitioned(request))


def build(request: Mapping[str, Any]) -> dict[str, Any]:
    """Compile the module into ``library`` of each of the request's ``builds``.

    Returns:
        ``told``: per build what became of every function, see tvm/build.py.
    """
    import tvm_ffi
    from tvm.support import cc

    made = module(request)
    include = str(Path(tvm_ffi.__file__).parent / "include")
    told = []
    for wanted in request["builds"]:
        options = TvmOptions.model_validate(wanted["options"])
        executable, became = compiled(made, options)
        told.append(became)
        flags = ["-shared", "-fPIC", "-s", "-O2", "-std=c++17", f"-I{include}"]
        flags += [f"-I{request['driver']}"]
        flags += [f"-L{wanted['driver_folder']}", "-Wl,--no-as-needed", "-laccelerator"]
        flags += ["-Wl,-rpath,$ORIGIN", "-Wl,--allow-shlib-undefined", "-Wl,--build-id=none"]
        executable.export_library(
            wanted["library"], fcompile=cc.cross_compiler(options.compiler, options=flags)
        )
    return {"told": told}


if __name__ == "__main__":
    serve(build, sys.argv[1])
