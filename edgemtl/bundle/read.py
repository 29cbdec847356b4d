"""Reading a bundle: the zip and everything in it is untrusted.

Hashes find damage and mix-ups. They do not find an attacker who alters a file and its hash
together: :mod:`edgemtl.bundle.signature` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgemtl.backends.types import Artefact, SessionOptions, Variant
from edgemtl.bundle.manifest import MANIFEST, Manifest, parse_manifest
from edgemtl.bundle.selftest import SelfTest
from edgemtl.data.preprocess import InputSpec
from edgemtl.devices.runner.arrays import load_float32
from edgemtl.devices.runner.container import SIGNATURE, ZipFiles, checked_blocks, read_small
from edgemtl.devices.runner.errors import INPUT_REFUSED, VERIFICATION, RunnerError
from edgemtl.devices.runner.manifest import MAX_MANIFEST_BYTES, task_files
from edgemtl.errors import EdgemtlError, InputRefused, StageFailed, VerificationFailed
from edgemtl.files import write_atomically
from edgemtl.tasks import Task, build, spec_from_dict

MAX_SIGNATURE_BYTES = 4096


@contextmanager
def _our_errors(path: Path) -> Iterator[None]:
    """The runner's errors as those of the product."""
    kinds: dict[int, type[EdgemtlError]] = {
        INPUT_REFUSED: InputRefused,
        VERIFICATION: VerificationFailed,
    }
    try:
        yield
    except RunnerError as error:
        message = error.message.removeprefix(f"{path}: ")
        raise kinds.get(error.code, StageFailed)(message, where=str(path)) from error


