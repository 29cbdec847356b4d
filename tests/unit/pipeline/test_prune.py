"""One way to prune: the verb and ``compile`` ask for the same, decide once, and load once."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.command import edgemtl
from support.data import write_dense_folder
from support.dense_family import build
from support.dense_work import FACTORY, NO_BENCH, DenseWork, write_dense_work
from support.matrix import only

from edgemtl import targets
from edgemtl.compress.context import PruneOptions
from edgemtl.compress.prune import methods
from edgemtl.data import open as formats
from edgemtl.errors import EdgemtlError, StageFailed
from edgemtl.pipeline import prune as operation
from edgemtl.pipeline import prune_default, stage
from edgemtl.pipeline.compile import CompileRequest, compile_model
from edgemtl.pipeline.defaults import recipe_for
from edgemtl.pipeline.prune_stage import Prune
from edgemtl.pipeline.pruning import PruneFile, prune_file
from edgemtl.progress import Progress, listening

RECIPES: dict[str, list[str]] = {
    "nothing": [],
    "a goal": ["prune.flops=0.5"],
    "milliseconds": ["prune.latency_ratio=0.6"],
    "a budget": ["prune.budgets.parts=1.2"],
    "tasks, rounds, gates": [
        'model.tasks=["parts"]',
        "prune.rounds=3",
        "gates.tasks.parts.max_relative_drop=0.06",
        "quantize.budgets.parts=0.01",
    ],
    "no recovery": ["recover.steps=0", "prune.channel_multiple=3"],
    "goal first": ["prune.priority=goal", "data.seed=7"],
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> DenseWork:
    return write_dense_work(tmp_path_factory.mktemp("work"), images=12)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[PruneOptions]:
    """What the one that prunes is asked; it is not let go on."""
    found: list[PruneOptions] = []

    def prune(network: Any, data: Any, options: PruneOptions, *rest: Any) -> None:
        found.append(options)
        raise StageFailed("asked")

    monkeypatch.setattr(operation, "prune", prune)
    return found


class Quiet:
    """A reporter that says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *told: None


@pytest.mark.parametrize("target_name", only(["cpu", "jetson", "rpi4", "zcu104"], targets.names()))
def test_the_verb_and_compile_ask_for_the_same(
    work: DenseWork, asked: list[PruneOptions], target_name: str, tmp_path: Path
) -> None:
    target = targets.load(target_name)
    cases = [("pagcp", name) for name in RECIPES] + [(one, "nothing") for one in methods()]
    for method, name in cases:
        given = [
            f"data.root={str(work.data)!r}",
            "prune.enabled=true",
            "prune.oracle_images=4",
            "prune.calibration_images=4",
            f"prune.method={method}",
            *RECIPES[name],
        ]
        recipe = recipe_for(target, None, given)
        refused: list[str] = []
        asked.clear()
        try:
            prune_file(
                PruneFile(work.model, tmp_path / "out.pt", target, recipe, FACTORY),
            )
        except EdgemtlError as error:
            refused.append(str(error))
        request = CompileRequest(
            work.model, target, recipe, FACTORY, tmp_path / "run", tmp_path / "cache"
        )
        try:
            Prune("prune").run(context_of(request), tmp_path)
        except EdgemtlError as error:
            refused.append(str(error))
        assert refused[0] == refused[1], (method, name)
        if refused[0] == str(StageFailed("asked")):
            verb, compiled = asked
            assert verb == compiled, (method, name)
        else:  # milliseconds of a device that is not here
            assert name == "milliseconds" and not asked


def context_of(request: CompileRequest) -> stage.Context:
    """The context of a run, with the key of the stage that pruning comes after."""
    from edgemtl.pipeline import compile as whole

    context = whole._context(request)
    context.keys["model"] = "0" * 64
    return context


def test_the_targets_goal_and_gates_reach_both_commands(
    work: DenseWork, asked: list[PruneOptions], tmp_path: Path
) -> None:
    """Through the command line: this once gave 0.4/0.4 there and 0.2 here, without gates there."""
    target = tmp_path / "strict.toml"
    text = (Path(targets.__file__).parents[1] / "targets" / "intel-cpu.toml").read_text("utf-8")
    target.write_text(
        text.replace("openvino", "onnxruntime")
        + "\n[gates.tasks.parts]\nmax_relative_drop = 0.08\n",
        "utf-8",
    )
    slices = ("--set=prune.oracle_images=4", "--set=prune.calibration_images=4")
    common = [work.model, "--factory", FACTORY, "--data", work.data, "--target", target, *slices]
    verb = edgemtl("prune", *common, "-o", tmp_path / "out.pt")
    run = edgemtl(
        *("compile", *common, "--prune", "--until-stage=prune", "-o", tmp_path / "run"),
        "--set=quantize.enabled=true",
    )
    assert verb.code == run.code, (verb.err, run.err)
    first, second = asked
    assert first == second
    assert (first.flops, first.params) == (0.2, None)
    assert first.most_drop["parts"] == pytest.approx(0.04)  # quantisation has the other half


