"""What OpenVINO's ONNX front end says when it refuses a graph, taken apart.

One message holds all nodes that it cannot convert, between positions in its sources::

    -- GridSample-22 with a message:
    While validating ONNX node '<Node(GridSample): head>':
    GridSample is only supported for 4D input tensors. Got rank: 5
    Summary:
    -- No conversion rule found for operations: Det-22, ai.onnx.ml.Binarizer
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_UNKNOWN = re.compile(r"(?:No conversion rule found for|not supported) operations?: (.*)")
_BLOCK = re.compile(r"-- (\S+) with a message:")
_NODE = re.compile(r"<Node\([^)]*\): ([^>]*)>")
#: lines that say where in OpenVINO, not what is wrong
_NOISE = re.compile(
    r"(Exception from |Check '|While validating |Summary:?$|Shape inference input shapes|"
    r"FrontEnd API failed|Model wasn't fully converted|-- Conversion is failed for)"
)


@dataclass(frozen=True)
class Refusal:
    """One operator that was not converted.

    Attributes:
        op: ONNX operator, with its domain where that is not the standard one; empty where it is
            not said.
        node: name of the node, or of its first output; empty where it is not said.
        cause: what OpenVINO says about it; empty where it just does not know the operator.
    """

    op: str
    node: str
    cause: str


def first_telling(message: str) -> str:
    """The first line that says what is wrong; a message has many about places in the sources."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if not _NOISE.match(line)]
    return (telling or lines or [""])[0]


def refusals(message: str) -> list[Refusal]:
    """Every operator that the front end names, each once; empty where it names none."""
    found = []
    for line in message.splitlines():
        if named := _UNKNOWN.search(line):
            found += [Refusal(_operator(one), "", "") for one in named.group(1).split(",")]
    # What fails behind an unknown operator may fail because of it: it comes after.
    return list(dict.fromkeys([*found, *_blocks(message)]))


def _operator(told: str) -> str:
    """ "GridSample-22" without the opset."""
    return re.sub(r"-\d+$", "", told.strip())


def _blocks(message: str) -> Iterator[Refusal]:
    parts = _BLOCK.split(message)
    for op, text in zip(parts[1::2], parts[2::2], strict=True):
        own = text.split("\nSummary:")[0]
        node = _NODE.search(own)
        cause = first_telling(own)
        yield Refusal(_operator(op), node.group(1).strip() if node else "", cause)
