"""``edgemtl examples``: what is written, what is left alone, and what is refused."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from support.command import edgemtl

from edgemtl.errors import StageFailed
from edgemtl.pipeline import examples

ROOT = Path(__file__).parents[3]


def test_they_are_written_once_and_replace_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = edgemtl("examples")
    assert told.code == 0 and "examples/mos_t.pt: 5.5 MB" in told.out
    assert told.out.splitlines()[-1] == "next: edgemtl compile examples/mos_t.pt --target cpu"
    for name in examples.FILES:
        assert Path("examples", name).read_bytes() == (ROOT / "examples" / name).read_bytes()
    again = edgemtl("examples", "--json").json()
    assert [one["written"] for one in again] == [False] * len(examples.FILES)
    Path("examples", "picture.jpg").write_bytes(b"mine")
    Path("examples", "mos_t.pt").unlink()
    refused = edgemtl("examples")
    assert refused.code == 2 and "examples/picture.jpg: there is another file" in refused.error()
    assert not Path("examples", "mos_t.pt").exists()
    assert edgemtl("examples", "--force", "-o", "examples").code == 0
    assert Path("examples", "picture.jpg").read_bytes() != b"mine"


def test_an_installation_without_them_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "source", lambda: tmp_path / "gone")
    with pytest.raises(StageFailed, match="this installation lacks the example"):
        examples.write_examples(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_build_packs_what_the_verb_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setuptools.setup", lambda **kwargs: None)
    assert runpy.run_path(str(ROOT / "setup.py"))["EXAMPLES"] == examples.FILES
