"""Networks cut out of one network: its weights stored once, each cut as rows and columns of them.

A prototype's layer holds rows and columns of the full network's layer, times a factor per row that
its own batch norm put there when it was folded in. So its graph need not hold the weight: it takes
the rows and columns from the stored weight of the full network and multiplies. All of these are
constants, so a runtime that folds constants computes them once, when it opens the graph, and runs
what it would have run. Whether a weight is such a cut is checked number by number; one that is not
(it was trained on its own) is stored as it is.

Runtimes that do not fold constants get graphs with the weights put in again (:func:`inlined`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgemtl.backends.weightsfile import SMALLEST_BYTES, WEIGHTS_FILE, WeightsFile
from edgemtl.errors import StageFailed
from edgemtl.files import write_atomically

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: what nodes are called that put a weight together
PREFIX = "shared/"
#: largest error of a number, relative to the largest of its row: a few roundings to float32
TOLERANCE = 1e-6
#: a weight is a cut only if that takes less than this share of its bytes
SMALLEST_GAIN = 0.5

#: tensor -> dimension -> positions that were kept
Kept = Mapping[str, Mapping[int, Sequence[int]]]


@dataclass(frozen=True)
class Sharing:
    """What sharing saved.

    Attributes:
        bytes_apart: of all graphs with their own weights.
        bytes_shared: of all graphs and the one file of weights.
        cut: weights that are rows and columns of the full network's.
        equal: weights that are the full network's.
        own: weights that are neither.
    """

    bytes_apart: int
    bytes_shared: int
    cut: int
    equal: int
    own: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def share_weights(full: Path, cuts: Mapping[Path, Kept]) -> Sharing:
    """Rewrite graphs so that their weights lie once, in ``weights.bin`` beside them.

    Args:
        full: the ONNX file that the others were cut out of.
        cuts: ONNX file in the same folder -> what it keeps of the full network's tensors.

    Raises:
        StageFailed: a file cannot be written.
    """
    import onnx
    from onnx import numpy_helper

    weights = WeightsFile()
    whole = onnx.load(full)
    known = {t.name: numpy_helper.to_array(t) for t in whole.graph.initializer}
    models = {full: whole}
    before = sum(path.stat().st_size for path in (full, *cuts))
    counts = {"cut": 0, "equal": 0, "own": 0}
    for path, kept in cuts.items():
        models[path] = onnx.load(path)
        _refer(models[path], known, kept, counts)
    for model in models.values():
        weights.take(model.graph.initializer, WEIGHTS_FILE)
    write_atomically(full.with_name(WEIGHTS_FILE), lambda stream: stream.write(weights.data))
    for path, model in models.items():
        _write(path, model)
    after = sum(path.stat().st_size for path in models) + len(weights.data)
    return Sharing(before, after, **counts)


def _write(path: Path, model: ModelProto) -> None:
    data = model.SerializeToString(deterministic=True)
    write_atomically(path, lambda stream: stream.write(data))


def _refer(
    model: ModelProto, known: Mapping[str, NDArray[Any]], kept: Kept, counts: dict[str, int]
) -> None:
    """Replace weights by cuts of the full network's, in place."""
    from onnx import numpy_helper

    initializers = model.graph.initializer
    made: list[NodeProto] = []
    rest, added = [], {}
    for tensor in initializers:
        value = numpy_helper.to_array(tensor)
        if value.nbytes < SMALLEST_BYTES or tensor.name not in known:
            rest.append(tensor)
            counts["own"] += value.nbytes >= SMALLEST_BYTES
            continue
        base = known[tensor.name]
        if np.array_equal(base, value):
            rest.append(tensor)
            counts["equal"] += 1
            continue
        nodes, constants = _cut(tensor.name, value, base, kept.get(tensor.name, {}))
        if not nodes:
            rest.append(tensor)
            counts["own"] += 1
            continue
        made += nodes
        added.update(constants)
        counts["cut"] += 1
    kept_nodes = list(model.graph.node)
    del initializers[:], model.graph.node[:]
    model.graph.node.extend([*made, *kept_nodes])
    initializers.extend(rest)
    initializers.extend(numpy_helper.from_array(value, name) for name, value in added.items())


