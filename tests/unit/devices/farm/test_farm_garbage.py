"""What a worker answers may be anything: the job fails in words, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemtl.compress.remote import cut_losses, packed, remote_verdicts
from edgemtl.devices.farm.address import Credentials, FarmAddress
from edgemtl.devices.farm.client import Farm
from edgemtl.devices.farm.work import Job, JobResult
from edgemtl.errors import StageFailed
from edgemtl.pipeline.farm.compiling import _received
from edgemtl.pipeline.farm.shipping import Luggage
from edgemtl.pipeline.run_folder import RunFolder

GOOD = JobResult("cpu", "one", "/job", 0, {"result.json": "0" * 64}).to_dict()


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        [],
        "done",
        {},
        {**GOOD, "more": 1},
        {**GOOD, "name": "another"},
        {**GOOD, "files": None},
        {**GOOD, "files": {"result.json": 7}},
        {**GOOD, "exit_code": "0"},
        {**GOOD, "error": "x"},
        {**GOOD, "worker": None},
    ],
)
def test_a_worker_that_answers_garbage_fails_the_job_and_nothing_else(garbage: Any) -> None:
    farm = Farm(FarmAddress.parse("tcp://127.0.0.1:1", plain=True), Credentials(None))
    future = SimpleNamespace(status="finished", result=lambda timeout: garbage)
    found = farm._result(Job("cpu", ()), future)
    assert type(found.error) is StageFailed and found.error.where == "cpu"
    assert "what came from a worker is not readable" in found.error.message


class Dishonest:
    """A farm whose workers leave whatever the test says, under the digests that they announced."""

    address = "tls://nowhere"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def fetch(self, files: dict[str, str], folder: Path) -> None:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(self.files[name.removeprefix(".")])


RUN_JSON = b'{"schema_version": 1, "model": {"name": "m"}}'


@pytest.mark.parametrize(
    "files",
    [
        {"result.json": b"\xff"},
        {"result.json": b"[]"},
        {"result.json": b'{"error": 3}'},
        {"result.json": b'{"error": {"message": 1}}'},
        {"result.json": b'{"error": null}'},
        {"result.json": b'{"error": null, "exit_code": 99, "bundle": null}', "run.json": RUN_JSON},
        {"result.json": b'{"error": null, "exit_code": 0, "bundle": 5}', "run.json": RUN_JSON},
        {"result.json": b'{"error": null, "exit_code": 0, "bundle": "../x"}', "run.json": RUN_JSON},
        {
            "result.json": b'{"error": null, "exit_code": 0, "bundle": null}',
            "run.json": RUN_JSON,
            "gates.json": b'{"gates": 3}',
        },
        {"result.json": b'{"error": null, "exit_code": 0, "bundle": null}', "run.json": b"{{"},
    ],
)
def test_whatever_a_compile_there_leaves_is_an_error_in_words(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    run = RunFolder(tmp_path / "run")
    run.begin({"name": "m", "target": {"name": "cpu"}})
    names = {n if n == "result.json" else f"run/run/{n}": "0" * 64 for n in files}
    answer = JobResult("cpu", "one", "/job", files=names)
    farm: Any = Dishonest(files)
    found = _received(run, farm, Luggage({}, {}), answer)
    assert found.error is not None and found.exit_code in (3, 4)
    facts = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert facts["status"] == "failed"


@pytest.mark.parametrize("answer", [b"", b"garbage", packed({"losses": 3}), packed({})])
def test_garbage_about_losses_is_an_error_in_words(answer: bytes) -> None:
    reply = SimpleNamespace(result=lambda: answer, cancel=lambda: None)
    workers: Any = SimpleNamespace(width=1, send=lambda place, message: reply)
    with pytest.raises(StageFailed, match="what a worker answered is not readable"):
        cut_losses(workers, {}, 1)
    with pytest.raises(StageFailed, match="what a worker answered is not readable"):
        remote_verdicts(workers, {}, {}, [], 1)
