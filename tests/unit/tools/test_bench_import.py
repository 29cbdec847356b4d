"""The benchmark of ``import edgemtl`` prints both times and their ratio."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))

import bench_import


def test_times_and_ratio_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_import.main(["--pairs", "2"]) == 0
    bare, ours, ratio, *_ = capsys.readouterr().out.splitlines()
    pattern = r"(\S.*?)  +([\d.]+) ms \(95 % interval ([\d.]+) to ([\d.]+)\)"
    for line, name in ((bare, "python -c pass"), (ours, "import edgemtl")):
        found = re.fullmatch(pattern, line)
        assert found is not None and found[1] == name
        assert float(found[3]) <= float(found[2]) <= float(found[4])
    assert re.match(r"ratio +\d\.\d+ \(95 % interval .*, 2 pairs", ratio)


def test_one_pair_is_too_few() -> None:
    with pytest.raises(SystemExit):
        bench_import.main(["--pairs", "1"])
