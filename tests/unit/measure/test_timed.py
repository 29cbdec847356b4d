"""One builder of what is timed: what it is fed with."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.dense_family import build

from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.measure.results import StopRule
from edgemtl.measure.timed import Around, bench_request

ARTEFACT = Artefact("onnxruntime", "cpu", Path("artefact"), ("model.onnx",), True, {})
IMAGE, RECORDED = Path("street.png"), Path("input.npy")


@pytest.mark.parametrize(
    ("image", "recorded", "fed"),
    [
        (IMAGE, None, (IMAGE, None)),
        (None, RECORDED, (None, RECORDED)),
        (IMAGE, RECORDED, (IMAGE, None)),  # else the array would win, and no picture be timed
        (None, None, (None, None)),
    ],
)
def test_a_image_comes_before_what_was_recorded(
    image: Path | None, recorded: Path | None, fed: tuple[Path | None, Path | None]
) -> None:
    network = build()
    around = Around(network.tasks, network.input_spec, image, recorded)
    found = bench_request(ARTEFACT, SessionOptions(threads=3), StopRule(), 7, around)
    assert (found.image, found.input_array) == fed
    assert [task["name"] for task in found.tasks] == [task.name for task in network.tasks]
    assert found.input_spec == network.input_spec.to_dict()
    assert (found.options.threads, found.seed) == (3, 7)


def test_alone_only_the_network_is_timed() -> None:
    stop = StopRule(min_runs=2)
    found = bench_request(ARTEFACT, SessionOptions(), stop, 1)
    around = (found.tasks, found.input_spec, found.image, found.input_array)
    assert around == ((), None, None, None)
    assert found.stop == stop