# --- the decision --------------------------------------------------------------------------------


def _compile(work: DenseWork, folder: Path, *flags: str) -> dict[str, Any]:
    told = edgemtl(
        *("compile", *work.flags(), "--target=cpu", *NO_BENCH, *flags),
        *("--set=export.parity_images=1", "-o", folder),
    )
    assert told.code == 0, told.err
    run: dict[str, Any] = json.loads((folder / "run.json").read_text("utf-8"))
    return run


def test_what_is_not_pruned_is_shown_as_skipped_with_the_reason(
    work: DenseWork, tmp_path: Path
) -> None:
    run = _compile(work, tmp_path / "run", "--until-stage=export")
    stages = {one["name"]: one["status"] for one in run["stages"]}
    assert stages.keys() == {"model", "prune", "export"} and stages["prune"] == "skipped"
    assert "12 training pictures are too few" in run["pruning"]
    assert run["recipe"]["prune"]["enabled"] is False
    log = (tmp_path / "run" / "stages" / "02-prune" / "log.txt").read_text("utf-8")
    assert log.strip() == run["pruning"]
    resolved = (tmp_path / "run" / "recipe.resolved.toml").read_text("utf-8")
    assert "enabled = false" in resolved.partition("[recover]")[0].partition("[prune]")[2]


