"""The checkpoint: a round trip, and a clear refusal of everything else."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.dense_family import build as build_dense
from torch import Tensor

from edgemtl.errors import ExitCode, InputRefused, StageFailed, UsageError
from edgemtl.models import checkpoint
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.mos.network import MOS


def mos() -> MOS:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MOS(variant="mos-t", context="plain", size=(64, 96), stitch="cross").eval()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "model.pt"
    checkpoint.save(checkpoint.from_network(build_dense(), {"note": "a test"}), path)
    return path


def refused(path: Path, factory: str | None = None) -> InputRefused:
    """Load, expect a refusal, and check what every refusal has to be."""
    with warnings.catch_warnings(), pytest.raises(InputRefused) as raised:
        warnings.simplefilter("error")
        checkpoint.load_network(path, factory)
    error = raised.value
    assert error.exit_code == ExitCode.INPUT_REFUSED == 3
    assert "\n" not in str(error) and "Traceback" not in str(error)
    return error


@pytest.mark.parametrize("make", [mos, build_dense])
def test_round_trip(tmp_path: Path, make: Callable[[], MultiTaskNetwork]) -> None:
    network = make()
    path = tmp_path / "deep" / "model.pt"
    checkpoint.save(checkpoint.from_network(network, {"epochs": 3}), path)
    again = checkpoint.load_network(path)
    assert type(again) is type(network) and not again.training
    assert again.arguments == network.arguments and again.input_spec == network.input_spec
    assert [t.spec() for t in again.tasks] == [t.spec() for t in network.tasks]
    assert checkpoint.weights_hash(again) == checkpoint.weights_hash(network)
    images = network.example_input()
    with torch.inference_mode():
        before, after = network(images), again(images)
    assert list(before) == list(after)
    for name, value in before.items():
        assert torch.equal(value, after[name])
    assert checkpoint.load(path).meta == {"epochs": 3}
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.pt"], "no temporary file stays"


def test_a_checkpoint_is_a_snapshot() -> None:
    network = build_dense()
    kept = checkpoint.from_network(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert checkpoint.weights_hash(kept.network()) == checkpoint.weights_hash(build_dense())


def test_the_weights_hash_sees_every_weight() -> None:
    network = build_dense()
    before = checkpoint.weights_hash(network)
    with torch.no_grad():
        next(iter(network.parameters())).view(-1)[0] += 1e-3
    assert checkpoint.weights_hash(network) != before


class Trap:
    """Unpickled without care, this makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("form", ["torch", "torch-legacy", "pickle", "inside"])
def test_code_is_not_run(tmp_path: Path, form: str) -> None:
    proof, path = tmp_path / "ran", tmp_path / "model.pt"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Trap(proof)))
    elif form == "inside":
        good = checkpoint.from_network(build_dense())
        payload = {"edgemtl_checkpoint": 1, "family": good.family, "meta": {"x": Trap(proof)}}
        torch.save(payload, path)
    else:
        torch.save(
            {"state_dict": Trap(proof)}, path, _use_new_zipfile_serialization=form == "torch"
        )
    for factory in (None, "support.dense_family:build"):
        error = refused(path, factory)
        assert "code or classes" in str(error) and "not run" in str(error)
        assert error.where == str(path) and error.hint
    assert not proof.exists()
    # The trap is a real one: an ordinary unpickler walks into it.
    if form == "pickle":
        pickle.loads(path.read_bytes()).close()  # noqa: S301
        assert proof.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    assert "code or classes" in str(refused(tmp_path / "model.pt"))


def test_missing_empty_and_folder(tmp_path: Path) -> None:
    assert "no such file" in str(refused(tmp_path / "absent.pt"))
    (tmp_path / "empty.pt").write_bytes(b"")
    assert "empty" in str(refused(tmp_path / "empty.pt"))
    assert "folder" in str(refused(tmp_path))


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_truncated_files(tmp_path: Path, stored: Path, share: float) -> None:
    whole = stored.read_bytes()
    path = tmp_path / "model.pt"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert refused(path).where == str(path)


@pytest.mark.parametrize("content", [b"\0", b"hello", b"PK\x03\x04", b"\x80\x02", b"\xff" * 5000])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    refused(tmp_path / "model.pt")


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_are_refused_or_harmless(tmp_path: Path, stored: Path, seed: int) -> None:
    """Damage anywhere either refuses the file or leaves a network that loads; nothing else."""
    generator = torch.Generator().manual_seed(seed)
    data = bytearray(stored.read_bytes())
    for at in torch.randint(0, len(data), (20,), generator=generator).tolist():
        data[at] ^= 0xFF
    (tmp_path / "model.pt").write_bytes(data)
    try:
        checkpoint.load_network(tmp_path / "model.pt")
    except InputRefused as error:
        assert "\n" not in str(error)


