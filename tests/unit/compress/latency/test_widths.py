"""Sizes of tensors as functions of the widths, against graphs of networks that were cut."""

from __future__ import annotations

import random

import onnx
import pytest
import torch
from support.dense_family import build
from support.layer_turns import exported

from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.latency.widths import GraphWidths, channels_of
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.mos.network import MOS
from edgemtl.models.registry import build as create


def small_mos() -> MultiTaskNetwork:
    """Depthwise layers, concatenations, splits and shuffled channels; folded as for pruning."""
    network = create("mos", {"variant": "mos-s", "context": "plain", "size": [64, 64]})
    assert isinstance(network, MOS)
    return network.folded().eval()


@pytest.mark.parametrize("make", [build, small_mos])
def test_every_tensor_of_a_cut_network_is_foretold(make: object) -> None:
    assert callable(make)
    network = make()
    groups = channel_groups(network)
    widths = GraphWidths(exported(network), groups)
    draw = random.Random(3)
    for _ in range(2):
        chosen = {group.name: draw.randint(1, group.width) for group in groups}
        keep = {group.name: torch.arange(group.width) < chosen[group.name] for group in groups}
        graph = onnx.shape_inference.infer_shapes(exported(cut(network, keep, groups))).graph
        argument = widths.argument(chosen)
        seen = 0
        for value in (*graph.value_info, *graph.output):
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            size = widths.channels(value.name)
            if size is None or len(shape) != 4:
                continue
            assert float(size @ argument) == pytest.approx(channels_of(shape)), value.name
            seen += 1
        assert seen > 10
    assert widths.argument({}) == pytest.approx(widths.dense)
