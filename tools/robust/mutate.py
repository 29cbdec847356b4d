"""Ways to spoil a file: bytes anywhere, or something in the structure that a parser gets past."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

#: values that a field of JSON or TOML hardly ever has, and that code hardly ever expects
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    10**30,
    -(2**63),
    1e308,
    float("nan"),
    float("inf"),
    "",
    "../../x",
    "x" * 5000,
    "\x00",
    "\x1b[2J",
    "é̂網",
    [],
    [[]],
    {},
    {"a": {}},
    [1, 2, 3],
)

Mutator = Callable[[random.Random, bytes], bytes]


# --- bytes ------------------------------------------------------------------------------------


def flip(rng: random.Random, data: bytes) -> bytes:
    """One bit."""
    out = bytearray(data)
    if out:
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def scatter(rng: random.Random, data: bytes) -> bytes:
    """A share of all bytes, at random."""
    out = bytearray(data)
    for _ in range(1 + int(len(out) * rng.choice((0.001, 0.01, 0.1)))):
        if out:
            out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def cut(rng: random.Random, data: bytes) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data) + 1)]


def drop(rng: random.Random, data: bytes) -> bytes:
    """A piece in the middle is missing."""
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randint(1, 64) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    """A piece is there twice."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.randint(1, 4096))
    return data[:end] + data[start:]


def insert(rng: random.Random, data: bytes) -> bytes:
    """Something foreign in the middle."""
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.randint(1, 64)) + data[start:]


def blank(rng: random.Random, data: bytes) -> bytes:
    """A piece is zero."""
    start = rng.randrange(len(data) + 1)
    length = min(rng.randint(1, 4096), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


BYTES: tuple[Mutator, ...] = (flip, scatter, cut, drop, repeat, insert, blank)


def some_bytes(rng: random.Random, data: bytes) -> bytes:
    """One of the ways above."""
    return rng.choice(BYTES)(rng, data)


# --- text -------------------------------------------------------------------------------------


def some_line(rng: random.Random, data: bytes) -> bytes:
    """A line gone, doubled, swapped, or a word of it replaced."""
    lines = data.decode("utf-8", "replace").splitlines()
    if not lines:
        return b"\n"
    at = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[at])
        case 2:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            words = lines[at].split(" ")
            odd = rng.choice(
                ("nan", "inf", "-1", "1e999", "9" * 400, "x", "", '"', "[", "=", "\x00")
            )
            words[rng.randrange(len(words))] = odd
            lines[at] = " ".join(words)
        case _:
            lines[at] = lines[at] + rng.choice((" 1", "#", " = 3", "]", '"', " é", "\t" * 99))
    return ("\n".join(lines) + "\n").encode()


# --- JSON, and files that hold it -----------------------------------------------------------------


def odd_json(rng: random.Random, data: Any) -> Any:
    """The document with one value replaced, removed, or renamed; ``data`` may be changed."""
    places = list(_places(data))
    if not places:
        return rng.choice(ODD_VALUES)
    holder, key = rng.choice(places)
    match rng.randrange(4):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        case _:
            holder[key] = rng.choice(ODD_VALUES)
    return data


def _places(data: Any) -> Any:
    if isinstance(data, dict | list):
        for key in list(data) if isinstance(data, dict) else range(len(data)):
            yield data, key
            yield from _places(data[key])


