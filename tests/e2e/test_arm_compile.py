"""A trained network compiled for an Arm board: cross-compiled, run under qemu, judged, bundled."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from support.arm import skip_without_arm_tools
from support.command import edgemtl

MODEL = Path(__file__).resolve().parents[2] / "examples" / "mos_t.pt"
QUICK = ["--set", "data.limit=1", "--set", "export.parity_images=1"]


def test_mos_t_for_a_raspberry_pi(tmp_path: Path) -> None:
    skip_without_arm_tools()
    folder = tmp_path / "out"
    told = edgemtl("compile", str(MODEL), "--target", "rpi4", "-o", str(folder), *QUICK)
    # Every task was judged on the board's own code; its latency was not measured, so it is no pass.
    assert told.code == 8, told.err
    gates = json.loads((folder / "gates.json").read_text("utf-8"))
    states = {outcome["name"]: outcome["status"] for outcome in gates["outcomes"]}
    judged = {name: status for name, status in states.items() if name.startswith("tasks.")}
    assert len(judged) == 3 and set(judged.values()) == {"pass"}
    assert {states[name] for name in states if name.startswith("latency")} == {"not-measured"}
    assert not (folder / "bench" / "artefact.json").exists()
    forms = json.loads((folder / "parity.json").read_text("utf-8"))["stages"]
    assert all(row["ok"] for row in forms["artefact"]["outputs"])
    with zipfile.ZipFile(folder / "bundle" / "mos_t-rpi4.edgemtl") as archive:
        for name in ("model.so", "runner"):
            code = archive.read(f"artefact/{name}")
            assert code[18:20] == b"\xb7\x00"  # AArch64, says its header
        facts = json.loads(archive.read("manifest.json"))["artefact"]["facts"]
    assert facts["templates"]["conv"] > 0 and facts["templates"]["depthwise"] > 0
