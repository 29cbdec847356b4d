"""What an Arm board needs beside the network: TVM's runtime libraries and a runner.

The libraries come from the package registry's own aarch64 wheels of the pinned versions, whose
hashes stand here. They are fetched at the first compile and kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from edgemtl.backends.tvm.child import tail
from edgemtl.errors import StageFailed, TargetUnavailable
from edgemtl.files import sha256_file
from edgemtl.processes import python_module

#: folder with the two wheels, for machines without a network
WHEELS = "EDGEMTL_TVM_WHEELS"
LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_extra.so", "libtvm_ffi.so")
RUNNER, LICENCE = "runner", "TVM-LICENSE.txt"
#: what a board needs, in the order of the artefact's files
FILES = (RUNNER, *LIBRARIES, LICENCE)
DOWNLOAD_SECONDS = 300.0
COMPILER_SECONDS = 300.0


@dataclass(frozen=True)
class Wheel:
    """A wheel of the registry.

    Attributes:
        requirement: for pip.
        pattern: of its file name.
        sha256: of the file.
        members: what is taken from it, as prefixes of names.
    """

    requirement: str
    pattern: str
    sha256: str
    members: tuple[str, ...]


WHEELS_WANTED = (
    Wheel(
        "apache-tvm==0.27.0.post1",
        "apache_tvm-0.27.0.post1-*_aarch64.whl",
        "4acfdb7653e4e1ba7a707bdf2833db72eb8fda7d04d99141f2a4e1da43171fb7",
        ("tvm/lib/libtvm_runtime.so", "tvm/lib/libtvm_runtime_extra.so", "tvm/LICENSE"),
    ),
    Wheel(
        "apache-tvm-ffi==0.1.14.post0",
        "apache_tvm_ffi-0.1.14.post0-cp311-*_aarch64.whl",
        "d1a011a0743acb88ffc650c70bfb1376fa90cb7196b042598c6d0c1e690ce185",
        ("tvm_ffi/lib/libtvm_ffi.so", "tvm_ffi/include/"),
    ),
)
#: TVM's headers name their own files in messages: no bundle may hold where a cache lies
_RUNNER_FLAGS = ("-std=c++17", "-O2", "-s", "-Wl,--build-id=none", "-ffile-prefix-map=HERE=.")


def runtime() -> Path:
    """Folder with the members of both wheels, fetched when it is not there yet.

    Raises:
        TargetUnavailable: the wheels cannot be had.
        StageFailed: a wheel is not the pinned one.
    """
    mark = "-".join(wheel.sha256[:8] for wheel in WHEELS_WANTED)
    root = os.environ.get("EDGEMTL_CACHE") or platformdirs.user_cache_dir("edgemtl")
    place = Path(root) / f"tvm-aarch64-{mark}"
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tvm-", dir=place.parent) as folder:
        given = os.environ.get(WHEELS)
        wheels = Path(given) if given else Path(folder) / "wheels"
        if not given:
            download_wheels(wheels)
        for wheel in WHEELS_WANTED:
            _unpack(wheel, wheels, Path(folder) / "ready")
        try:
            (Path(folder) / "ready").rename(place)
        except OSError:
            if not place.is_dir():  # else another process was first
                raise
    return place


def download_wheels(folder: Path) -> None:
    """Fetch both wheels into a folder, which :data:`WHEELS` may name from then on.

    Raises:
        TargetUnavailable: they cannot be had.
    """
    command = python_module("pip", "download", "--quiet", "--no-deps")
    command += ["--only-binary=:all:", "--platform", "manylinux_2_28_aarch64"]
    command += ["--python-version", "3.11", "--dest", str(folder)]
    command += [wheel.requirement for wheel in WHEELS_WANTED]
    hint = f"fetch them where there is a network and set {WHEELS} to their folder"
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=DOWNLOAD_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise TargetUnavailable("TVM's aarch64 wheels did not arrive in time", hint=hint) from error
    if done.returncode:
        raise TargetUnavailable(
            "TVM's aarch64 wheels cannot be fetched" + tail(done.stderr[-300:]), hint=hint
        )


def _unpack(wheel: Wheel, folder: Path, place: Path) -> None:
    found = sorted(folder.glob(wheel.pattern))
    if not found:
        raise TargetUnavailable(f"no wheel of {wheel.requirement} for aarch64", where=str(folder))
    if sha256_file(found[0]) != wheel.sha256:
        raise StageFailed(
            f"this is not the {wheel.requirement} that EdgeMTL was made with", where=found[0].name
        )
    with zipfile.ZipFile(found[0]) as archive:
        for name in archive.namelist():
            if name.startswith(wheel.members):
                archive.extract(name, place)


def add_files(folder: Path, compiler: str) -> None:
    """Put :data:`FILES` beside a compiled network.

    Raises:
        TargetUnavailable: see :func:`runtime`.
        StageFailed: the runner does not compile.
    """
    have = runtime()
    for name in LIBRARIES:
        package = "tvm_ffi" if name == "libtvm_ffi.so" else "tvm"
        shutil.copyfile(have / package / "lib" / name, folder / name)
    shutil.copyfile(have / "tvm" / "LICENSE", folder / LICENCE)
    shutil.copyfile(_runner(have, compiler), folder / RUNNER)
    (folder / RUNNER).chmod(0o755)


def _runner(have: Path, compiler: str) -> Path:
    """The runner, which is the same for every network; kept beside the libraries it was linked to.

    Raises:
        StageFailed: it does not compile.
    """
    source = Path(__file__).with_name("runner.cc")
    told = subprocess.run([compiler, "--version"], capture_output=True, timeout=60, check=False)
    how = " ".join([compiler, *_RUNNER_FLAGS]).encode()
    mark = hashlib.sha256(source.read_bytes() + how + told.stdout).hexdigest()[:16]
    place = have / f"runner-{mark}"
    if place.is_file():
        return place
    with tempfile.TemporaryDirectory(prefix="runner-", dir=have) as scratch:
        made = Path(scratch) / RUNNER
        libraries = [have / "tvm" / "lib", have / "tvm_ffi" / "lib"]
        command = [compiler, *(flag.replace("HERE", str(have)) for flag in _RUNNER_FLAGS)]
        command += ["-I", str(have / "tvm_ffi" / "include"), str(source), "-o", str(made)]
        command += [word for library in libraries for word in ("-L", str(library))]
        command += ["-Wl,--no-as-needed", "-ltvm_runtime_extra", "-ltvm_runtime", "-ltvm_ffi"]
        command += ["-Wl,-rpath,$ORIGIN", "-Wl,--allow-shlib-undefined"]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=COMPILER_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise StageFailed(f"'{compiler}' took more than {COMPILER_SECONDS:.0f} s") from error
        if done.returncode:
            raise StageFailed(f"'{compiler}' cannot compile the runner" + tail(done.stderr))
        made.replace(place)
    return place


def emulated(emulator: str, mcpu: str, folder: Path, shape: tuple[int, ...]) -> list[str]:
    """The command that runs an artefact here, in an emulator.

    Args:
        emulator: its program.
        mcpu: LLVM's name of the processor.
        folder: the artefact's.
        shape: of the input.

    Raises:
        TargetUnavailable: the emulator or the board's C++ library is not here.
    """
    if shutil.which(emulator) is None:
        raise TargetUnavailable(
            f"the emulator '{emulator}' is missing, which runs the board's code here",
            hint="Debian and Ubuntu: apt-get install qemu-user-static",
        )
    (folder / RUNNER).chmod(0o755)
    processor = mcpu if mcpu in ("cortex-a53", "cortex-a72", "cortex-a76") else "max"
    command = [emulator, "-cpu", processor, "-L", "/usr/aarch64-linux-gnu"]
    command += [str(folder / RUNNER), str(folder / "model.so"), "x".join(map(str, shape)), "serve"]
    return command
