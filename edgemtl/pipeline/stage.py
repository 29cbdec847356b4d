"""What a stage is, and what all stages of a run share."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from edgemtl.backends import registry
from edgemtl.backends.artefacts import open_session, session_options
from edgemtl.backends.base import Backend
from edgemtl.backends.processor import processor_name
from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, SessionOptions, Variant
from edgemtl.data.samples import Dataset
from edgemtl.files import read_json, sha256_file, write_json
from edgemtl.logs import kept
from edgemtl.models.base import MultiTaskNetwork
from edgemtl.models.checkpoint import load_network
from edgemtl.models.threads import torch_threads
from edgemtl.pipeline.cache import StageCache, key_of
from edgemtl.pipeline.code_key import code_key
from edgemtl.pipeline.datasets import first_images, split_of
from edgemtl.pipeline.reference import Against, find_reference
from edgemtl.recipes import Recipe
from edgemtl.targets import Target
from edgemtl.tasks.base import Task

#: files that stages leave for others
CHECKPOINT = "model.pt"
ONNX = "model.onnx"
EXPORT_FACTS = "export.json"
ARTEFACT = "artefact.json"
ARTEFACT_FOLDER = "artefact"
#: what the stage said
LOG = "log.txt"

StageStatus = Literal["done", "cached", "failed", "skipped"]


@dataclass(frozen=True)
class StageRecord:
    """How a stage went, for ``run.json``."""

    name: str
    status: StageStatus
    seconds: float
    key: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What became of a question that the recipe left open.

    Attributes:
        recipe: with the answer in it.
        run: whether the stage runs.
        reason: why, in a sentence for the user.
    """

    recipe: Recipe
    run: bool
    reason: str


@dataclass
class Context:
    """What a run works on: one model, one target, one recipe.

    Attributes:
        model: checkpoint file.
        factory: ``package.module:function`` of the user's own network, or None.
        recipe: resolved.
        target: what it is built for.
        cache: where results are kept.
        private: folder of this run alone, for what is never cached.
        folders: stage name -> folder of its result, filled as the run goes on.
        keys: stage name -> key of its result.
        reference: the network that the user wants to be held against, if any.
    """

    model: Path
    factory: str | None
    recipe: Recipe
    target: Target
    cache: StageCache
    private: Path
    folders: dict[str, Path] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    reference: Path | None = None

    @cached_property
    def dense(self) -> MultiTaskNetwork:
        """The uncompressed network, as it came."""
        return load_network(self.model, self.factory)

    @cached_property
    def against(self) -> Against:
        """What this network is held against, other than itself as it came."""
        return find_reference(self.model, self.dense, self.factory, self.reference, self.tasks)

    @cached_property
    def model_sha256(self) -> str:
        """Hash of the checkpoint's bytes."""
        return sha256_file(self.model)

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of this run."""
        return self.dense.selected(self.recipe.model.tasks)

    @property
    def recipe_tasks(self) -> list[str] | None:
        """The tasks that the recipe names; None when it leaves all of them."""
        tasks = self.recipe.model.tasks
        return None if tasks is None else list(tasks)

    @property
    def task_names(self) -> list[str]:
        """Their names."""
        return [task.name for task in self.tasks]

    @cached_property
    def backend(self) -> Backend:
        """The target's backend."""
        return registry.get(self.target.backend)

    @cached_property
    def code(self) -> tuple[str, ...]:
        """Modules of the network and its tasks, and of the factory where there is one.

        Not the backend's, which only some stages use: results of the others serve all targets. What
        modules of another package import in turn is their authors' to mind.
        """
        used: list[object] = [self.dense, *self.tasks]
        named = [] if self.factory is None else [self.factory.partition(":")[0]]
        return tuple(sorted({*named, *(type(one).__module__ for one in used)}))

    @property
    def backend_code(self) -> str:
        """Hash of the backend's code: an input of stages that compile or measure with it."""
        return code_key(type(self.backend).__module__)

    def network(self, stage: str) -> MultiTaskNetwork:
        """The network that a stage left: the uncompressed one, or a compressed checkpoint."""
        checkpoint = self.folders[stage] / CHECKPOINT
        return load_network(checkpoint, self.factory) if checkpoint.exists() else self.dense

    def artefact(self, stage: str) -> Artefact:
        """The artefact that a compile stage left."""
        folder = self.folders[stage]
        facts = read_json(folder / ARTEFACT)
        return Artefact(
            facts["backend"],
            facts["target"],
            folder / ARTEFACT_FOLDER,
            tuple(facts["files"]),
            facts["reproducible"],
            facts["facts"],
            tuple(Variant.from_dict(one) for one in facts["variants"]),
        )

    @property
    def session_options(self) -> SessionOptions:
        """How artefacts of this run are run."""
        return session_options(self.target, self.recipe.bench.threads)

    def session(self, stage: str) -> AbstractContextManager[Session]:
        """The artefact of a compile stage, loaded; closed again on leaving."""
        return open_session(self.artefact(stage), self.session_options)

    def real_inputs(self, count: int) -> NDArray[np.float32]:
        """(count, 3, H, W): the first calibration pictures that decode, letterboxed.

        Raises:
            InputRefused: none decodes.
        """
        return first_images(self.calibration, self.dense.input_spec, count, "calibration")

    @cached_property
    def calibration(self) -> Dataset:
        """Pictures for calibration and parity."""
        return split_of(self.recipe.data, self.recipe.data.calibration, self.tasks)

    @cached_property
    def evaluation(self) -> Dataset:
        """Pictures that accuracy is measured on."""
        return split_of(self.recipe.data, self.recipe.data.evaluation, self.tasks)

    @cached_property
    def evaluation_fingerprint(self) -> str:
        """Hash of the evaluation pictures and labels."""
        return self.evaluation.fingerprint()

    @cached_property
    def calibration_fingerprint(self) -> str:
        """Hash of the calibration pictures and labels."""
        return self.calibration.fingerprint()


