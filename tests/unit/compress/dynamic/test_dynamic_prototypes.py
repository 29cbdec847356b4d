"""From masks per picture to a few networks, and which of them are worth having."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.dense_family import build
from torch import Tensor

from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.dynamic.accounting import cost_model
from edgemtl.compress.dynamic.prototypes import Prototypes, cluster, held, make_prototypes
from edgemtl.compress.dynamic.router import NEVER, judge


def mask(*on: int) -> dict[str, Tensor]:
    """Of one group with four channels."""
    return {"g": torch.zeros(4, dtype=torch.bool).index_fill(0, torch.tensor(on), True)}


#: three kinds of pictures: the first five need channels 0 and 1, the next three 2 and 3, one all
IMPORTANCE = {
    "g": torch.tensor([[4.0, 4, 1, 1]] * 5 + [[1.0, 1, 4, 4]] * 3 + [[1.0, 9, 1, 1]]),
}
MADE = Prototypes(
    (mask(0, 1), mask(2, 3), mask(0, 2)), np.zeros(9, np.int64), (10.0, 20.0, 30.0), 0.9, False
)


def test_a_image_goes_where_most_of_its_importance_is_held() -> None:
    assert MADE.nearest(IMPORTANCE).tolist() == [0] * 5 + [1] * 3 + [0]
    np.testing.assert_allclose(held(MADE.keep, IMPORTANCE)[:, 0], [0.8, 0.2, 0.5], rtol=1e-6)


def test_a_prototype_that_hardly_a_image_needs_is_left_out() -> None:
    left = MADE.needed(IMPORTANCE, 3)
    assert left.macs == (10.0, 20.0)
    assert left.assigned.tolist() == [0] * 5 + [1] * 3 + [0]
    assert left.mean_macs == (6 * 10 + 3 * 20) / 9


def test_one_prototype_stays_whatever_is_asked() -> None:
    left = MADE.needed(IMPORTANCE, 7)
    assert left.macs == (10.0,)
    assert left.assigned.tolist() == [0] * 9


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.9])
def test_a_budget_is_spent_though_few_channels_seem_to_matter(kept: float) -> None:
    network = build()
    groups = channel_groups(network)
    model = cost_model(network, groups)
    importance = {g.name: torch.full((3, g.width), 1e-9) for g in groups}
    for value in importance.values():
        value[:, : value.shape[1] // 4] = 1.0
    made = make_prototypes(importance, groups, model, count=1, kept=kept, multiple=1)
    assert kept - 0.08 < made.mean_macs / float(model.macs({})) <= kept
    for name, keep in made.keep[0].items():
        assert keep[: len(keep) // 4].all(), name


def test_of_nested_prototypes_a_image_gets_the_one_that_does_as_much_as_it_needs() -> None:
    narrow, wide = mask(0, 1), mask(0, 1, 2, 3)
    none = np.zeros(3, np.int64)
    made = Prototypes((narrow, wide), none, (10.0, 20.0), 0.9, True, (1.2, 3.6), {"g": 1.0})
    few, all_of_them = [8.0, 1.0, 0.1, 0.1], [1.0, 1.0, 1.0, 1.0]
    importance = {"g": torch.tensor([few, all_of_them, few])}
    assert held(made.keep, importance).argmax(axis=0).tolist() == [1, 1, 1], "the widest, always"
    assert made.nearest(importance).tolist() == [0, 1, 0]
    assert made.needed(importance, 2).need == (1.2,)


def test_clusters_are_the_groups_that_are_there() -> None:
    points = np.repeat(np.eye(3), 4, axis=0)
    labels = cluster(points, np.ones(3), 3, seed=0)
    assert len(set(labels.tolist())) == 3
    assert all(len(set(labels[i : i + 4].tolist())) == 1 for i in (0, 4, 8))
    assert len(set(cluster(np.ones((5, 3)), np.ones(3), 3, seed=0).tolist())) == 1


def test_the_router_is_trusted_as_far_as_it_is_right() -> None:
    sure = np.array([0.99, 0.95, 0.9, 0.8, 0.7, 0.6])
    predicted = np.stack([sure, 1 - sure], axis=1).astype(np.float32)
    labels = np.array([0, 0, 0, 1, 0, 1])
    report = judge(predicted, labels, 0.95)
    assert report.accepted == 0.5
    assert report.precision == 1.0
    assert 0.8 < report.threshold < 0.9
    assert judge(predicted, np.ones(6, np.int64), 0.95).threshold == NEVER
