"""``edgemtl verify``: is this bundle whole, and does it still compute what it computed?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemtl.backends.session import Session
from edgemtl.backends.types import Artefact, SessionOptions
from edgemtl.bundle.read import Bundle, open_bundle, signature_bytes
from edgemtl.bundle.signature import check_signature, public_key
from edgemtl.devices.runner.errors import RunnerError
from edgemtl.devices.runner.selftest import OutputCheck, compare, failure
from edgemtl.errors import VerificationFailed

SessionLoader = Callable[[Artefact, SessionOptions], Session]


@dataclass(frozen=True)
class VerifyReport:
    """What was verified; it exists only when everything held.

    Attributes:
        path: of the bundle.
        manifest_sha256: identifies the bundle.
        files: how many files have the hash that the manifest names.
        cases: self-test inputs that were run.
        outputs: per output the largest absolute error, and the one allowed.
        signed: whether there is a signature, trusted or not.
        signed_by: fingerprint of the trusted key that signed it; None when no key was given.
    """

    path: Path
    manifest_sha256: str
    files: int
    cases: int
    outputs: tuple[OutputCheck, ...]
    signed: bool = False
    signed_by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "path": str(self.path),
            "manifest_sha256": self.manifest_sha256,
            "files": self.files,
            "cases": self.cases,
            "outputs": [check._asdict() for check in self.outputs],
            "signed": self.signed,
            "signed_by": self.signed_by,
        }


def load_session(artefact: Artefact, options: SessionOptions) -> Session:
    """Load an artefact by the backend that compiled it, once that went well in another process.

    Raises:
        UsageError, TargetUnavailable, StageFailed: the backend is unknown, not here, or refuses.
    """
    from edgemtl.backends import registry
    from edgemtl.backends.first_run import try_artefact

    try_artefact(artefact, artefact.folder / artefact.files[0])

    return registry.get(artefact.backend).load(artefact, options)


def verify(
    path: Path,
    session_loader: SessionLoader = load_session,
    trusted_keys: Sequence[Path] = (),
) -> VerifyReport:
    """Check the signature and every hash, then run the self-test through the backend.

    Args:
        path: the bundle.
        session_loader: how an artefact becomes a session.
        trusted_keys: public keys, one of which must have signed; nobody must when there is none.

    Raises:
        InputRefused: not a bundle, or an unsafe one; a key that is none.
        VerificationFailed: a file or an output is not what was recorded; the message names it.
        TargetUnavailable: the backend does not work here; the hashes held until then.
    """
    keys = [public_key(key) for key in trusted_keys]
    bundle = open_bundle(path)
    signed = signature_bytes(bundle) is not None
    # First of all: nothing of a stranger's bundle is loaded when somebody asked for a signature.
    signed_by = check_signature(bundle, keys) if keys else None
    with tempfile.TemporaryDirectory(prefix="edgemtl-") as folder:
        # Extraction is the check: no byte is written that has not the manifest's hash.
        bundle.extract(Path(folder) / "files")
        artefact = bundle.artefact(Path(folder) / "run")
        session = session_loader(artefact, bundle.session_options())
        try:
            checks, cases = _run_selftest(bundle, session)
        finally:
            session.close()
    return VerifyReport(
        path,
        bundle.manifest_sha256,
        len(bundle.manifest.files),
        cases,
        tuple(checks),
        signed,
        signed_by,
    )


def _run_selftest(bundle: Bundle, session: Session) -> tuple[list[OutputCheck], int]:
    selftest = bundle.selftest()
    where = str(bundle.path)
    try:
        checks = compare(
            session.run,
            selftest.inputs,
            selftest.expected,
            selftest.max_abs_error,
            selftest.max_mean_error,
        )
    except RunnerError as error:
        raise VerificationFailed(error.message, where=where) from error
    problem = failure(checks)
    if problem is not None:
        raise VerificationFailed(problem, where=where)
    return checks, len(selftest.inputs)
