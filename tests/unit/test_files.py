"""Where results are written."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from edgemtl.errors import StageFailed
from edgemtl.files import write_text


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    place = tmp_path / "report.html"
    write_text(place, "one")
    write_text(place, "two")
    assert place.read_text("utf-8") == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "shelf" / "real.json", tmp_path / "latest.json"
    target.parent.mkdir()
    link.symlink_to(target)
    for text in ("one", "two"):  # the target is not there at first
        write_text(link, text)
        assert link.is_symlink()
        assert target.read_text("utf-8") == text


def test_a_fifo_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_text("utf-8")))
    reader.start()
    write_text(pipe, "hello")
    reader.join()
    assert heard == ["hello"]
    assert pipe.is_fifo()


def test_a_device_is_written_into(tmp_path: Path) -> None:
    write_text(Path(os.devnull), "gone")
    assert Path(os.devnull).is_char_device()


def test_other_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="folder"):
        write_text(tmp_path, "text")
    place = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        with pytest.raises(StageFailed, match="socket"):
            write_text(place, "text")
    assert place.is_socket()