@contextmanager
def _opened(path: Path) -> Iterator[ZipFiles]:
    with _our_errors(path):
        files = ZipFiles(str(path))
        try:
            yield files
        finally:
            files.close()


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Its file is opened anew, and checked anew, by every method.

    Attributes:
        path: of the zip.
        manifest: parsed.
        manifest_sha256: identifies the bundle; results of the runner carry it.
    """

    path: Path
    manifest: Manifest
    manifest_sha256: str

    def read(self, member: str) -> bytes:
        """The checked bytes of a member.

        Raises:
            VerificationFailed: no such member, or not what the manifest says.
        """
        with _opened(self.path) as files:
            return b"".join(self._blocks(files, member))

    def extract(self, folder: Path) -> None:
        """Write every file into ``folder`` (made when missing), each checked and atomically.

        Raises:
            VerificationFailed: a file is not what the manifest says; files before it are written.
            StageFailed: the folder cannot be written.
        """
        with _opened(self.path) as files:
            for member in sorted(self.manifest.files):
                self._copy(files, member, folder / member)
        data = manifest_bytes(self)
        write_atomically(folder / MANIFEST, lambda stream: stream.write(data))

    def artefact(self, folder: Path) -> Artefact:
        """Write the artefact's files into ``folder`` and describe them.

        Raises:
            VerificationFailed, StageFailed: as :meth:`extract`.
        """
        entry = self.manifest.artefact
        with _opened(self.path) as files:
            for file in entry.files:
                self._copy(files, file.member, folder / file.name)
        return Artefact(
            backend=entry.backend,
            target=self.manifest.target.name,
            folder=folder,
            files=tuple(file.name for file in entry.files),
            reproducible=entry.reproducible,
            facts=dict(entry.facts),
            variants=self._variants(),
        )

    def _variants(self) -> tuple[Variant, ...]:
        """The graphs in the artefact; version 1 named those of single tasks among its facts."""
        known = self.manifest.variants
        if self.manifest.schema_version == 1:
            artefact, tasks = self.manifest.artefact, self.manifest.tasks
            owned = {str(t.task["name"]): tuple(o.name for o in t.outputs) for t in tasks}
            names = task_files(artefact.facts, [file.name for file in artefact.files])
            return tuple(
                Variant(task, "task", files, owned.get(task, ())) for task, files in names.items()
            )
        return tuple(Variant(v.name, v.kind, v.files, v.outputs, dict(v.facts)) for v in known)

    def _blocks(self, files: ZipFiles, member: str) -> Iterator[bytes]:
        entry = self.manifest.files.get(member)
        if entry is None:
            raise VerificationFailed(f"the bundle has no file '{member}'", where=str(self.path))
        yield from checked_blocks(files, member, entry.model_dump())

    def _copy(self, files: ZipFiles, member: str, destination: Path) -> None:
        blocks = self._blocks(files, member)
        write_atomically(destination, lambda stream: stream.writelines(blocks))

    def tasks(self) -> tuple[Task, ...]:
        """The network's tasks.

        Raises:
            InputRefused: a kind of task that is not known here.
        """
        return tuple(build(spec_from_dict(entry.task)) for entry in self.manifest.tasks)

    def input_spec(self) -> InputSpec:
        """How a picture becomes the input.

        Raises:
            InputRefused: it is out of range.
        """
        return InputSpec.from_dict(self.manifest.inputs[0].spec)

    def session_options(self) -> SessionOptions:
        """How the artefact was run when its self-test was recorded."""
        entry = self.manifest.session
        return SessionOptions(entry.threads, entry.precision_hint)

    def selftest(self) -> SelfTest:
        """The recorded inputs and outputs.

        Raises:
            VerificationFailed: they are damaged, or do not fit the manifest.
        """
        entry = self.manifest.selftest
        members = [entry.input, *(expected.member for expected in entry.expected)]
        with _our_errors(self.path):
            arrays = [load_float32(self.read(member), member) for member in members]
        outputs = [expected.output for expected in entry.expected]
        selftest = SelfTest(
            arrays[0],
            dict(zip(outputs, arrays[1:], strict=True)),
            {expected.output: expected.max_abs_error for expected in entry.expected},
            {e.output: e.max_mean_error for e in entry.expected if e.max_mean_error is not None},
        )
        try:
            selftest.check()
        except StageFailed as error:
            raise VerificationFailed(error.message, where=str(self.path)) from error
        if selftest.inputs.shape[1:] != self.manifest.inputs[0].shape:
            raise VerificationFailed(
                f"the self-test input has shape {selftest.inputs.shape}, the manifest says "
                f"{self.manifest.inputs[0].shape} per case",
                where=str(self.path),
            )
        return selftest


def manifest_bytes(bundle: Bundle) -> bytes:
    """The manifest as it stands in the zip.

    Raises:
        VerificationFailed: it is not the one that was opened.
    """
    with _opened(bundle.path) as files:
        data = read_small(files, MANIFEST, MAX_MANIFEST_BYTES)
    if hashlib.sha256(data).hexdigest() != bundle.manifest_sha256:
        raise VerificationFailed("the manifest changed since it was read", where=str(bundle.path))
    return data


def signature_bytes(bundle: Bundle) -> bytes | None:
    """The signature as it stands in the zip; None when there is none.

    Raises:
        InputRefused: larger than any signature.
        VerificationFailed: damaged.
    """
    with _opened(bundle.path) as files:
        if SIGNATURE not in files:
            return None
        return read_small(files, SIGNATURE, MAX_SIGNATURE_BYTES)


def open_bundle(path: Path) -> Bundle:
    """Open a bundle and check everything that needs no hashing.

    Raises:
        InputRefused: not a zip, cut short, unsafe (names, links, sizes), or a manifest that is
            missing, of another schema version or does not fit.
        VerificationFailed: a file is missing, or is not in the manifest.
    """
    with _opened(path) as files:
        data = read_small(files, MANIFEST, MAX_MANIFEST_BYTES)
        manifest = parse_manifest(data, str(path))
        names = set(files.names()) - {MANIFEST, SIGNATURE}
        for name in sorted(names ^ set(manifest.files)):
            fault = "is not in its manifest" if name in names else "is missing"
            raise VerificationFailed(f"'{name}' {fault}", where=str(path))
    return Bundle(path, manifest, hashlib.sha256(data).hexdigest())
