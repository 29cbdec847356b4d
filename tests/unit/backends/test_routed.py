"""Several networks behind a router: chosen, loaded late, bucketed, and the same in one file."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from support.pruning import networks, random_keep
from torch import Tensor, nn

from edgemtl import targets
from edgemtl.backends import registry
from edgemtl.backends.routed import ROUTING, Routing, read_routing, routed_session
from edgemtl.backends.session import Session
from edgemtl.backends.types import SessionOptions
from edgemtl.compress.channels.cut import cut
from edgemtl.compress.channels.discover import channel_groups
from edgemtl.errors import StageFailed
from edgemtl.exporting.routed import SINGLE_FILE, export_routed, single_file

FULL = networks()["tiny-dense"]
GROUPS = channel_groups(FULL)
PROTOTYPES = [cut(FULL, random_keep(GROUPS, seed), GROUPS) for seed in range(3)]
NETWORKS = [FULL, *PROTOTYPES]


class ByBrightness(nn.Module):
    """Prototype 1, 2, 3 for dark, middling, bright; unsure in between."""

    def forward(self, images: Tensor) -> Tensor:
        level = images.mean(dim=(1, 2, 3))[:, None]
        return torch.softmax(-8 * (level - torch.tensor([[-1.0, 0.0, 1.0]])).abs(), dim=1)


#: brightness -> who answers
CASES = {-1.0: 1, 0.0: 2, 1.0: 3, 0.5: 0}


def image(level: float) -> NDArray[np.float32]:
    """(1, 3, H, W) noise around a brightness."""
    noise = FULL.example_input(1, seed=int(10 * level) % 7).numpy()
    return np.ascontiguousarray(noise - noise.mean() + level, np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routed")
    export_routed(ByBrightness(), FULL, PROTOTYPES, 0.9, folder, targets.load("cpu"))
    single_file(folder, folder / SINGLE_FILE)
    return folder


def check(answers: dict[str, NDArray[np.float32]], images: NDArray[np.float32], who: int) -> None:
    with torch.no_grad():
        expected = NETWORKS[who](torch.from_numpy(images))
    assert list(answers) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(answers[name], value.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("target", ["cpu", "intel-cpu"])
def test_every_backend_answers_with_the_network_that_the_router_names(
    exported: Path, tmp_path: Path, target: str
) -> None:
    backend = registry.get(targets.load(target).backend)
    if not backend.availability().ok:
        pytest.skip(f"{backend.name}: {backend.availability().reason}")
    artefact = backend.compile(exported / ROUTING, targets.load(target), tmp_path)
    assert artefact.files[0] == ROUTING
    session = backend.load(artefact, SessionOptions(threads=1))
    for level, who in CASES.items():
        check(session.run(image(level)), image(level), who)
    session.close()
    # Each network is a variant, which opens without the router.
    assert [one.kind for one in artefact.variants] == ["prototype"] * len(NETWORKS)
    for who, one in enumerate(artefact.variants):
        alone = backend.load(artefact.variant(one.name), SessionOptions(threads=1))
        check(alone.run(image(0.0)), image(0.0), who)
        alone.close()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_one_file_with_nested_if_answers_the_same(exported: Path, runtime: str) -> None:
    path = exported / SINGLE_FILE
    if runtime == "onnxruntime":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def run(images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            return dict(zip(names, session.run(names, {"images": images}), strict=True))

    else:
        if importlib.util.find_spec("openvino") is None:  # imported only our way: it calls home
            pytest.skip("openvino is not installed")
        from edgemtl.backends.openvino import import_openvino

        model = (
            import_openvino()
            .Core()
            .compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        )

        def run(images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
            found = model(images)
            return {output.any_name: found[output] for output in model.outputs}

    for level, who in CASES.items():
        answers = run(image(level))
        check({name: answers[name] for name in FULL.output_names()}, image(level), who)


class Counting(Session):
    """Answers with its own number and counts its runs."""

    def __init__(self, number: int, batch: int) -> None:
        super().__init__((batch, 3, 2, 2), ("who",))
        self.number, self.runs = number, 0

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        self.runs += 1
        first = images.reshape(len(images), -1)[:, :1]
        return {"who": np.concatenate([first, np.full_like(first, self.number)], axis=1)}


class Looking(Session):
    """A router that reads the answer off the first pixel: 0 means unsure."""

    def __init__(self) -> None:
        super().__init__((1, 3, 2, 2), ("route",))

    def run_impl(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        which = int(images[0, 0, 0, 0])
        row = np.full((1, 3), 0.3, np.float32) if which == 0 else np.eye(3, dtype=np.float32)
        return {"route": row if which == 0 else row[which - 1 : which]}


def routed(batch: int, whole: int) -> tuple[Session, dict[str, Session]]:
    """A session over counting networks, and what it has loaded so far."""
    names = ("full", "a", "b", "c")
    loaded: dict[str, Session] = {}

    def load(name: str) -> Session:
        loaded[name] = Looking() if name == "router" else Counting(names.index(name), batch)
        return loaded[name]

    routing = Routing((whole, 3, 2, 2), ("who",), 0.5, "router", names, {})
    return routed_session(routing, load), loaded


def test_networks_are_loaded_when_first_needed() -> None:
    session, loaded = routed(1, 1)
    assert list(loaded) == ["router"]
    images = np.full((1, 3, 2, 2), 2, np.float32)
    assert session.run(images)["who"][0, 1] == 2
    session.run(images)
    assert list(loaded) == ["router", "b"]
    assert session.chosen == {"full": 0, "a": 0, "b": 2, "c": 0}  # type: ignore[attr-defined]


def test_a_batch_is_run_in_buckets_and_answered_in_its_order() -> None:
    session, loaded = routed(2, 6)
    wanted = [1, 3, 1, 0, 1, 3]
    images = np.stack([np.full((3, 2, 2), w, np.float32) for w in wanted])
    answers = session.run(images)["who"]
    assert answers[:, 0].tolist() == wanted  # each picture its own answer
    assert answers[:, 1].tolist() == wanted  # from its own network
    runs = {name: s.runs for name, s in loaded.items() if isinstance(s, Counting)}
    assert runs == {"full": 1, "a": 2, "c": 1}


def test_a_router_that_answers_nonsense_leads_to_the_full_network() -> None:
    routing = Routing((1, 3, 2, 2), ("y",), 0.5, "r", ("full", "a", "b"), {})
    rows = np.array([[np.nan, np.nan], [0.4, 0.4], [0.1, 0.9]], np.float32)
    assert routing.choose(rows).tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"networks": ["full.onnx"]},
        {"networks": ["full.onnx", "../a.onnx"]},
        {"router": "/etc/router.onnx"},
        {"threshold": "high"},
        {"input_shape": [1, 3]},
    ],
)
def test_a_routing_that_is_not_as_it_should_be_is_refused(
    exported: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    data = json.loads((exported / ROUTING).read_text("utf-8"))
    (tmp_path / ROUTING).write_text(json.dumps(data | change), "utf-8")
    with pytest.raises(StageFailed, match="not readable"):
        read_routing(tmp_path / ROUTING)


def test_the_runner_of_a_bundle_dispatches_like_the_product(exported: Path, tmp_path: Path) -> None:
    from edgemtl.devices.runner import runtimes

    backend = registry.get("onnxruntime")
    backend.compile(exported / ROUTING, targets.load("cpu"), tmp_path)
    session = runtimes.load(
        "onnxruntime", str(tmp_path / ROUTING), "CPU", 1, "f32", FULL.output_names()
    )
    assert session.facts["chosen"] == {"full": 0, **{f"prototype-{i}": 0 for i in (1, 2, 3)}}
    for level, who in CASES.items():
        check(dict(session.run(image(level))), image(level), who)
    assert sum(session.facts["chosen"].values()) == len(CASES)
    (tmp_path / ROUTING).write_text("{}", "utf-8")
    from edgemtl.devices.runner.errors import RunnerError

    with pytest.raises(RunnerError, match="not readable"):
        runtimes.load("onnxruntime", str(tmp_path / ROUTING), "CPU", 1, "f32", ("y",))
