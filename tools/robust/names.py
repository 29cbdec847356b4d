"""Names that a terminal, a CI service, XML, Markdown or a file system acts on, in every place."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

from robust.cases import ANY_VERDICT, Base, Case

PIECES = (
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\x00",
    "\x08" * 9,
    "\n::error::x",
    "\r\n##[error]x",
    "##vso[task.complete]",
    "::set-output name=a::b",
    "\u202egnp.",
    "\u2066",
    "\ufffe",
    "\ud800",
    "<script>alert(1)</script>",
    "]]>",
    "&amp;",
    "|",
    "`",
    "@all",
    "%0A",
    "../",
    "CON",
    "[red]",
    "{{ 1 }}",
    "é̂",
    "網",
    "a",
    " ",
    "x" * 300,
)
#: of a file's name: what the system lets be one
_IN_FILES = tuple(p.replace("/", "_") for p in PIECES if "\x00" not in p and len(p) < 100)


def name(base: Base, rng: random.Random, folder: Path) -> Case:
    """One odd name in one place."""
    odd = "".join(rng.choices(PIECES, k=rng.randint(1, 5)))
    place = rng.choice((_in_checkpoint, _in_onnx, _in_run, _in_run, _of_file, _of_image))
    return place(base, rng, folder, odd)


def _in_checkpoint(base: Base, rng: random.Random, folder: Path, odd: str) -> Case:
    import torch

    odd = odd.replace("\ud800", "")  # torch cannot store half a pair either
    loaded = torch.load(base.folder / "model.pt", weights_only=True)
    where = rng.choice(("family", "task", "kind", "weight", "class"))
    if where == "family":
        loaded["family"] = odd
    elif where == "weight":
        state = dict(loaded["state_dict"])
        state[odd] = state.pop(next(iter(state)))
        loaded["state_dict"] = state
    elif where == "class":
        loaded["arguments"]["classes"][0] = odd
        loaded["tasks"][0]["options"]["classes"][0] = odd
    else:
        loaded["tasks"][0]["name" if where == "task" else "kind"] = odd
    stream = io.BytesIO()
    torch.save(loaded, stream)
    (folder / "model.pt").write_bytes(stream.getvalue())
    flags = rng.choice((("--json",), ()))
    return Case("name", f"{where} of a checkpoint", ("inspect", "model.pt", *flags), (0, 3))


def _in_onnx(base: Base, rng: random.Random, folder: Path, odd: str) -> Case:
    import onnx

    model = onnx.load(base.folder / "model.onnx")
    (entry,) = (e for e in model.metadata_props if e.key == "edgemtl")
    described = json.loads(entry.value)
    where = rng.choice(("name", "kind"))
    described["tasks"][0][where] = odd
    entry.value = json.dumps(described)
    onnx.save(model, folder / "model.onnx")
    words = ("run", "model.onnx", base.folder / "picture.jpg", "-o", "out.png")
    return Case("name", f"{where} of an ONNX file's task", words, (3,))


def _in_run(base: Base, rng: random.Random, folder: Path, odd: str) -> Case:
    skipped = shutil.ignore_patterns("bundle", "model")
    shutil.copytree(base.folder / "run", folder / "run", ignore=skipped)
    file = rng.choice(sorted((folder / "run").rglob("*.json")))
    data = json.loads(file.read_bytes())
    places = [(holder, key) for holder, key in _names(data)]
    if places:
        holder, key = rng.choice(places)
        if isinstance(holder, dict) and rng.random() < 0.5:
            holder[odd] = holder.pop(key)
        else:
            holder[key] = odd
    file.write_text(json.dumps(data), "utf-8")
    words: tuple[object, ...] = rng.choice(
        (
            ("gate", "run", "--baseline", base.folder / "run", "--junit", "j.xml"),
            ("gate", "run"),
            ("report", "run"),
            ("diff", base.folder / "run", "run", "--html", "d.html"),
        )
    )
    return Case("name", f"in {file.name}, {words[0]}", words, (*ANY_VERDICT, 2))


def _names(data: Any) -> Any:
    if isinstance(data, dict | list):
        for key in list(data) if isinstance(data, dict) else range(len(data)):
            if isinstance(data, dict) or isinstance(data[key], str):
                yield data, key
            yield from _names(data[key])


def _file_name(rng: random.Random) -> str:
    return "".join(rng.choices(_IN_FILES, k=rng.randint(1, 4))).strip("./") or "x"


def _of_file(base: Base, rng: random.Random, folder: Path, odd: str) -> Case:
    stem = _file_name(rng).replace("\ud800", "\udcff")
    verb = rng.choice(("verify", "inspect", "gate"))
    if verb == "gate":
        place = folder / stem
        shutil.copytree(base.folder / "run", place, ignore=shutil.ignore_patterns("model"))
    else:
        place = folder / f"{stem}.edgemtl"
        shutil.copy(base.bundle, place)
    # With './' as a shell's completion would write it: a name may begin with a dash.
    return Case("name", f"of a file, {verb}", (verb, f"./{place.name}"), (*ANY_VERDICT, 2))


def _of_image(base: Base, rng: random.Random, folder: Path, odd: str) -> Case:
    shutil.copytree(base.folder / "data", folder / "data")
    image = next(iter(sorted((folder / "data" / "val" / "images").iterdir())))
    image.rename(image.with_name(f"{_file_name(rng).replace(chr(0xD800), chr(0xDCFF))}.jpg"))
    words = ("eval", base.folder / "model.pt", "--data", "data", "--split", "val")
    return Case("name", "of a picture, eval", words, (0, 3))
