"""What is spoilt, how, through which verbs, and which exit codes are right then."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from robust import mutate

#: judged again, a spoilt run may fail any gate; what it may never do is crash
ANY_VERDICT = (0, 3, 4, 5, 6, 7, 8, 9, 10)


@dataclass(frozen=True)
class Base:
    """Whole inputs, made once.

    Attributes:
        folder: holds ``model.pt`` (checkpoint), ``weights.pt`` (state dict), ``data`` (dense),
            ``faces``, ``run`` (a run folder with ``bundle``), ``model.onnx``, ``picture.jpg``,
            ``recipe.toml``, ``baseline.json``, ``trend.jsonl``.
        example: a checkpoint of faces.
    """

    folder: Path
    example: Path

    @property
    def bundle(self) -> Path:
        """The whole bundle."""
        return next((self.folder / "run" / "bundle").glob("*.edgemtl"))


@dataclass(frozen=True)
class Case:
    """One command on one spoilt file: the arguments and the exit codes that are right."""

    kind: str
    how: str
    arguments: tuple[object, ...]
    allowed: tuple[int, ...]


Maker = Callable[[Base, random.Random, Path], Case]


def _spoil(rng: random.Random, source: Path, to: Path, ways: tuple[mutate.Mutator, ...]) -> str:
    way = rng.choice(ways)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(way(rng, source.read_bytes()))
    return way.__name__


def checkpoint(base: Base, rng: random.Random, folder: Path) -> Case:
    """A checkpoint in our format, or the state dict of somebody's own network."""
    own = rng.random() < 0.3
    source = base.folder / ("weights.pt" if own else "model.pt")
    how = _spoil(rng, source, folder / "model.pt", (mutate.some_bytes, mutate.some_field))
    flags = ("--factory", "support.dense_family:build") if own else ()
    return Case("checkpoint", how, ("inspect", "model.pt", *flags, "--json"), (0, 2, 3))


def recipe(base: Base, rng: random.Random, folder: Path) -> Case:
    """A recipe, before anything is run; 3 where its data is another folder now."""
    how = _spoil(
        rng,
        base.folder / "recipe.toml",
        folder / "recipe.toml",
        (mutate.some_line, mutate.some_bytes),
    )
    # The recipe names its data from here; without them a whole one would be refused, too.
    (folder / "data").symlink_to(base.folder / "data")
    model = base.folder / "model.pt"
    arguments = ("compile", model, "--target=cpu", "-c", "recipe.toml", "--dry-run", "--json")
    return Case("recipe", how, arguments, (0, 2, 3))


def labels(base: Base, rng: random.Random, folder: Path) -> Case:
    """A label file, a label picture or a list of classes."""
    if rng.random() < 0.5:
        shutil.copytree(base.folder / "faces", folder / "data")
        file = folder / "data" / "val" / "label.txt"
        how = _spoil(rng, file, file, (mutate.some_line, mutate.some_line, mutate.some_bytes))
        model: Path = base.example
    else:
        shutil.copytree(base.folder / "data", folder / "data")
        files = [
            p
            for p in sorted((folder / "data").rglob("*"))
            if p.is_file() and "train" not in p.parts
        ]
        file = rng.choice([p for p in files if p.suffix != ".jpg"])
        ways = (
            (mutate.some_json,) if file.suffix == ".json" and rng.random() < 0.5 else mutate.BYTES
        )
        how = _spoil(rng, file, file, ways)
        model = base.folder / "model.pt"
    arguments = ("eval", model, "--data", "data", "--split", "val", "--json")
    return Case("labels", how, arguments, (0, 2, 3))


def onnx_file(base: Base, rng: random.Random, folder: Path) -> Case:
    """An ONNX file of ours."""
    ways = (mutate.some_bytes, mutate.some_node, mutate.some_node)
    how = _spoil(rng, base.folder / "model.onnx", folder / "model.onnx", ways)
    image = base.folder / "picture.jpg"
    # 4: the runtime cannot load a graph that is damaged in a way that no check before it found.
    return Case("onnx", how, ("run", "model.onnx", image, "-o", "out.png"), (0, 3, 4))


def bundle(base: Base, rng: random.Random, folder: Path) -> Case:
    """A bundle, its bytes or a member with fresh hashes."""
    ways = (mutate.some_bytes, mutate.some_member, mutate.some_member)
    how = _spoil(rng, base.bundle, folder / "net.edgemtl", ways)
    words: tuple[object, ...] = rng.choice(
        (
            ("verify", "net.edgemtl", "--json"),
            ("verify", "net.edgemtl"),
            ("run", "net.edgemtl", base.folder / "picture.jpg", "-o", "out.png"),
            ("inspect", "net.edgemtl", "--json"),
            ("gate", "net.edgemtl", "--json"),
        )
    )
    allowed = ANY_VERDICT if words[0] == "gate" else (0, 3, 4, 8, 10)
    return Case(
        "bundle", f"{how}, {words[0]}", words, (*allowed, 2) if words[0] == "gate" else allowed
    )


def run_folder(base: Base, rng: random.Random, folder: Path) -> Case:
    """A run folder's result files, judged, compared and drawn."""
    shutil.copytree(
        base.folder / "run", folder / "run", ignore=shutil.ignore_patterns("bundle", "model")
    )
    file = rng.choice(sorted((folder / "run").rglob("*.json")))
    how = _spoil(rng, file, file, (mutate.some_json, mutate.some_json, mutate.some_bytes))
    words: tuple[object, ...] = rng.choice(
        (
            ("gate", "run", "--json"),
            ("gate", "run", "--baseline", base.folder / "run", "--junit", "j.xml"),
            ("report", "run"),
            ("diff", base.folder / "run", "run", "--html", "d.html"),
        )
    )
    return Case("run folder", f"{file.name} {how}, {words[0]}", words, (*ANY_VERDICT, 2))


def baseline(base: Base, rng: random.Random, folder: Path) -> Case:
    """A committed baseline, or the trend."""
    if rng.random() < 0.7:
        how = _spoil(
            rng,
            base.folder / "baseline.json",
            folder / "b.json",
            (mutate.some_json, mutate.some_bytes),
        )
        words: tuple[object, ...] = ("gate", base.folder / "run", "--baseline", "b.json")
    else:
        how = _spoil(
            rng,
            base.folder / "trend.jsonl",
            folder / "t.jsonl",
            (mutate.some_json, mutate.some_line),
        )
        words = ("history", "t.jsonl", "--html", "t.html")
    return Case("baseline", f"{how}, {words[0]}", words, ANY_VERDICT)


#: each with its share of all cases
MAKERS: tuple[tuple[Maker, int], ...] = (
    (checkpoint, 4),
    (recipe, 4),
    (labels, 3),
    (onnx_file, 4),
    (bundle, 4),
    (run_folder, 3),
    (baseline, 2),
)


def cases(
    base: Base,
    count: int,
    seed: int,
    root: Path,
    makers: Sequence[tuple[Maker, int]] = MAKERS,
    done: Container[int] = (),
) -> Iterator[tuple[int, Case, Path]]:
    """So many cases, each with its own seed and its own folder, which the caller removes.

    Those whose numbers are in ``done`` are left out; the others are the same as without.
    """
    shares = [maker for maker, share in makers for _ in range(share)]
    for number in range(count):
        if number in done:
            continue
        rng = random.Random(f"{seed}:{number}")
        folder = root / f"case-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield number, shares[number % len(shares)](base, rng, folder), folder
