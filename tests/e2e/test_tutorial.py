"""docs/tutorial.md, run as it is written."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from support.command import edgemtl

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_tutorial_works_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    # As written, but for how long is timed. Neither of the page's gates judges latency by itself.
    for key, value in {"SECONDS": "0.1", "MAX_SECONDS": "1", "WARMUP_SECONDS": "0"}.items():
        monkeypatch.setenv(f"EDGEMTL_BENCH__{key}", value)
    ran = []
    for language, text in BLOCK.findall(PAGE.read_text("utf-8")):
        if language in ("python", "toml"):
            first = text.splitlines()[0]
            Path(first.removeprefix("# ")).write_text(text, "utf-8")
            continue
        assert language == "bash"
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            if program == "python":
                # As Python would, but with what this process has imported already.
                runpy.run_path(arguments[0], run_name="__main__")
            elif program == "export":
                name, _, value = arguments[0].partition("=")
                monkeypatch.setenv(name, os.pathsep.join([value, *sys.path]))
            else:
                assert program == "edgemtl"
                told = edgemtl(*arguments)
                assert told.code == 0, f"{line}\n{told.out}\n{told.err}"
                ran.append(arguments[0])
    assert ran == ["compile", "verify", "run", "gate", "gate"]
    run = json.loads(Path("runs/first/run.json").read_text("utf-8"))
    stages = [stage["name"] for stage in run["stages"]]
    assert {"prune", "quantize", "bundle", "gates"} <= set(stages)
    assert Path("seen.png").is_file() and Path("runs/first/report.html").is_file()