def test_a_checkpoint_without_our_mark_is_refused_with_the_way_in(tmp_path: Path) -> None:
    torch.save(build_dense().state_dict(), tmp_path / "weights.pt")
    error = refused(tmp_path / "weights.pt")
    assert "not an EdgeMTL checkpoint" in str(error) and "edgemtl import" in str(error)
    torch.save([1, 2], tmp_path / "list.pt")
    assert "not an EdgeMTL checkpoint" in str(refused(tmp_path / "list.pt"))


def tampered(stored: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    payload = torch.load(stored, weights_only=True)
    change(payload)
    path = tmp_path / "model.pt"
    torch.save(payload, path)
    return path


FIRST = "stem.conv.weight"


def _rename(payload: dict[str, Any]) -> None:
    payload["state_dict"]["stranger"] = payload["state_dict"].pop(FIRST)


def _fill(value: float) -> Callable[[dict[str, Any]], object]:
    return lambda payload: payload["state_dict"][FIRST].view(-1)[3].fill_(value)


def _weight(value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda payload: payload["state_dict"].update({FIRST: value})


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda payload: payload.update({key: value})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set("edgemtl_checkpoint", 2), "format '2' is not supported"),
        (_set("edgemtl_checkpoint", "1"), "not supported"),
        (_set("edgemtl_checkpoint", torch.ones(3)), "not supported"),
        (_set("family", "nobody"), "unknown network family 'nobody'"),
        (_set("family", 3), "'family' is missing or malformed"),
        (_set("family", "os"), "unknown network family 'os'"),
        (lambda p: p.pop("arguments"), "'arguments' is missing"),
        (_set("arguments", {"width": "wide"}), "cannot be built"),
        (_set("arguments", {"width": -3}), "cannot be built"),
        (_set("arguments", {"colour": 1}), "cannot be built"),
        (_set("arguments", {1: 2}), "cannot be built"),
        (_set("arguments", {"size": [64]}), "cannot be built"),
        (_set("arguments", {"width": 10**12}), "cannot be built"),
        (_set("state_dict", []), "'state_dict' is missing or malformed"),
        (_set("state_dict", {}), "missing"),
        (_set("state_dict", {3: torch.ones(1)}), "no tensor"),
        (_set("state_dict", {"a": 3}), "no tensor"),
        (lambda p: p["state_dict"].pop(FIRST), f"1 missing, 0 unknown, first missing '{FIRST}'"),
        (_weight(torch.zeros(2)), r"has shape \(2,\), the network wants \(16, 3, 3, 3\)"),
        (lambda p: p["state_dict"].update(odd=torch.ones(1)), "first unknown 'odd'"),
        (_rename, f"1 missing, 1 unknown, first missing '{FIRST}'"),
        (_fill(float("nan")), f"NaN or infinite values, first '{FIRST}'"),
        (_fill(float("inf")), "NaN or infinite"),
        (_weight(torch.zeros(16, 3, 3, 3, dtype=torch.complex64)), "dense tensor of real"),
        (_weight(torch.zeros(16, 3, 3, 3).to_sparse()), "dense tensor of real"),
        (_set("tasks", [{"name": "x"}]), "task description"),
        (_set("tasks", [3]), "'tasks' is missing or malformed"),
        (lambda p: p["tasks"].pop(), "tasks stored in the checkpoint are not"),
        (lambda p: p["tasks"].reverse(), "tasks stored in the checkpoint are not"),
        (lambda p: p["tasks"][0].update(name="other"), "tasks stored in the checkpoint are not"),
        (lambda p: p["input"].update(mean=[0, 0, 0]), "input specification is not what"),
        (lambda p: p["input"].update(size=[64, "x"]), "input specification is not readable"),
        (lambda p: p["input"].pop("std"), "input specification is not readable"),
        (_set("input", {}), "input specification is not readable"),
        (_set("pruning", [5]), "'pruning' is missing or malformed"),
        (_set("meta", None), "'meta' is missing or malformed"),
    ],
)  # fmt: skip
def test_tampered_fields_are_refused(
    stored: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    path = tampered(stored, tmp_path, change)
    with pytest.raises(InputRefused, match=reason):
        checkpoint.load_network(path)
    assert refused(path).where == str(path)


def test_the_untampered_payload_loads(stored: Path, tmp_path: Path) -> None:
    """Or the refusals above could come from the way the test writes files."""
    checkpoint.load_network(tampered(stored, tmp_path, lambda payload: None))


def test_a_factory_takes_a_bare_state_dict(tmp_path: Path) -> None:
    network = build_dense(seed=7)
    for name, payload in (
        ("bare", network.state_dict()),
        ("wrapped", {"state_dict": dict(network.state_dict()), "epoch": 4}),
    ):
        torch.save(payload, tmp_path / name)
        again = checkpoint.load_network(tmp_path / name, "support.dense_family:build")
        assert checkpoint.weights_hash(again) == checkpoint.weights_hash(network)
        assert not again.training
    torch.save({"state_dict": [1]}, tmp_path / "odd")
    assert "no state dict" in str(refused(tmp_path / "odd", "support.dense_family:build"))
    torch.save(mos().state_dict(), tmp_path / "other")
    assert "do not fit" in str(refused(tmp_path / "other", "support.dense_family:build"))


def test_a_factory_is_only_called_when_given(stored: Path) -> None:
    with pytest.raises(UsageError):
        checkpoint.load_network(stored, "support.dense_family:absent")


@pytest.mark.parametrize("size", [0, 20_000])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, size: int) -> None:
    """A process that may write only so many bytes per file stands for a disk that fills up."""
    if not hasattr(os, "fork"):
        pytest.skip("file size limits need a POSIX system")
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from support.dense_family import build\n"
        "from edgemtl.errors import StageFailed\n"
        "from edgemtl.models import checkpoint\n"
        "kept = checkpoint.from_network(build())\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        "try:\n"
        "    checkpoint.save(kept, Path(sys.argv[1]))\n"
        "except StageFailed as error:\n"
        "    sys.exit(int(error.exit_code))\n"
    )
    path = tmp_path / "model.pt"
    path.write_bytes(b"what was here before")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program, str(path)], env=environment, check=False)
    assert done.returncode == ExitCode.STAGE_FAILED
    assert path.read_bytes() == b"what was here before"
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", "utf-8")
    path = tmp_path / "file" / "model.pt"
    with pytest.raises(StageFailed) as raised:
        checkpoint.save(checkpoint.from_network(build_dense()), path)
    assert raised.value.where == str(path)


