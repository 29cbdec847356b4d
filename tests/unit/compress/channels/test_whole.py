"""Groups that the user wants left whole, by patterns of module paths, for every method."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from support.data import write_dense_folder
from support.dense_family import TinyDense, build
from support.pruning import networks

from edgemtl.compress.augmentation import prepare_all
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.compress.channels.whole import check_patterns, left_whole, matches
from edgemtl.compress.context import PruneContext, PruneOptions
from edgemtl.compress.cost import Goals
from edgemtl.compress.data_splits import DataSplits
from edgemtl.compress.loss_worker import Answers
from edgemtl.compress.prune import methods, prune
from edgemtl.data.dense import DenseFolder
from edgemtl.errors import StageFailed, UsageError
from edgemtl.logs import Lines


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSplits:
    root = write_dense_folder(tmp_path_factory.mktemp("dense"), "train", count=13, seed=3)
    return DataSplits.split([DenseFolder.open(root, "train")], oracle=4, calibration=8)


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def test_a_pattern_names_modules_and_what_lies_in_them() -> None:
    assert matches("decoders.parts.out", "decoders.*") and matches("decoders.parts.out", "decoders")
    assert matches("decoders.parts.out", "*.out") and matches("a.2.b", "a.[12]")
    assert not matches("decoders2.out", "decoders") and not matches("my.decoders", "decoders.*")


def test_unknown_patterns_are_refused_with_names_that_are_near() -> None:
    network = build()
    check_patterns(network, ["decoders.*", "stem", "*.out"], "keep_whole")
    with pytest.raises(UsageError, match=r"'decoder\.\*' matches no module") as caught:
        check_patterns(network, ["stem", "decoder.*"], "keep_whole")
    assert caught.value.where == "keep_whole" and "decoders" in str(caught.value.hint)
    with pytest.raises(UsageError) as caught:
        check_patterns(network, ["zzzz"], "only")
    assert "its modules: stem, fine, coarse, decoders" in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["tiny-dense", "mos-m", "m3vit"])
def test_what_is_kept_whole_has_no_member_in_a_group_that_may_be_cut(kind: str) -> None:
    network = networks()[kind]
    groups = channel_groups(network)
    for top in dict.fromkeys(name.split(".")[0] for name in shapes(network)):
        whole = left_whole(groups, [f"{top}.*"], [])
        for group in groups:
            touches = any(member.tensor.startswith(f"{top}.") for member in group.members)
            assert touches == (group.name in whole)
        only = left_whole(groups, [], [f"{top}.*"])
        for group in groups:
            inside = all(m.tensor.startswith(f"{top}.") for m in group.with_role("producer"))
            assert inside == (group.name not in only)


def test_the_reason_names_pattern_and_module() -> None:
    groups = channel_groups(build())
    kept = left_whole(groups, ["decoders.*"], [])
    assert (
        kept["coarse.conv"].startswith("keep_whole 'decoders.*': decoders.")
        and "reads" in (kept["coarse.conv"])
    )
    only = left_whole(groups, [], ["stem"])
    assert only["coarse.conv"] == "not among only: coarse.conv writes it"
    assert left_whole(groups, [], []) == {}


@pytest.mark.parametrize("method", methods())
def test_every_method_leaves_them_whole(method: str, data: DataSplits) -> None:
    network, told = build(), list[str]()
    before = shapes(network)
    options = PruneOptions(method, flops=0.85, channel_multiple=1, keep_whole=("decoders.*",))
    with Lines(told.append).shown():
        result = prune(network, data, options)
    after = shapes(result.network)
    assert {n: s for n, s in after.items() if n.startswith("decoders.")} == {
        n: s for n, s in before.items() if n.startswith("decoders.")
    }
    assert after["stem.conv.weight"] != before["stem.conv.weight"]
    assert set(result.to_dict()["left_whole"]) == set(result.left_whole) != set()
    assert any(line.startswith(f"{len(result.left_whole)} groups left whole") for line in told)
    # and the other way round
    options = PruneOptions(method, flops=0.85, channel_multiple=1, only=("decoders",))
    after = shapes(prune(network, data, options).network)
    changed = {name for name in before if after[name] != before[name]}
    assert changed and all(name.startswith("decoders.") for name in changed)


def test_nothing_left_to_cut_is_a_usage_error(data: DataSplits) -> None:
    options = PruneOptions("l1-uniform", flops=0.5, keep_whole=("*",))
    with pytest.raises(UsageError, match=r"all \d+ groups of channels are left whole") as caught:
        prune(build(), data, options)
    assert "fewer modules" in str(caught.value.hint)
    with pytest.raises(UsageError, match="matches no module"):
        prune(build(), data, PruneOptions("l1-uniform", flops=0.5, only=("head.*",)))


def test_workers_that_look_at_images_leave_the_same_groups_whole(data: DataSplits) -> None:
    network: TinyDense = build()
    spec = network.input_spec
    prepared = (
        prepare_all(data.oracle, network.tasks, spec, 0),
        prepare_all(data.calibration, network.tasks, spec, 0),
    )
    options = PruneOptions(keep_whole=("decoders.*",))
    rest = (None, None, None)
    context = PruneContext(deepcopy(network), prepared, options, Goals(0.5), *rest)
    expected = context.signature
    Answers(deepcopy(network), context.images, expected, PruneOptions(keep_whole=("decoders.*",)))
    with pytest.raises(StageFailed, match="another one on the worker"):
        Answers(deepcopy(network), context.images, expected)


def test_it_is_written_beside_the_checkpoint(tmp_path: Path, data: DataSplits) -> None:
    options = PruneOptions("l1-uniform", flops=0.85, channel_multiple=1, only=("stem", "fine"))
    found = prune(build(), data, options).to_dict()["left_whole"]
    assert found["coarse.conv"].startswith("not among only")
