"""What a checkpoint takes is known before it is read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from edgemtl.errors import InputRefused
from edgemtl.models.checkpoint import load_tensors
from edgemtl.models.memory import BASE_BYTES, require_memory, stored_bytes
from edgemtl.pipeline.inspection import inspect_file


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A checkpoint of 40 MB in a file of 40 kB, as torch reads it too."""
    torch.save({"a": torch.zeros(10_000_000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as made,
    ):
        for name in plain.namelist():
            made.writestr(name, plain.read(name))
    return tmp_path / "packed.pt"


def free(patch: pytest.MonkeyPatch, count: float) -> None:
    patch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=count))


def test_a_packed_checkpoint_is_as_large_as_what_it_holds(packed: Path) -> None:
    assert packed.stat().st_size < 100_000
    assert 40_000_000 < stored_bytes(packed) < 41_000_000
    assert load_tensors(packed)["a"].numel() == 10_000_000
    damaged = packed.with_name("damaged.pt")
    damaged.write_bytes(packed.read_bytes()[:-50])
    assert stored_bytes(damaged) == damaged.stat().st_size


def test_what_does_not_fit_is_refused_before_it_is_read(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 2e9)
    monkeypatch.setattr("edgemtl.models.memory.WORTH_SAYING", BASE_BYTES)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("it was read"))
    monkeypatch.setattr("edgemtl.models.memory.stored_bytes", lambda path: int(8e9))
    with pytest.raises(InputRefused, match=r"reading .* takes about 8.4 GB .* 2.0 GB are free"):
        load_tensors(packed)
    with pytest.raises(InputRefused, match=r"inspecting .* takes about 28.4 GB"):
        inspect_file(packed)


def test_what_fits_is_said_where_it_is_much(
    packed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "edgemtl"):
        require_memory(packed, 1, "reading")
        assert caplog.messages == []
        monkeypatch.setattr("edgemtl.models.memory.stored_bytes", lambda path: int(1e9))
        free(monkeypatch, 1e12)
        require_memory(packed, 3.5, "inspecting")
    assert caplog.messages == ["inspecting packed.pt takes about 3.9 GB of memory"]
