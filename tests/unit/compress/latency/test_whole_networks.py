"""The table of a runtime that tells nothing of its layers, from the latencies of whole networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.dense_family import TinyDense, build
from support.layer_turns import BLOCK, exported, latency

from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.groups import snapped_widths
from edgemtl.compress.latency.cuts import measured_cuts
from edgemtl.compress.latency.durations import duration
from edgemtl.compress.latency.layer_table import LayerTable
from edgemtl.compress.latency.measure import Measurement
from edgemtl.compress.latency.profiles import ProfileStore, Setting
from edgemtl.compress.latency.whole import WHOLE_CUTS, whole_table
from edgemtl.logs import Lines
from edgemtl.models.base import MultiTaskNetwork

SETTING = Setting("modelled", "1", "fp32/f32", 1, "none")


class Stopwatch:
    """Modelled milliseconds; ``refuses`` is the call that is killed."""

    def __init__(self, refuses: int | None = None) -> None:
        self.calls, self.refuses = 0, refuses

    def __call__(self, a: MultiTaskNetwork, b: MultiTaskNetwork) -> tuple[float, float, float]:
        if self.calls == self.refuses:
            self.refuses = None
            raise KeyboardInterrupt
        self.calls += 1
        return latency(a), latency(a) / latency(b), 0.01


def measure(watch: Stopwatch, folder: Path | None = None) -> LayerTable:
    network = build()
    groups = channel_groups(network)
    store = ProfileStore(folder, SETTING)
    asked = Measurement(network, groups, exported(network), 2, BLOCK, "tvm-x86", None, store)
    return whole_table(asked, watch)


@pytest.fixture(scope="module")
def table() -> LayerTable:
    return measure(Stopwatch())


def test_few_cuts_tell_what_others_take(table: LayerTable) -> None:
    network: TinyDense = build()
    groups = channel_groups(network)
    assert table.predict_widths({}) == pytest.approx(latency(network))
    for widths in measured_cuts(groups, 2, 4, seed=11):
        keep = {g.name: torch.arange(g.width) < widths[g.name] for g in groups}
        wanted = latency(cut(network, keep, groups))
        assert table.predict_widths(widths) == pytest.approx(wanted, rel=0.08)
    assert table.error is not None and table.error < 0.08
    for group in groups:
        found = table.predict_many({group.name: np.array(snapped_widths(group, 1))})
        assert (np.diff(found) >= 0).all() and found[0] < found[-1]


def test_a_killed_measurement_goes_on_and_says_how_long_it_takes(
    tmp_path: Path, table: LayerTable
) -> None:
    watch, lines = Stopwatch(refuses=2), list[str]()
    with pytest.raises(KeyboardInterrupt):
        measure(watch, tmp_path)
    with Lines(lines.append).shown():
        again = measure(watch, tmp_path)
    assert watch.calls == WHOLE_CUTS and again.predict_widths({}) == table.predict_widths({})
    (line,) = lines
    assert f"timing {WHOLE_CUTS - 2} cuts" in line and "about 0" not in line
    measure(watch, tmp_path)
    assert watch.calls == WHOLE_CUTS


def test_an_estimate_is_never_nothing() -> None:
    assert duration(0.0) == duration(0.4) == "1 s"
    assert duration(61) == "61 s" and duration(180) == "3.0 min"
