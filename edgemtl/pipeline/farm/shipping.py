"""What a job of ours takes along, and the paths of a worker as this machine knows them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemtl.devices.farm.client import Farm
from edgemtl.devices.farm.work import FOLDER, PYTHON, Job, JobResult, from_worker
from edgemtl.errors import InputRefused, StageFailed, from_data
from edgemtl.files import read_json, write_json
from edgemtl.pipeline.farm.job import RESULT

REQUEST = "request.json"
#: where the dense network lies in a job's folder
REFERENCE = "inputs/reference"
#: where nobody can take a job of ours
ADVICE = (
    "a worker needs the same versions of EdgeMTL, its tools and your own packages as this machine, "
    "and the target's backend; 'edgemtl farm status' lists what they offer"
)
#: of text files whose paths are put right
_TEXT = (".json", ".toml", ".txt", ".xml", ".md", ".html")


@dataclass(frozen=True)
class Luggage:
    """Files of a job.

    Attributes:
        files: relative path in the job's folder -> digest.
        places: relative path in the job's folder -> what the user calls it here.
    """

    files: Mapping[str, str]
    places: Mapping[str, str]

    def put_right(self, text: str, folder: str) -> str:
        """A text that a job left, with the user's own names for its paths.

        Args:
            text: any text, JSON too.
            folder: of the job, on its worker.
        """
        if not folder:
            return text
        for inside, here in sorted(self.places.items(), key=lambda pair: -len(pair[0])):
            there = f"{folder}/{inside}"
            for old, new in ((there, here), (_in_json(there), _in_json(here))):
                text = text.replace(old, new)
        return text

    def put_right_below(self, place: Path, folder: str) -> None:
        """The same for every text file below a folder."""
        for path in sorted(place.rglob("*")):
            if path.suffix in _TEXT and path.is_file():
                old = path.read_bytes().decode("utf-8", "surrogateescape")
                new = self.put_right(old, folder)
                if new != old:
                    path.write_bytes(new.encode("utf-8", "surrogateescape"))


def _in_json(text: str) -> str:
    return json.dumps(text)[1:-1]


def pack(
    farm: Farm,
    model: Path,
    data: Sequence[Path],
    splits: Iterable[str],
    reference: Path | None = None,
) -> Luggage:
    """Hand a model and its data to the farm.

    Of a data folder that has a folder per split only the splits that are used go along; other
    layouts go as a whole.

    Raises:
        InputRefused: a file or folder is not there.
    """
    check_there(model, data)
    if reference is not None:
        check_there(reference, ())
    inside = f"inputs/model/{model.name}"
    sources, places = {inside: model}, {inside: str(model)}
    if reference is not None:
        there = f"{REFERENCE}/{reference.name}"
        sources[there], places[there] = reference, str(reference)
    for index, root in enumerate(data):
        base = data_place(index, root)
        places[base] = str(root)
        for name, path in _files(root, splits).items():
            sources[f"{base}/{name}"] = path
    digests = farm.put(sources.values())
    return Luggage({name: digests[path] for name, path in sources.items()}, places)


def result_of(farm: Farm, luggage: Luggage, answer: JobResult) -> dict[str, Any]:
    """What a job of ours left in ``result.json``.

    Raises:
        EdgemtlError: what stopped the job, with this machine's paths.
    """
    problem = answer.problem()
    if problem is not None:
        raise problem
    if RESULT not in answer.files:
        raise StageFailed("the job left no result", where=f"{answer.name} on {answer.worker}")
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        farm.fetch({RESULT: answer.files[RESULT]}, Path(folder))
        found = read_json(Path(folder) / RESULT)
    if not isinstance(found, dict) or "error" not in found:
        raise InputRefused("the result of a job is not one", where=answer.name)
    if found["error"] is not None:
        with from_worker(answer.name):
            told = {
                key: None if text is None else luggage.put_right(text, answer.folder)
                for key, text in found["error"].items()
            }
            raise from_data(told)
    return found


def check_there(model: Path, data: Sequence[Path]) -> None:
    """Refuse what cannot be sent.

    Raises:
        InputRefused: a file or folder is not there.
    """
    if not model.is_file():
        raise InputRefused("there is no such file", where=str(model))
    for root in data:
        if not root.is_dir():
            raise InputRefused("there is no such data folder", where=str(root))


def data_place(index: int, root: Path) -> str:
    """Where a data folder lies in a job's folder; it keeps its name, which data sets bear."""
    return f"inputs/{index}/{root.name or root.resolve().name or 'data'}"


def _files(root: Path, splits: Iterable[str]) -> dict[str, Path]:
    folders = [root / split for split in dict.fromkeys(splits) if (root / split).is_dir()]
    found = {path.name: path for path in sorted(root.iterdir()) if path.is_file()}
    for folder in folders or [root]:
        seen: set[str] = set()
        for place, below, names in os.walk(folder, followlinks=True):
            real = os.path.realpath(place)
            if real in seen:  # a link to a folder above it
                below.clear()
                continue
            seen.add(real)
            for name in names:
                path = Path(place, name)
                if path.is_file():
                    found[path.relative_to(root).as_posix()] = path
    return found


def job_for(
    farm: Farm, name: str, request: Mapping[str, Any], luggage: Luggage, needs: Mapping[str, float]
) -> Job:
    """A job of ``edgemtl.pipeline.farm.job`` with this request."""
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        path = Path(folder) / REQUEST
        write_json(path, request)
        digest = farm.put([path], quiet=True)[path]
    module = "edgemtl.pipeline.farm.job"
    command = (PYTHON, "-P", "-m", module, f"{FOLDER}/{REQUEST}")
    return Job(name, command, {**luggage.files, REQUEST: digest}, needs, advice=ADVICE)