def test_loading_does_not_touch_the_callers_weights(stored: Path) -> None:
    kept = checkpoint.load(stored)
    before = copy.deepcopy(dict(kept.state_dict))
    network = kept.network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], value) for name, value in kept.state_dict.items())


def test_a_directory_that_claims_more_disks_is_refused(stored: Path, tmp_path: Path) -> None:
    # Found by tools/robustness.py: even asking whether such a file is a zip raises.
    data = bytearray(stored.read_bytes())
    locator = data.rfind(b"PK\x06\x07")
    assert locator > 0
    data[locator + 16] = 9  # the number of disks
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    assert "corrupt" in refused(path).message


def test_what_was_cut_from_a_factorys_network_is_cut_again(tmp_path: Path) -> None:
    import support.dense_family

    from edgemtl.compress.channels.cut import cut
    from edgemtl.compress.channels.discover import channel_groups

    network = support.dense_family.build()
    group = next(g for g in channel_groups(network) if g.width > 8)
    keep = torch.arange(group.width) % 2 == 0
    pruned = cut(network, {group.name: keep})
    path = tmp_path / "pruned.pt"
    checkpoint.save(checkpoint.from_network(pruned), path)
    again = checkpoint.load_network(path, "support.dense_family:build")
    images = torch.rand(1, 3, 64, 96)
    wanted, found = pruned(images), again(images)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in network.parameters())


def _with_first_weight(path: Path, change: Callable[[Tensor], Tensor]) -> str:
    good = checkpoint.from_network(build_dense())
    name = next(n for n, value in good.state_dict.items() if value.ndim == 4)
    state = dict(good.state_dict)
    state[name] = change(state[name])
    torch.save({**payload_of(good), "state_dict": state}, path)
    return name


def payload_of(good: checkpoint.Checkpoint) -> dict[str, Any]:
    """The fields of the file."""
    fields = ("family", "arguments", "state_dict", "tasks", "input", "pruning", "meta")
    return {"edgemtl_checkpoint": 1, **{f: _plain(getattr(good, f)) for f in fields}}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
def test_types_that_nothing_computes_with_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    path = tmp_path / "model.pt"
    name = _with_first_weight(path, lambda value: value.to(kind))
    assert name in str(refused(path))


def test_a_weight_larger_than_its_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    # Four bytes in the file, 4 TB once something looks at each number.
    name = _with_first_weight(path, lambda value: torch.zeros(1).expand(1 << 20, 1 << 20))
    error = refused(path)
    assert path.stat().st_size < 4 << 20
    assert f"'{name}'" in str(error) and "more numbers than the file" in str(error)


def test_a_small_expanded_weight_is_welcome(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    _with_first_weight(path, lambda value: torch.ones(1).expand(value.shape))
    checkpoint.load_network(path)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "x" * 600])
def test_names_of_weights_that_are_none(tmp_path: Path, name: str) -> None:
    good = checkpoint.from_network(build_dense())
    path = tmp_path / "model.pt"
    torch.save({**payload_of(good), "state_dict": {**good.state_dict, name: torch.zeros(1)}}, path)
    assert "the name of a weight is no name" in str(refused(path))


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "x" * 600, ""])
def test_names_of_families_and_tasks_that_are_none(tmp_path: Path, name: str) -> None:
    good = checkpoint.from_network(build_dense())
    path = tmp_path / "model.pt"
    torch.save({**payload_of(good), "family": name}, path)
    assert "the name of a family is no name" in str(refused(path))
    first, *others = good.tasks
    torch.save({**payload_of(good), "tasks": [{**first, "name": name}, *others]}, path)
    assert "the name of a task is no name" in str(refused(path))
