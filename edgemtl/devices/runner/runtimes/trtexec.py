"""TensorRT by its program ``trtexec``, where the Python bindings are not installed.

Which flags there are differs from version to version, so its own ``--help`` is asked. Every call is
a process: outputs come back as JSON, times as the trace that it exports, taken by CUDA events.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import STAGE_FAILED, RunnerError
from ..latency import OBSERVE_EVERY_S
from . import Session
from .engines import Attempt, Profile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: where JetPack and Debian's package libnvinfer-bin put it
FOLDERS = ("/usr/src/tensorrt/bin", "/usr/local/tensorrt/bin")
VARIABLE = "EDGEMTL_TRTEXEC"
HELP_SECONDS, BUILD_SECONDS, RUN_SECONDS = 60, 3000, 300
#: 8502 is 8.5.2, 100300 is 10.3.0, and 11 writes 11.1.0.106
_BANNER = re.compile(r"\[TensorRT v([0-9.]+)\]")
_STEPS = {
    "copy_in": ("h2dMs", "inMs"),
    "compute": ("computeMs",),
    "copy_out": ("d2hMs", "outMs"),
}


class Tool(NamedTuple):
    """A ``trtexec``.

    Attributes:
        path: of the program.
        flags: names of what its help lists.
        version: of its TensorRT, "unknown" when it does not say.
    """

    path: str
    flags: frozenset[str]
    version: str


def find() -> Tool | None:
    """The ``trtexec`` of this machine, asked for its flags; None when there is none that works."""
    chosen = os.environ.get(VARIABLE) or shutil.which("trtexec")
    places = [chosen] if chosen else [f"{folder}/trtexec" for folder in FOLDERS]
    for place in places:
        try:
            text = _call([place, "--help"], HELP_SECONDS)[1]
        except RunnerError:
            continue
        flags = frozenset(re.findall(r"--([A-Za-z][A-Za-z0-9]*)", text))
        if "onnx" in flags and "saveEngine" in flags:
            return Tool(place, flags, _version(text))
    return None


def _version(text: str) -> str:
    found = _BANNER.search(text)
    if found is None:
        return "unknown"
    number = found.group(1)
    if "." in number:
        return number
    if len(number) == 4:
        return f"{int(number[0])}.{int(number[1])}.{int(number[2:])}"
    return f"{int(number[:-4])}.{int(number[-4:-2])}.{int(number[-2:])}"


def _call(
    command: Sequence[str], seconds: int, observe: Callable[[], object] = lambda: None
) -> tuple[int, str]:
    """Exit code and all that it printed."""
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise RunnerError(STAGE_FAILED, f"trtexec does not start: {error.strerror}") from error
    ends = time.monotonic() + seconds
    with process:
        try:
            while True:
                try:
                    text = process.communicate(timeout=OBSERVE_EVERY_S)[0]
                    return process.returncode, text.decode("utf-8", "replace")
                except subprocess.TimeoutExpired:
                    observe()
                if time.monotonic() > ends:
                    raise RunnerError(
                        STAGE_FAILED, f"trtexec took more than {seconds} s and was ended"
                    )
        finally:
            process.kill()


def _reason(code: int, text: str) -> str:
    """The first error that it printed."""
    for line in text.splitlines():
        if "[E]" in line:
            return line.split("[E]", 1)[1].strip()
    return f"trtexec ended with code {code}"


def build_flags(
    tool: Tool, profile: Profile, full_precision: bool, workspace: int, level: int, timings: Path
) -> list[str]:
    """Flags of a build that this ``trtexec`` has."""
    megabytes = max(workspace >> 20, 1)
    flags = []
    # Up to 9 precision is asked for by flags; 10 reads it from the graph when told so, 11 always.
    if "stronglyTyped" in tool.flags:
        flags.append("--stronglyTyped")
    else:
        wanted = {"fp16": profile.fp16, "int8": profile.int8}
        flags += [f"--{name}" for name, on in wanted.items() if on and name in tool.flags]
    if "memPoolSize" in tool.flags:
        flags.append(f"--memPoolSize=workspace:{megabytes}")
    elif "workspace" in tool.flags:
        flags.append(f"--workspace={megabytes}")
    if full_precision and "noTF32" in tool.flags:
        flags.append("--noTF32")
    if "builderOptimizationLevel" in tool.flags:
        flags.append(f"--builderOptimizationLevel={level}")
    if "timingCacheFile" in tool.flags:
        flags.append(f"--timingCacheFile={timings}")
    for name in ("skipInference", "buildOnly"):
        if name in tool.flags:
            return [*flags, f"--{name}"]
    return flags


def attempt(
    tool: Tool,
    onnx: Path,
    profile: Profile,
    full_precision: bool,
    workspace: int,
    level: int,
    timings: Path,
) -> Attempt:
    """Build once; see :func:`.tensorrt_build.attempt`."""
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        plan = Path(folder, "engine.plan")
        flags = build_flags(tool, profile, full_precision, workspace, level, timings)
        command = [tool.path, f"--onnx={onnx}", f"--saveEngine={plan}", *flags]
        code, text = _call(command, BUILD_SECONDS)
        told = level if "builderOptimizationLevel" in tool.flags else None
        if code or not plan.is_file() or not plan.stat().st_size:
            return Attempt(None, told, _reason(code, text))
        return Attempt(plan.read_bytes(), told)


class TrtexecSession(Session):
    """An engine that ``trtexec`` runs.

    Args:
        tool: the program.
        plan: bytes of the engine.
        input_name: of the one input.
        outputs: names of the outputs to fetch.
    """

    runtime = "trtexec"
    clock = "gpu"

    def __init__(self, tool: Tool, plan: bytes, input_name: str, outputs: Sequence[str]) -> None:
        super().__init__()
        missing = {"loadEngine", "loadInputs", "exportOutput", "exportTimes"} - tool.flags
        if missing:
            raise RunnerError(STAGE_FAILED, f"this trtexec has no --{sorted(missing)[0]}")
        self.version = tool.version
        self._tool = tool
        self._input = input_name
        self._outputs = list(outputs)
        self._folder = tempfile.TemporaryDirectory(prefix="edgemtl-")
        self._plan = Path(self._folder.name, "engine.plan")
        self._plan.write_bytes(plan)
        self._trace: list[dict[str, float]] = []

    def _engine(
        self,
        images: NDArray[np.float32],
        flags: Sequence[str],
        seconds: float = 0.0,
        observe: Callable[[], object] = lambda: None,
    ) -> None:
        data = Path(self._folder.name, "input.bin")
        images.tofile(str(data))
        shown = [f"--loadEngine={self._plan}", f"--loadInputs={self._input}:{data}"]
        limit = RUN_SECONDS + int(2 * seconds)
        code, text = _call([self._tool.path, *shown, *flags], limit, observe)
        if code:
            raise RunnerError(STAGE_FAILED, f"TensorRT cannot run: {_reason(code, text)}")

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """See :meth:`Session.run`."""
        import numpy as np

        place = Path(self._folder.name, "output.json")
        once = ["--iterations=1", "--warmUp=0", "--duration=0", f"--exportOutput={place}"]
        self._engine(images, once)
        found: dict[str, NDArray[np.float32]] = {}
        try:
            for entry in _json(place):
                shape = [int(side) for side in str(entry["dimensions"]).split("x")]
                values = np.asarray(entry["values"], np.float32)
                found[str(entry["name"])] = values.reshape(shape)
        except (KeyError, TypeError, ValueError) as error:
            raise RunnerError(
                STAGE_FAILED, f"trtexec's outputs are not readable ({error})"
            ) from error
        missing = [name for name in self._outputs if name not in found]
        if missing:
            raise RunnerError(STAGE_FAILED, f"the engine has no output '{missing[0]}'")
        return {name: found[name] for name in self._outputs}

    def samples(
        self,
        images: NDArray[np.float32],
        warm_up_s: float,
        min_runs: int,
        min_s: float,
        observe: Callable[[], object] = lambda: None,
    ) -> list[float]:
        """Milliseconds of each run: copy in, compute and copy out, by the GPU's own clock."""
        place = Path(self._folder.name, "times.json")
        warm_up_ms = int(warm_up_s * 1000)
        flags = [f"--warmUp={warm_up_ms}", f"--duration={max(round(min_s), 0)}"]
        flags += [f"--iterations={min_runs}", f"--exportTimes={place}"]
        self._engine(images, flags, warm_up_s + min_s, observe)
        try:
            # The trace holds the runs of the warm-up, too.
            timed = [
                {name: _first(entry, keys) for name, keys in _STEPS.items()}
                for entry in _json(place)
                if float(entry["startComputeMs"]) >= warm_up_ms
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise RunnerError(
                STAGE_FAILED, f"trtexec's times are not readable ({error})"
            ) from error
        if not timed:
            raise RunnerError(STAGE_FAILED, "trtexec timed no run")
        self._trace = timed
        return [sum(entry.values()) for entry in timed]

    def stages(self, images: NDArray[np.float32], runs: int) -> Mapping[str, list[float]]:
        """Milliseconds per step of the runs that were timed last."""
        if not self._trace:
            self.samples(images, 0.0, runs, 0.0)
        return {name: [entry[name] for entry in self._trace] for name in _STEPS}

    def close(self) -> None:
        """Remove the files."""
        self._folder.cleanup()


def _first(entry: Mapping[str, Any], keys: Sequence[str]) -> float:
    return float(next(entry[key] for key in keys if key in entry))


def _json(path: Path) -> Any:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from error
    # C++ writes what is no number in its own way.
    return json.loads(re.sub(r"(?<=[\s,\[:])-?(nan|inf)\b", "NaN", text))