def _cut(
    name: str, value: NDArray[Any], base: NDArray[Any], kept: Mapping[int, Sequence[int]]
) -> tuple[list[NodeProto], dict[str, NDArray[Any]]]:
    """Nodes that write ``name`` from the full network's weight, and their constants; else nothing.

    Args:
        name: of the weight in both networks.
        value: the cut weight.
        base: the full network's.
        kept: dimension -> positions.
    """
    from onnx import helper

    if value.dtype != np.float32 or base.dtype != np.float32 or value.ndim < 2:
        return [], {}
    taken = base
    for dim, positions in kept.items():
        if dim >= base.ndim or (len(positions) and max(positions) >= base.shape[dim]):
            return [], {}
        taken = taken.take(positions, axis=dim)
    factors = _factors(value, taken)
    if factors is None:
        return [], {}
    constants: dict[str, NDArray[Any]] = {f"{PREFIX}{name}": base}
    nodes: list[NodeProto] = []

    def add(operator: str, constant: NDArray[Any], label: str, **attributes: Any) -> None:
        constants[f"{PREFIX}{name}/{label}"] = constant
        source = nodes[-1].output[0] if nodes else f"{PREFIX}{name}"
        label = f"{PREFIX}{name}/{label}"
        nodes.append(
            helper.make_node(operator, [source, label], [f"{label}/taken"], label, **attributes)
        )

    for dim, positions in sorted(kept.items()):
        add("Gather", np.asarray(positions, np.int64), f"of-{dim}", axis=dim)
    if not (factors == 1).all():
        add("Mul", factors.reshape([-1] + [1] * (value.ndim - 1)), "factors")
    spent = sum(c.nbytes for n, c in constants.items() if n != f"{PREFIX}{name}")
    if not nodes or spent > SMALLEST_GAIN * value.nbytes:
        return [], {}
    nodes[-1].output[0] = name
    return nodes, constants


def _factors(value: NDArray[Any], base: NDArray[Any]) -> NDArray[np.float32] | None:
    """(rows,) so that every row of ``value`` is that of ``base`` times its factor; else None."""
    if value.shape != base.shape or not value.size:
        return None
    rows, base_rows = (v.reshape(len(v), -1) for v in (value, base))
    exact = base_rows.astype(np.float64)
    square = (exact**2).sum(axis=1)
    ones = np.ones(len(square))
    ratio = np.divide((exact * rows).sum(axis=1), square, out=ones, where=square > 0)
    found: NDArray[np.float32] = ratio.astype(np.float32)
    error = np.abs(found[:, None] * base_rows - rows).max(axis=1)
    if not bool((error <= TOLERANCE * np.abs(rows).max(axis=1)).all()):
        return None
    if np.array_equal(base_rows, rows):
        return np.ones(len(rows), np.float32)
    return found


def is_shared(model: ModelProto) -> bool:
    """Whether a graph loaded without its external data refers to some."""
    return any(t.data_location == t.EXTERNAL for t in model.graph.initializer)


def inlined(path: Path, keep_cuts: bool = False) -> ModelProto:
    """A graph with all weights inside.

    Args:
        path: ONNX file, shared or not.
        keep_cuts: leave the taking of rows and columns to the runtime.

    Raises:
        OSError: the graph or its weights cannot be read.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    graph = model.graph
    taking = [node for node in graph.node if node.name.startswith(PREFIX)]
    if keep_cuts or not taking:
        return model
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in taking:
        first, second = (values[name] for name in node.input)
        if node.op_type == "Gather":
            found = first.take(second, axis=node.attribute[0].i)
        else:
            found = first * second
        values[node.output[0]] = found
        graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    rest = [t for t in graph.initializer if t.name in read]
    made = [n.output[0] for n in taking if n.output[0] in read]
    del graph.initializer[:]
    graph.initializer.extend(rest)
    graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in made)
    return model


@contextmanager
def whole(path: Path, keep_cuts: bool) -> Iterator[Path]:
    """The file itself, or a temporary one that holds the weights which lie beside it.

    Args:
        path: ONNX file.
        keep_cuts: see :func:`inlined`.

    Raises:
        StageFailed: these weights are missing or not readable.
    """
    import onnx

    try:
        apart = is_shared(onnx.load(path, load_external_data=False))
    except Exception:  # the backend says what is wrong with the file
        apart = False
    if not apart:
        yield path
        return
    try:
        content = inlined(path, keep_cuts).SerializeToString(deterministic=True)
    except Exception as error:  # onnx raises many kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StageFailed(f"its weights cannot be read ({reason})", where=path.name) from error
    with tempfile.TemporaryDirectory() as place:
        inside = Path(place) / path.name
        inside.write_bytes(content)
        yield inside
