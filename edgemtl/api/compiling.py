"""``edgemtl.compile``: the whole pipeline to a gated bundle."""

from __future__ import annotations

from pathlib import Path

from edgemtl.api.asking import (
    AnyPath,
    AnyRecipe,
    AnyTarget,
    Data,
    Factory,
    Names,
    Overrides,
    call_of,
    factory_of,
    folders,
    names,
    optional_path,
    path_of,
    resolved,
    target_of,
)
from edgemtl.api.runs import Run, load_run
from edgemtl.backends.registry import with_backend
from edgemtl.errors import ExitCode
from edgemtl.pipeline.compile import CompileRequest, compile_model
from edgemtl.pipeline.settings import CompileSettings
from edgemtl.pipeline.stage_lines import StageLines
from edgemtl.progress import ProgressCallback, listening


def compile(
    model: AnyPath,
    target: AnyTarget = "cpu",
    *,
    output: AnyPath | None = None,
    data: Data = None,
    recipe: AnyRecipe = None,
    tasks: Names = None,
    prune: bool | None = None,
    seed: int | None = None,
    overrides: Overrides = None,
    backend: str | None = None,
    reference: AnyPath | None = None,
    factory: Factory = None,
    from_stage: str | None = None,
    until_stage: str | None = None,
    use_cache: bool = True,
    sign_key: AnyPath | None = None,
    progress: ProgressCallback | None = None,
) -> Run:
    """Compile a network for a target: export, parity, accuracy, latency, gates, bundle, report.

    Gates that fail do not raise: ``run.passed`` and ``run.gates`` say it, and
    ``run.raise_for_gates()`` raises.

    Args:
        model: checkpoint.
        target: name, TOML file or loaded target.
        output: run folder; a new one under ``runs/`` by default.
        data: folders with labelled pictures; the embedded synthetic set by default.
        recipe: TOML file, or a :class:`edgemtl.Recipe` of which the keys that were set count.
        tasks: to keep; all by default.
        prune: prune first; by default if ``data`` has enough training pictures.
        seed: of every random choice, from 0.
        overrides: recipe key -> value, such as ``{"bench.threads": 2}``.
        backend: another runtime for the same device.
        reference: dense checkpoint to compare with; by default the one that a pruned checkpoint
            names.
        factory: builds your own network: a function of a module, or ``"package.module:function"``.
        from_stage: make this stage and those after it anew.
        until_stage: stop after this stage.
        use_cache: False makes every stage anew.
        sign_key: private Ed25519 key (PEM) that signs the bundle if it passed.
        progress: is told how far each stage is.

    Raises:
        UsageError: the recipe, a keyword or an override does not make sense.
        InputRefused: the model or the data is refused.
        TargetUnavailable: the target's runtime does not work here.
        ParityFailed: two forms of the network answer differently.
        StageFailed: a stage, or the output folder. The run folder and its report are written as far
            as the run came; the error's note names it.
    """
    suited = target_of(target)
    settings = CompileSettings(folders(data), seed, names(tasks), prune)
    asked = resolved(suited, recipe, settings, overrides)
    key = None
    if sign_key is not None:
        from edgemtl.bundle.signature import private_key

        key = private_key(path_of(sign_key))  # before the work, not after it
    request = CompileRequest(
        path_of(model),
        suited if backend is None else with_backend(suited, backend),
        asked,
        factory_of(factory, model),
        optional_path(output),
        use_cache=use_cache,
        from_stage=from_stage,
        until_stage=until_stage,
        reference=optional_path(reference),
        command=call_of(
            "compile",
            model=Path(path_of(model)),
            target=suited,
            data=folders(data) and [str(one) for one in folders(data)],
            recipe=recipe,
            tasks=names(tasks),
            prune=prune,
            seed=seed,
            overrides=None if overrides is None else dict(overrides),
        ),
    )
    with listening(progress):
        result = compile_model(request, StageLines())
    if result.error is not None:
        result.error.add_note(f"the run as far as it came: {result.folder}")
        raise result.error
    if key is not None and result.bundle is not None and result.exit_code == ExitCode.OK:
        from edgemtl.bundle.signature import sign_bundle

        sign_bundle(result.bundle, key)
    return load_run(result.folder)
