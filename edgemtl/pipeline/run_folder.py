"""The run folder: what a run leaves where a person looks for it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgemtl import __version__
from edgemtl.errors import StageFailed
from edgemtl.files import output_error, read_json, write_atomically, write_json, write_text
from edgemtl.pipeline.cache import TOOLS
from edgemtl.pipeline.stage import StageRecord
from edgemtl.record.run_record import RUN, SCHEMA_VERSION, VERSION, versioned

LOCK = ".lock"
PRIVATE = ".private"
#: what a run leaves beside ``run.json``
FILES = (
    "recipe.resolved.toml",
    "parity.json",
    "accuracy.json",
    "cost.json",
    "gates.json",
    "prune.json",
    "mask.json",
    "quantize.json",
    "modelled.json",
    "junit.xml",
    "report.html",
    "report.md",
)
FOLDERS = ("stages", "model", "bench", "pictures", "bundle", PRIVATE)


def new_name(model: Path, key: str) -> str:
    """``<utc>-<name>-<hash8>``."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{stamp}-{model.stem}-{key[:8]}"


def machine_facts() -> dict[str, Any]:
    """What this machine is, for provenance."""
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def tool_versions() -> dict[str, str]:
    """Versions of what did the work."""
    found = {"python": platform.python_version(), "edgemtl": __version__}
    for tool in TOOLS:
        try:
            found[tool] = version(tool)
        except PackageNotFoundError:
            continue
    return found


def _left_by_a_start(name: str) -> bool:
    """Whether a run leaves this before its ``run.json`` is there, if it is killed or beaten."""
    return name in (LOCK, PRIVATE) or name.startswith(f".{RUN}.")


class RunFolder:
    """A run's folder.

    Args:
        folder: made if it is not there. One that holds other things than a run is refused, so that
            a slip of ``--output`` cannot bury somebody's files.

    Raises:
        StageFailed: not writable, or not a run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            inside = {p.name for p in folder.iterdir()}
        except NotADirectoryError as error:
            raise StageFailed("this is not a folder", where=str(folder)) from error
        except FileExistsError as error:
            raise StageFailed("this is a file, not a folder", where=str(folder)) from error
        except OSError as error:
            raise output_error(error, folder) from error
        foreign = [name for name in inside if not _left_by_a_start(name)]
        if foreign and RUN not in inside:
            raise StageFailed(
                "the output folder holds other files",
                where=str(folder),
                hint="choose an empty or new folder with --output",
            )
        self._facts: dict[str, Any] = {}

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Write ``run.json`` for a run that has just begun; what an earlier run left goes."""
        self.clear()
        self._facts = {
            VERSION: SCHEMA_VERSION,
            "command": " ".join(["edgemtl", *sys.argv[1:]]),
            **facts,
            "versions": tool_versions(),
            "machine": machine_facts(),
            "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "status": "running",
            "stages": [],
            "exit_code": None,
            "error": None,
            "bundle": None,
        }
        write_json(self.folder / RUN, self._facts)

    def clear(self) -> None:
        """Remove what an earlier run left, less ``run.json``."""
        for name in FILES:
            (self.folder / name).unlink(missing_ok=True)
        for name in FOLDERS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        # Temporary files of a run that was killed: ".NAME.xxxxxxxx" beside NAME.
        for name in (RUN, *FILES):
            for left in self.folder.glob(f".{name}.*"):
                left.unlink(missing_ok=True)

    def update(self, **changes: Any) -> None:
        """Change fields of ``run.json``."""
        self._facts.update(changes)
        write_json(self.folder / RUN, self._facts)

    def add_stage(self, position: int, record: StageRecord) -> None:
        """Record a stage and its log under ``stages/NN-name``."""
        place = self.folder / "stages" / f"{position:02d}-{record.name}"
        data = asdict(record)
        write_json(place / "stage.json", versioned(data))
        if record.notes:
            write_text(place / "log.txt", "\n".join(record.notes) + "\n")
        data.pop("notes")
        data["seconds"] = round(record.seconds, 3)
        self.update(stages=[*self._facts["stages"], data])

    def publish(self, source: Path, name: str) -> None:
        """Copy a stage's file to its place in the run folder, if the stage left it.

        JSON gets the folder's version; what a stage keeps in the cache has none.
        """
        if not source.exists():
            return
        if source.suffix == ".json":
            self.publish_json(name, read_json(source))
            return
        with source.open("rb") as stream:
            write_atomically(self.folder / name, lambda out: shutil.copyfileobj(stream, out))

    def publish_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write JSON into the run folder, with its version."""
        write_json(self.folder / name, versioned(data))


def read_run(folder: Path) -> dict[str, Any]:
    """``run.json`` of a folder as plain data; empty when there is none that can be read."""
    try:
        data = json.loads((folder / RUN).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