def test_a_decision_to_prune_plans_anew(
    work: DenseWork, tmp_path: Path, asked: list[PruneOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_default, "FEWEST_IMAGES", 8)
    slices = ("--set=prune.oracle_images=4", "--set=prune.calibration_images=4")
    told = edgemtl(
        *("compile", *work.flags(), "--target=cpu", *slices, "-o", tmp_path / "run"),
    )
    assert "asked" in told.error() and len(asked) == 1
    run = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    names = [stage["name"] for stage in run["stages"]]
    assert names == ["model", "export-reference", "compile-reference", "prune"]
    assert run["recipe"]["prune"]["enabled"] is True
    assert re.search(r"about \d+ min on this machine", run["pruning"])


def test_stages_can_be_named_whatever_is_decided(work: DenseWork, tmp_path: Path) -> None:
    run = _compile(work, tmp_path / "one", "--until-stage=prune")
    assert [stage["name"] for stage in run["stages"]] == ["model", "prune"]
    run = _compile(work, tmp_path / "two", "--from-stage=prune", "--until-stage=export")
    assert [stage["status"] for stage in run["stages"]] == ["cached", "skipped", "done"]
    told = edgemtl("compile", *work.flags(), "--target=cpu", "--no-prune", "--until-stage=prune")
    assert told.code == 2 and "no stage 'prune'" in told.error()


def test_a_dry_run_decides_as_the_run_does(work: DenseWork) -> None:
    told = edgemtl("compile", *work.flags(), "--target=cpu", "--dry-run", "--json")
    assert told.code == 0, told.err
    assert "prune" not in told.json()[0]["stages"]
    assert told.json()[0]["recipe"]["prune"]["enabled"] is False
    words = edgemtl("compile", *work.flags(), "--target=cpu", "--dry-run")
    assert "# not pruned: 12 training pictures are too few" in words.out


def test_a_network_is_loaded_once(
    work: DenseWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Path] = []
    real = stage.load_network

    def load(path: Path, factory: str | None = None) -> Any:
        loaded.append(path)
        return real(path, factory)

    for module in [m for n, m in sys.modules.items() if n.startswith("edgemtl.")]:
        if getattr(module, "load_network", None) is real:
            monkeypatch.setattr(module, "load_network", load)
    _compile(work, tmp_path / "run", "--until-stage=export")
    assert loaded == [work.model]


# --- parts left whole -----------------------------------------------------------------------------


def test_flags_and_recipe_name_the_parts_left_whole(
    work: DenseWork, asked: list[PruneOptions], tmp_path: Path
) -> None:
    slices = ("--set=prune.oracle_images=4", "--set=prune.calibration_images=4")
    common = [*work.flags(), "--target=cpu", *slices]
    flags = ("--keep-whole=decoders.*", "--keep-whole=stem", "--only=coarse")
    verb = edgemtl("prune", *common, *flags, "-o", tmp_path / "out.pt")
    sets = ('--set=prune.keep_whole=["decoders.*", "stem"]', '--set=prune.only=["coarse"]')
    run = edgemtl("compile", *common, "--prune", *sets, "-o", tmp_path / "run")
    assert "asked" in verb.error() and "asked" in run.error()
    first, second = asked
    assert first == second
    assert (first.keep_whole, first.only) == (("decoders.*", "stem"), ("coarse",))


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_an_unknown_part_is_refused_before_anything_is_done(
    work: DenseWork, asked: list[PruneOptions], tmp_path: Path, dry: list[str]
) -> None:
    out = ("-o", tmp_path / "run")
    told = edgemtl(
        *("compile", *work.flags(), "--target=cpu", *out, *dry),
        '--set=prune.keep_whole=["decoder"]',
    )
    assert told.code == 2 and told.hint().startswith("near it: decoders")
    assert "prune.keep_whole" in told.error() and not (tmp_path / "run").exists()
    told = edgemtl("prune", *work.flags(), "--keep-whole=decoder", "-o", tmp_path / "small.pt")
    assert told.code == 2 and not asked


def test_a_default_that_may_cut_nothing_says_so(
    work: DenseWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_default, "FEWEST_IMAGES", 8)
    run = _compile(work, tmp_path / "run", "--until-stage=prune", '--set=prune.keep_whole=["*"]')
    assert run["pruning"] == "not pruned: keep_whole and only leave every group of channels whole"


# --- data sets of third parties ------------------------------------------------------------------

PACKAGE = """
from pathlib import Path
from support.dense_family import build as network
from edgemtl.data.dense import DenseFolder
from edgemtl.data.open import DatasetFormat, register_format

def splits(root):
    return [p.name[3:] for p in sorted(root.iterdir()) if p.name.startswith("my-")]

def opened(root, split):
    return DenseFolder.open(root / f"my-{split}", split)

register_format(DatasetFormat("mine", "my-SPLIT/", splits, opened))

def build():
    return network()
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DenseWork]:
    """A network whose module makes known the layout that its data is in."""
    (tmp_path / "their_package.py").write_text(PACKAGE, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_package", raising=False)
    torch.save(build().state_dict(), tmp_path / "dense.pt")
    for split in ("train", "val"):
        write_dense_folder(tmp_path / "data" / f"my-{split}", split, 8)
    kept = dict(formats._FORMATS)
    yield DenseWork(tmp_path / "dense.pt", tmp_path / "data")
    formats._FORMATS.clear()
    formats._FORMATS.update(kept)
    sys.modules.pop("their_package", None)


@pytest.mark.parametrize("flags", [[], ["--prune", "--until-stage=model"]])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_data_is_opened_after_its_package_is_imported(
    foreign: DenseWork, tmp_path: Path, flags: list[str], dry: list[str]
) -> None:
    told = edgemtl(
        *("compile", foreign.model, "--factory=their_package:build", "--data", foreign.data),
        *("--target=cpu", "--set=quantize.enabled=false", "--until-stage=prune", *flags, *dry),
        *("-o", tmp_path / "run"),
    )
    assert told.code == 0, told.err
    assert "no known data set layout" not in told.err + told.out
    if not flags:
        assert "8 training pictures are too few" in told.err + told.out


@pytest.mark.parametrize("verb", ["prune", "quantize", "mask", "eval"])
def test_every_verb_opens_data_after_its_package_is_imported(
    foreign: DenseWork, tmp_path: Path, verb: str
) -> None:
    flags = {
        "prune": ("-o", tmp_path / "out.pt", "--set=prune.oracle_images=4"),
        "quantize": ("-o", tmp_path / "out.onnx", "--precision=fp32"),
        "mask": ("--analyse",),
        "eval": (),
    }
    given = (foreign.model, "--factory=their_package:build", "--data", foreign.data)
    told = edgemtl(verb, *given, *flags[verb])
    assert "no known data set layout" not in told.err + told.out
    if verb in ("quantize", "eval"):
        assert told.code == 0, told.err
    else:
        assert "are needed" in told.error()  # it came as far as to count them


def test_compile_model_needs_no_command_line(work: DenseWork, tmp_path: Path) -> None:
    cpu = targets.load("cpu")
    recipe = recipe_for(cpu, None, [])
    request = CompileRequest(
        *(work.model, cpu, recipe, FACTORY, tmp_path / "run", tmp_path / "cache"),
        until_stage="prune",
    )
    heard: list[Progress] = []
    with listening(heard.append):
        result = compile_model(request, Quiet())
    assert result.error is None and result.exit_code == 0
    stages = [progress for progress in heard if progress.what == "compile"]
    assert [progress.done for progress in stages] == list(range(len(stages)))
    assert stages[0] == Progress("compile", 0, stages[0].total, "stages", detail="model")
    assert len({progress.detail for progress in stages}) == stages[-1].total == len(stages)
