"""A small certificate authority for one farm.

Whoever holds a pair that it signed may run programs on every worker of that farm, so there is one
authority per farm and its key stays where it was made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from edgemtl.devices.farm.address import CA, pair
from edgemtl.errors import InputRefused, TargetUnavailable, UsageError
from edgemtl.files import write_atomically

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CA_KEY = "ca-key.pem"
#: a machine whose clock is a little behind takes new certificates too
_SLACK = timedelta(minutes=5)
#: a century; the calendar of certificates ends with the year 9999
MOST_DAYS = 36_500


def make_certificates(folder: Path, names: Sequence[str], days: int) -> list[Path]:
    """Write an authority, if there is none, and a pair per name, if there is none.

    Args:
        folder: gets ``ca.pem``, ``ca-key.pem``, and ``NAME.pem`` with ``NAME-key.pem``. Keys can
            be read by their owner alone.
        names: ``scheduler``, ``worker``, ``client``.
        days: until the certificates expire, a century at most.

    Returns:
        The files that were written; what was there stays.

    Raises:
        UsageError: a name is not one that can be a file's, or too many days.
        InputRefused: the authority that is there cannot be read.
        StageFailed: the folder is not writable.
        TargetUnavailable: ``cryptography`` is not installed.
    """
    if not 1 <= days <= MOST_DAYS:
        raise UsageError(f"{days} days are not 1 to {MOST_DAYS}", where="--days")
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise TargetUnavailable(
            f"certificates need cryptography: {error}", hint="pip install 'edgemtl[farm]'"
        ) from error
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or name in ("ca", "ca-key"):
            raise UsageError("not a name for a certificate", where=name)

    def write(certificate: x509.Certificate, key: EllipticCurvePrivateKey, name: str) -> list[Path]:
        files = [folder / part for part in pair(name)]
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_atomically(files[1], lambda stream: stream.write(secret), private=True)
        public = certificate.public_bytes(serialization.Encoding.PEM)
        write_atomically(files[0], lambda stream: stream.write(public))
        return files

    written: list[Path] = []
    if (folder / CA).exists():
        authority, signer = _read(folder)
    else:
        signer = ec.generate_private_key(ec.SECP256R1())
        authority = _signed("EdgeMTL farm authority", signer, None, signer, days)
        written += write(authority, signer, "ca")
    for name in dict.fromkeys(names):
        if not any((folder / part).exists() for part in pair(name)):
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _signed(f"EdgeMTL farm {name}", key, authority, signer, days)
            written += write(certificate, key, name)
    return written


def _signed(
    name: str,
    key: EllipticCurvePrivateKey,
    authority: x509.Certificate | None,
    signer: EllipticCurvePrivateKey,
    days: int,
) -> x509.Certificate:
    """A certificate of ``key``; of the authority itself where ``authority`` is None."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    own = authority is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if authority is None else authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=own, path_length=0 if own else None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=not own,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=own,
                crl_sign=own,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not own:
        # Every member of a farm is called by others and calls them.
        both = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _read(folder: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        certificate = x509.load_pem_x509_certificate((folder / CA).read_bytes())
        key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise InputRefused(
            f"the authority cannot be read: {error}",
            where=str(folder),
            hint="new pairs are made where ca-key.pem lies",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputRefused("this authority was not made by EdgeMTL", where=str(folder / CA_KEY))
    return certificate, key
