"""The table of layers: what it predicts, what disturbs it, how it goes on and is used again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.dense_family import TinyDense, build
from support.layer_turns import BLOCK, ModelledTurns, exported, latency

from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.groups import snapped_widths
from edgemtl.compress.latency.cuts import measured_cuts
from edgemtl.compress.latency.layer_table import LayerTable
from edgemtl.compress.latency.measure import CUTS, FEW_CUTS, Measurement, layer_table
from edgemtl.compress.latency.profiles import ProfileStore, Setting
from edgemtl.compress.latency_model import LatencyModel, Measured, describe
from edgemtl.errors import InputRefused
from edgemtl.logs import Lines
from edgemtl.models.base import MultiTaskNetwork

SETTING = Setting("modelled", "1", "fp32/f32", 1, "none")
MULTIPLE = 2


def measure(
    turns: ModelledTurns,
    folder: Path | None = None,
    network: MultiTaskNetwork | None = None,
    setting: Setting = SETTING,
) -> LayerTable:
    of = network or build()
    store = ProfileStore(folder, setting)
    graph = exported(of)
    return layer_table(
        Measurement(of, channel_groups(of), graph, MULTIPLE, BLOCK, "cpu", turns, store)
    )


@pytest.fixture(scope="module")
def network() -> TinyDense:
    return build()


@pytest.fixture(scope="module")
def table() -> LayerTable:
    return measure(ModelledTurns())


def test_networks_that_were_not_measured_are_predicted(
    network: TinyDense, table: LayerTable
) -> None:
    groups = channel_groups(network)
    assert table.dense_ms == pytest.approx(latency(network))
    assert table.predict_widths({}) == pytest.approx(table.dense_ms)
    seen = measured_cuts(groups, MULTIPLE, CUTS, 0)
    for widths in measured_cuts(groups, MULTIPLE, 4, seed=11):
        assert widths not in seen
        keep = {g.name: torch.arange(g.width) < widths[g.name] for g in groups}
        wanted = latency(cut(network, keep, groups))
        assert table.predict_widths(widths) == pytest.approx(wanted, rel=0.03)
        assert table.predict(keep) == pytest.approx(table.predict_widths(widths))
    assert table.error is not None and table.error < 0.03
    assert LayerTable.from_dict(json.loads(json.dumps(table.to_dict()))).predict_widths(
        seen[0]
    ) == pytest.approx(table.predict_widths(seen[0]))
    for broken in ({}, {**table.to_dict(), "groups": 3}, {**table.to_dict(), "layers": [[]]}):
        with pytest.raises(InputRefused):
            LayerTable.from_dict(broken)


def test_a_narrower_group_never_costs_more_and_many_are_one_by_one(
    network: TinyDense, table: LayerTable
) -> None:
    groups = channel_groups(network)
    for start in ({}, *measured_cuts(groups, MULTIPLE, 3, seed=5)):
        for group in groups:
            widths = np.array(snapped_widths(group, 1))
            found = table.predict_many({**start, group.name: widths})
            assert (np.diff(found) >= 0).all() and found[0] < found[-1]
            one = table.predict_widths({**start, group.name: int(widths[3])})
            assert one == pytest.approx(found[3])


def test_a_slower_hour_changes_no_ratio(network: TinyDense, table: LayerTable) -> None:
    """The machine gets slower and faster, at memory more than at computing, call by call."""

    def slower(call: int) -> tuple[float, float]:
        swing = 1 + 0.3 * math.sin(call)
        return swing, swing**2

    disturbed = measure(ModelledTurns(slower))
    for widths in measured_cuts(channel_groups(network), MULTIPLE, 3, seed=7):
        steady = table.predict_widths(widths) / table.dense_ms
        assert disturbed.predict_widths(widths) / disturbed.dense_ms == pytest.approx(
            steady, rel=0.05
        )
    assert disturbed.noise > 0.1 and "disturbs" in describe(disturbed)
    assert table.noise == pytest.approx(0.0) and "disturbs" not in describe(table)


def test_a_killed_measurement_goes_on_and_is_not_repeated(
    tmp_path: Path, table: LayerTable
) -> None:
    turns, lines = ModelledTurns(refuses=5), list[str]()
    with pytest.raises(KeyboardInterrupt):
        measure(turns, tmp_path)
    assert turns.calls == 5
    with Lines(lines.append).shown():
        found = measure(turns, tmp_path)
    assert turns.calls == CUTS
    assert found.to_dict() == table.to_dict()
    (line,) = lines
    assert f"in {CUTS - 5} cuts" in line and "about 0" not in line
    measure(turns, tmp_path)
    assert turns.calls == CUTS
    other = Setting("modelled", "2", "fp32/f32", 1, "none")
    assert measure(turns, tmp_path, setting=other).cuts == CUTS
    assert turns.calls == 2 * CUTS
    for path in (tmp_path / SETTING.key).iterdir():
        path.write_text("{", "utf-8")  # a cache that was damaged is measured again
    measure(turns, tmp_path)
    assert turns.calls == 3 * CUTS


def test_layers_that_are_known_from_another_network_are_used_again(tmp_path: Path) -> None:
    turns, lines = ModelledTurns(), list[str]()
    measure(turns, tmp_path)
    other = TinyDense(width=14).eval()
    with Lines(lines.append).shown():
        found = measure(turns, tmp_path, other)
    assert turns.calls == CUTS + FEW_CUTS and found.cuts == FEW_CUTS
    assert "known from others" in lines[-1]
    for widths in measured_cuts(channel_groups(other), MULTIPLE, 3, seed=2):
        groups = channel_groups(other)
        keep = {g.name: torch.arange(g.width) < widths[g.name] for g in groups}
        wanted = latency(cut(other, keep, groups))
        assert found.predict_widths(widths) == pytest.approx(wanted, rel=0.05)
    wide = TinyDense(width=32).eval()  # wider than anything that was measured
    assert measure(turns, tmp_path, wide).cuts == CUTS


def test_a_correction_moves_all_predictions(network: TinyDense, table: LayerTable) -> None:
    model = LatencyModel(table, table.dense_ms, lambda a, b: (0.0, 1.0, 0.0), network)
    groups = channel_groups(network)
    (widths,) = measured_cuts(groups, MULTIPLE, 1, seed=2)
    keep = {g.name: torch.arange(g.width) < widths[g.name] for g in groups}
    share = model.predict(keep) / table.dense_ms
    model.correct(Measured(share, 1.1 * share, 0.0))
    assert model.predict(keep) / table.dense_ms == pytest.approx(1.1 * share)
    assert model.predict_many(widths)[0] == pytest.approx(model.predict(keep))
