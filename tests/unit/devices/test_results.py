"""A device's answer is a stranger's: what is no document of the runner is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

from edgemtl.devices.results import check_exit, checked_results, parse_results, printable
from edgemtl.errors import StageFailed

GOOD: dict[str, Any] = {
    "schema_version": 1,
    "bundle": "net",
    "manifest_sha256": "0" * 64,
    "device": {"board": "a board", "cores": 4},
    "latency": {
        "samples_ms": [1.0, 1.5],
        "stable": True,
        "reason": "",
        **{"p50_ms": 1.25, "p90_ms": 1.45, "p99_ms": 1.495, "count": 2},
    },
}


def text(**changes: Any) -> bytes:
    return json.dumps({**copy.deepcopy(GOOD), **changes}).encode()


def latency(**changes: Any) -> dict[str, Any]:
    return {**GOOD["latency"], **changes}


def test_a_document_of_the_runner_comes_through_as_it_is() -> None:
    assert parse_results(text(), "ssh://board") == GOOD
    assert parse_results(b" \n", "ssh://board") is None


@pytest.mark.parametrize(
    "answer",
    [
        b"[]",
        b"7",
        b"not json",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a": ' * 30 + b"1" + b"}" * 30,
        text(latency=[]),
        text(latency=latency(samples_ms=[])),
        text(latency=latency(samples_ms=[1.0, -2.0])),
        text(latency=latency(samples_ms=[0])),
        text(latency=latency(samples_ms=["1"])),
        text(latency=latency(samples_ms=[True])),
        text(latency=latency(samples_ms=[1e12])),
        text(latency=latency(p50_ms=-1.0)),
        text(latency=latency(p99_ms=None)),
        text(latency=latency(stable="yes")),
        text(latency={k: v for k, v in GOOD["latency"].items() if k != "p90_ms"}),
        text(latency=latency(count="2")),
        text(latency=latency(count=0)),
        text(device="a board"),
        text().replace(b"1.25", b"NaN"),
        text().replace(b"1.25", b"Infinity"),
        text().replace(b"1.25", b"9" * 400),
        text(more=[0] * 600_000),
    ],
)
def test_what_is_none_is_refused(answer: bytes) -> None:
    with pytest.raises(StageFailed, match="results are not readable"):
        parse_results(answer, "ssh://board")


def test_whatever_bytes_come_there_is_a_document_or_one_error() -> None:
    rng = np.random.default_rng(0)
    good = text()
    for _ in range(300):
        spoilt = bytearray(good)
        for place in rng.integers(len(spoilt), size=int(rng.integers(1, 6))):
            spoilt[place] = int(rng.integers(256))
        try:
            found = parse_results(bytes(spoilt), "ssh://board")
        except StageFailed:
            continue
        assert found is not None
        assert checked_results(found, "ssh://board") == found


def test_texts_are_fit_for_a_terminal() -> None:
    found = parse_results(text(bundle="a\x1b[2Jb\r\nc", device={"board": "x" * 5000}), "here")
    assert found is not None
    assert found["bundle"] == "a [2Jb  c"
    assert len(found["device"]["board"]) == 500
    assert printable("\u202eevil") == " evil"


def test_success_needs_figures_and_a_code_of_ours() -> None:
    check_exit(0, GOOD, "here")
    check_exit(9, None, "here")
    for code, document in ((0, None), (0, {"bundle": "net"}), (77, GOOD), (-1, GOOD)):
        with pytest.raises(StageFailed):
            check_exit(code, document, "here")
