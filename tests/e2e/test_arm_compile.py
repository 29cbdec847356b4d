"""A network compiled for an Arm board: cross-compiled, run under qemu, judged, bundled."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from support.arm import skip_without_arm_tools
from support.command import edgemtl
from support.dense_work import DenseWork

MODEL = Path(__file__).resolve().parents[2] / "examples" / "mos_t.pt"
QUICK = ["--target=rpi4", "--set=data.limit=1", "--set=export.parity_images=1"]


def check_compiled(folder: Path, flags: list[str], tasks: int) -> dict[str, int]:
    """Compile; check what is left in ``folder``; which templates compute it, and how often."""
    skip_without_arm_tools()
    told = edgemtl("compile", *flags, *QUICK, "-o", folder)
    # Every task was judged on the board's own code; its latency was not measured, so it is no pass.
    assert told.code == 8, told.err
    gates = json.loads((folder / "gates.json").read_text("utf-8"))
    states = {outcome["name"]: outcome["status"] for outcome in gates["outcomes"]}
    judged = {name: status for name, status in states.items() if name.startswith("tasks.")}
    assert len(judged) == tasks and set(judged.values()) == {"pass"}
    assert {states[name] for name in states if name.startswith("latency")} == {"not-measured"}
    assert not (folder / "bench" / "artefact.json").exists()
    forms = json.loads((folder / "parity.json").read_text("utf-8"))["stages"]
    assert all(row["ok"] for row in forms["artefact"]["outputs"])
    (bundle,) = (folder / "bundle").glob("*-rpi4.edgemtl")
    with zipfile.ZipFile(bundle) as archive:
        for name in ("model.so", "runner"):
            code = archive.read(f"artefact/{name}")
            assert code[18:20] == b"\xb7\x00"  # AArch64, says its header
        facts = json.loads(archive.read("manifest.json"))["artefact"]["facts"]
    templates: dict[str, int] = facts["templates"]
    return templates


def test_a_small_network_for_a_raspberry_pi(dense_work: DenseWork, tmp_path: Path) -> None:
    templates = check_compiled(tmp_path / "out", dense_work.flags(), tasks=2)
    assert templates["conv"] > 0 and templates["dense"] > 0


@pytest.mark.matrix  # the same for a network of 87 layers
def test_mos_t_for_a_raspberry_pi(tmp_path: Path) -> None:
    templates = check_compiled(tmp_path / "out", [str(MODEL)], tasks=3)
    assert templates["conv"] > 0 and templates["depthwise"] > 0
