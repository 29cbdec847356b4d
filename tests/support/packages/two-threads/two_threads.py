"""A target: any CPU, with two threads for the network and int8 left out."""

from __future__ import annotations

from edgemtl.targets import Target

TWO_THREADS = Target(
    name="two-threads",
    description="A board whose network gets two threads",
    backend="onnxruntime",
    device="CPU",
    opset=17,
    precisions=("fp32",),
    channel_multiple=2,
    threads=2,
    gates={"latency": {"ratio": False}},
)
