"""Who made this bundle: an Ed25519 signature of its manifest, which holds the hash of every file.

Hashes find damage; only a signature finds somebody who alters a file and its hash together. It is
worth as much as the way by which the public key came to whoever verifies, so a key that lies in the
bundle itself is never trusted: it must be given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemtl.bundle.archive import write_zip
from edgemtl.bundle.manifest import MANIFEST
from edgemtl.bundle.read import Bundle, manifest_bytes, open_bundle, signature_bytes
from edgemtl.devices.runner.container import SIGNATURE
from edgemtl.errors import InputRefused, TargetUnavailable, VerificationFailed
from edgemtl.files import write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

ALGORITHM = "ed25519"
#: stands before the manifest in what is signed, so that no signature of ours fits another purpose
CONTEXT = b"edgemtl manifest 1\n"
#: no key file comes near this size
_MOST_KEY_BYTES = 64 << 10
_HINT = "'openssl genpkey -algorithm ed25519 -out key.pem' makes one"


def _require() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise TargetUnavailable(
            "signatures need a package that is not installed", hint="pip install 'edgemtl[sign]'"
        ) from error


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MOST_KEY_BYTES)
    except OSError as error:
        raise InputRefused(
            f"the key cannot be read: {error.strerror}", where=str(path), hint=_HINT
        ) from error


def private_key(path: Path) -> Ed25519PrivateKey:
    """Read an unencrypted Ed25519 key in PEM (PKCS #8).

    Raises:
        InputRefused: not there, or another kind of file.
        TargetUnavailable: the package ``cryptography`` is not installed.
    """
    _require()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read_key(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        reason = "it has a password" if isinstance(error, TypeError) else "not a private key in PEM"
        raise InputRefused(
            f"the key is of no use: {reason}", where=str(path), hint=_HINT
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputRefused("this is not an Ed25519 key", where=str(path), hint=_HINT)
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """Read an Ed25519 public key in PEM.

    Raises:
        InputRefused: not there, or another kind of file.
        TargetUnavailable: the package ``cryptography`` is not installed.
    """
    _require()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    hint = "'openssl pkey -in key.pem -pubout -out key.pub' writes it"
    try:
        key = load_pem_public_key(_read_key(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputRefused("not a public key in PEM", where=str(path), hint=hint) from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputRefused("this is not an Ed25519 key", where=str(path), hint=hint)
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of the 32 bytes of a public key, in hexadecimal."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def sign_bundle(path: Path, key: Ed25519PrivateKey) -> str:
    """Put a signature into a bundle, in place and atomically; one that is there is replaced.

    Ed25519 is deterministic: the same bundle and key give the same bytes.

    Returns:
        The fingerprint of the key.

    Raises:
        InputRefused, VerificationFailed: not a bundle, or a damaged one, which nobody should sign.
        StageFailed: the file cannot be written.
    """
    bundle = open_bundle(path)
    manifest = manifest_bytes(bundle)
    members = {name: bundle.read(name) for name in bundle.manifest.files}
    public = key.public_key()
    found = {
        "algorithm": ALGORITHM,
        "public_key": public.public_bytes_raw().hex(),
        "signature": key.sign(CONTEXT + manifest).hex(),
    }
    members |= {MANIFEST: manifest, SIGNATURE: json.dumps(found, indent=2).encode() + b"\n"}
    write_atomically(path, lambda stream: write_zip(stream, members, MANIFEST))
    return fingerprint(public)


def check_signature(bundle: Bundle, trusted: Sequence[Ed25519PublicKey]) -> str:
    """The fingerprint of the trusted key that signed this bundle.

    Raises:
        VerificationFailed: not signed, signed by none of the keys, or altered since.
    """
    from cryptography.exceptions import InvalidSignature

    where = str(bundle.path)
    data = signature_bytes(bundle)
    if data is None:
        raise VerificationFailed("the bundle is not signed", where=where)
    try:
        found: Any = json.loads(data)
        if found["algorithm"] != ALGORITHM:
            raise ValueError(f"algorithm {found['algorithm']!r}")
        claimed, signature = bytes.fromhex(found["public_key"]), bytes.fromhex(found["signature"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VerificationFailed(f"the signature is not readable: {error}", where=where) from error
    signers = [key for key in trusted if key.public_bytes_raw() == claimed]
    if not signers:
        raise VerificationFailed(
            f"signed by another key: {hashlib.sha256(claimed).hexdigest()}", where=where
        )
    try:
        signers[0].verify(signature, CONTEXT + manifest_bytes(bundle))
    except InvalidSignature as error:
        raise VerificationFailed("the signature does not fit the manifest", where=where) from error
    return fingerprint(signers[0])