class StageResult(Protocol):
    """What a stage found out or made: a frozen dataclass that the runner writes down.

    Files that are no JSON (graphs, artefacts, pictures) the stage writes into its folder itself.
    """

    def documents(self) -> Mapping[str, Any]:
        """File name -> plain data; the layouts are those of :mod:`edgemtl.record`."""

    def summary(self) -> Sequence[str]:
        """What came of it, in sentences, for the log and the report."""


class Stage(ABC):
    """One step: reads the folders of the stages before it, and has its result written into its own.

    Args:
        name: of its folder and in reports.
        reads: the stages whose results it reads, by what they are to it; their keys are part of its
            own.
    """

    #: False for what must be measured anew each time
    cacheable: ClassVar[bool] = True
    #: True for what reads the recipe's pictures
    needs_data: ClassVar[bool] = False
    #: True for what makes new weights, with as many threads as torch has: their number is then part
    #: of the key. What only reads pictures computes with the recipe's (``bench.threads``), all
    #: others with one.
    makes_weights: ClassVar[bool] = False
    #: False for what works for hours and talks meanwhile: that is for who watches, and only what
    #: came of it is kept
    keeps_log: ClassVar[bool] = True

    def __init__(self, name: str, **reads: str) -> None:
        self.name = name
        self.reads = reads

    @property
    def after(self) -> tuple[str, ...]:
        """Names of the stages whose results it reads, in order."""
        return tuple(self.reads.values())

    def folder_of(self, context: Context, role: str) -> Path:
        """Where the stage that is this to it left its result."""
        return context.folders[self.reads[role]]

    @abstractmethod
    def inputs(self, context: Context) -> dict[str, Any]:
        """Plain data: everything beyond ``after`` and the code that can change the result."""

    @abstractmethod
    def run(self, context: Context, folder: Path) -> StageResult:
        """Do the work; what is no JSON goes into ``folder``.

        Raises:
            EdgemtlError: with the exit code that the run then leaves with.
        """

    def decide(self, context: Context) -> Decision | None:
        """Whether to run where the recipe leaves that open; None where it says so.

        Raises:
            EdgemtlError: the run stops here.
        """
        return None

    def check(self, context: Context) -> None:  # noqa: B027 - most results need no verdict
        """Judge the result, whether just made or cached.

        Raises:
            EdgemtlError: the run stops here, with the result kept for the report.
        """

    def key(self, context: Context) -> str:
        """Hash of everything that can change the result."""
        computed = self.needs_data or self.makes_weights
        return key_of(
            {
                "stage": self.name,
                "code": code_key(type(self).__module__, *context.code),
                "after": [context.keys[name] for name in self.after],
                "inputs": self.inputs(context),
                # Last digits depend on both, and with pruning and training more than they do.
                "processor": processor_name() if computed else "",
                "threads": torch.get_num_threads() if self.makes_weights else 0,
            }
        )

    def _threads(self, context: Context) -> AbstractContextManager[None]:
        if self.makes_weights:
            return nullcontext()
        return torch_threads(context.recipe.bench.threads if self.needs_data else 1)

    def execute(self, context: Context) -> StageRecord:
        """Run, or take the result, and what was said when it was made, from the cache."""
        began = time.monotonic()

        def make(folder: Path) -> None:
            with (folder / LOG).open("w", encoding="utf-8") as log:

                def note(line: str) -> None:
                    log.write(line.replace("\n", " ") + "\n")

                with kept(note) if self.keeps_log else nullcontext(), self._threads(context):
                    result = self.run(context, folder)
                for name, data in result.documents().items():
                    write_json(folder / name, data)
                for line in result.summary():
                    note(line)

        key = self.key(context)
        cache = context.cache if self.cacheable else StageCache(context.private, fresh=True)
        entry = cache.result(self.name, key, make)
        context.folders[self.name], context.keys[self.name] = entry.folder, key
        self.check(context)
        status: StageStatus = "cached" if entry.cached else "done"
        notes = (entry.folder / LOG).read_text("utf-8").splitlines()
        return StageRecord(self.name, status, time.monotonic() - began, key, tuple(notes))
