"""Python processes that this package starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgemtl.processes import environment, python_module


@pytest.mark.parametrize("module", ["pip", "edgemtl.cli.main"])
def test_a_file_of_the_current_folder_is_never_run(module: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    trap = f"open({str(marker)!r}, 'w').close()\n"
    (tmp_path / "pip.py").write_text(trap, "utf-8")
    (tmp_path / "edgemtl.py").write_text(trap, "utf-8")
    (tmp_path / "json.py").write_text(trap, "utf-8")
    subprocess.run(
        python_module(module, "--version"), cwd=tmp_path, env=environment(), capture_output=True
    )
    assert not marker.exists()
    # The trap works: without the flag it is run.
    command = [word for word in python_module(module, "--version") if word != "-P"]
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert marker.exists()
