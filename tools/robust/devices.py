"""Devices that answer anything: 'ssh' is a program of ours that says what a case wrote down."""

from __future__ import annotations

import hashlib
import json
import os
import random
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from robust import mutate
from robust.cases import Base, Case

#: says each answer of a case where the real one would; the last argument is the command
_SSH = """\
#!/bin/sh
for command; do :; done
case "$command" in
*"wc -c"*) cat answers/state ;;
*"cat >"*) cat > /dev/null ;;
*setsid*) ;;
*"told()"*) cat answers/code ;;
*.json*) cat answers/results ;;
*.err*) cat answers/said ;;
esac
cat answers/errors >&2
"""
_GOOD = {
    "schema_version": 1,
    "bundle": "net",
    "manifest_sha256": "0" * 64,
    "device": {"board": "a board"},
    "latency": {
        "samples_ms": [1.0, 1.5],
        "stable": True,
        "reason": "",
        "p50_ms": 1.2,
        "p90_ms": 1.4,
        "p99_ms": 1.5,
        "count": 2,
    },
}
#: how a run went, as the device tells it
_CODES = (b"0", b"0", b"0", b"0", b"1", b"2", b"3", b"4", b"8", b"9", b"10", b"77", b"137")
_ODD_CODES = (b"9" * 5000, b"-1", b"", b"gone", b"\x1b[2J", b"256", b"99999999999", b"1 2")
_SAID = (
    b"",
    b"error: no room",
    b"\x1b[31mred\x07\n::error::x",
    b"\xff\xfe",
    b"x" * 200_000,
    b"\r\n",
)


def use_our_ssh(folder: Path) -> None:
    """Put the program before the system's."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "ssh"
    place.write_text(_SSH, "utf-8")
    place.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def answer(base: Base, rng: random.Random, folder: Path) -> Case:
    """A bench on a device whose answers are spoilt."""
    (folder / "answers").mkdir()
    # Of this very bundle, or the answer is refused before anything else in it is looked at.
    good = json.dumps({**_GOOD, "manifest_sha256": _manifest(base.bundle)}).encode()
    ways: tuple[Callable[[random.Random, bytes], bytes], ...]
    ways = (mutate.some_json, mutate.some_json, mutate.some_json, mutate.some_bytes, _deep, _whole)
    way = rng.choice(ways)
    odd = rng.random() < 0.15
    parts = {
        "state": rng.choice((b"whole", b"whole", b"whole", b"9" * 5000, b"-3", b"\x1b[2J")),
        "code": rng.choice(_ODD_CODES if odd else _CODES),
        "results": way(rng, good),
        "said": rng.choice(_SAID),
        "errors": rng.choice(_SAID),
    }
    for name, content in parts.items():
        (folder / "answers" / name).write_bytes(content)
    how = f"{way.__name__}, code {parts['code'][:12]!r}, state {parts['state'][:12]!r}"
    flags = ("--json",) if rng.random() < 0.5 else ()
    words = ("bench", base.bundle, "--device", "ssh://board", *flags)
    return Case("device", how, words, (0, 2, 3, 4, 8, 9, 10))


@lru_cache(maxsize=1)
def _manifest(bundle: Path) -> str:
    with zipfile.ZipFile(bundle) as archive:
        return hashlib.sha256(archive.read("manifest.json")).hexdigest()


def _deep(rng: random.Random, data: bytes) -> bytes:
    return b'{"latency":' * rng.choice((20, 2000, 100_000))


def _whole(rng: random.Random, data: bytes) -> bytes:
    return data