def some_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON file with one odd value."""
    return json.dumps(odd_json(rng, json.loads(data)), ensure_ascii=rng.random() < 0.5).encode()


def some_member(rng: random.Random, data: bytes) -> bytes:
    """A bundle with a spoilt member and hashes that vouch for it, as an attacker would make it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])
    name_of = rng.choice(sorted(members))
    if rng.random() < 0.5:
        manifest = odd_json(rng, manifest)
    else:
        name = rng.choice([n for n in members if n != "manifest.json"])
        members[name] = some_bytes(rng, members[name])
        manifest["files"][name] = {
            "sha256": hashlib.sha256(members[name]).hexdigest(),
            "size": len(members[name]),
        }
    if rng.random() < 0.1:  # a name that is another's on some file system, or nobody's
        odd = rng.choice((name_of.upper(), "CON", f"{name_of}/x", "artefact/aux.txt", "a:b", "e. "))
        members[odd] = b"x"
        files = manifest.get("files")
        if isinstance(files, dict):
            files[odd] = {"sha256": hashlib.sha256(b"x").hexdigest(), "size": 1}
    if isinstance(manifest, dict) and rng.random() < 0.8:
        from edgemtl.devices.runner.manifest import OWN_HASH, own_hash

        with contextlib.suppress(ValueError, TypeError):  # NaN is in no hash
            manifest[OWN_HASH] = own_hash(manifest)
    members["manifest.json"] = json.dumps(manifest).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as out:
        for name, content in members.items():
            out.writestr(
                rng.choice((name, name, name, f"../{name}")) if rng.random() < 0.02 else name,
                content,
            )
    return stream.getvalue()


# --- checkpoints and graphs -----------------------------------------------------------------------


def _float8() -> tuple[Any, ...]:
    import torch

    return (torch.float8_e4m3fn, torch.float8_e5m2)


def some_field(rng: random.Random, data: bytes) -> bytes:
    """A checkpoint with one field that does not fit; written by ``torch.save``."""
    import torch

    loaded = torch.load(io.BytesIO(data), weights_only=True)
    if rng.random() < 0.5 or "state_dict" not in loaded:
        loaded = odd_json(rng, dict(loaded))
    else:
        state = dict(loaded["state_dict"])
        name = rng.choice(list(state))
        tensor = state.pop(name)
        match rng.randrange(7):
            case 0:
                state[f"{name}x"] = tensor
            case 5:
                state[name] = tensor.float().to(rng.choice(_float8()))
            case 6:  # four bytes in the file, terabytes by its shape
                sides = max(1, tensor.dim())
                state[name] = torch.zeros(1).expand(*[2 ** (40 // sides)] * sides)
            case 1:
                state[name] = tensor.double()
            case 2:
                state[name] = (
                    torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor
                )
            case 3:
                state[name] = tensor[..., :1]
            case _:
                pass
        loaded["state_dict"] = state
    stream = io.BytesIO()
    torch.save(loaded, stream)
    return stream.getvalue()


def some_node(rng: random.Random, data: bytes) -> bytes:
    """An ONNX file with one thing in its graph or its notes changed."""
    import onnx

    model = onnx.load_from_string(data)
    graph = model.graph
    node = rng.choice(graph.node)
    match rng.randrange(9):
        case 0:
            graph.node.remove(node)
        case 1:
            node.op_type = rng.choice(("Conv", "Relu", "Nope", "Loop", "NonZero", "Add"))
        case 2 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(
                ("", "nope", graph.input[0].name)
            )
        case 3 if node.attribute:
            attribute = rng.choice(node.attribute)
            attribute.i = rng.choice((-1, 0, 2**40))
            if attribute.ints:
                attribute.ints[0] = rng.choice((-1, 0, 2**40))
        case 4 if graph.initializer:
            tensor = rng.choice(graph.initializer)
            if tensor.dims:
                tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((0, -1, 1, 2**40))
        case 5:
            dims = graph.input[0].type.tensor_type.shape.dim
            dims[rng.randrange(len(dims))].dim_value = rng.choice((0, -1, 1, 7, 2**31))
        case 6 if model.metadata_props:
            note = rng.choice(model.metadata_props)
            note.value = some_bytes(rng, note.value.encode()).decode("utf-8", "replace")
        case 7:
            model.opset_import[0].version = rng.choice((0, 1, 99, -1))
        case _:
            graph.output[0].name = rng.choice(("nope", ""))
    return model.SerializeToString()
