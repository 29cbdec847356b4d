"""Where a farm is, and what proves that one belongs to it."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from edgemtl.errors import InputRefused, TargetUnavailable, UsageError

if TYPE_CHECKING:
    from distributed import Security

#: who somebody is in a farm; the name of their pair of certificate and key
Role = Literal["scheduler", "worker", "client"]
#: where Dask's scheduler listens by custom
PORT = 8786
#: names the folder of certificates where no flag does
VARIABLE = "EDGEMTL_FARM_CERTIFICATES"
CA = "ca.pem"


def pair(role: str) -> tuple[str, str]:
    """File names of a role's certificate and of its key."""
    return f"{role}.pem", f"{role}-key.pem"


@dataclass(frozen=True)
class FarmAddress:
    """Where a scheduler is: ``tls://host[:port]``."""

    scheme: str
    host: str
    port: int

    @staticmethod
    def parse(text: str, plain: bool = False) -> FarmAddress:
        """Read an address.

        Args:
            text: ``tls://host[:port]``; ``tcp://`` where ``plain`` is set and the host is this
                machine.
            plain: whether a connection without TLS was asked for.

        Raises:
            UsageError: not of that form, or without TLS where that is not allowed.
        """
        hint = f"tls://HOST[:{PORT}]"
        try:
            parts = urlsplit(text)
            port = PORT if parts.port is None else parts.port
        except ValueError as error:
            raise UsageError(f"not the address of a farm: {error}", where=text) from error
        host = parts.hostname or ""
        extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if parts.scheme not in ("tls", "tcp") or extra or not re.fullmatch(r"[\w.:%-]+", host):
            raise UsageError("not the address of a farm", where=text, hint=hint)
        if parts.scheme == "tls" and plain:
            raise UsageError("--without-tls goes with a tcp:// address", where=text)
        if parts.scheme == "tcp" and not plain:
            raise UsageError(
                "a farm is reached over TLS",
                where=text,
                hint=f"{hint}; on this machine alone also tcp://127.0.0.1 with --without-tls",
            )
        if parts.scheme == "tcp" and not _loopback(host):
            raise UsageError("without TLS a farm stays on this machine", where=text, hint=hint)
        return FarmAddress(parts.scheme, host, port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def certificates_folder(given: Path | None) -> Path:
    """The folder that a flag or ``EDGEMTL_FARM_CERTIFICATES`` names.

    Raises:
        UsageError: neither does.
    """
    if given is not None:
        return given
    named = os.environ.get(VARIABLE)
    if not named:
        raise UsageError(
            "a farm needs certificates",
            where="--certificates",
            hint=f"'edgemtl farm certificates DIR' makes them; name DIR here or in {VARIABLE}",
        )
    return Path(named)


@dataclass(frozen=True)
class Credentials:
    """What one end of a connection shows and what it demands of the other.

    Attributes:
        ca: certificate of the farm's own authority; None without TLS.
        certificate: signed by it.
        key: of the certificate.
    """

    ca: Path | None
    certificate: Path | None = None
    key: Path | None = None

    @staticmethod
    def of(address: FarmAddress, folder: Path | None, role: Role) -> Credentials:
        """Those for an address.

        Raises:
            UsageError: no folder is named.
            InputRefused: a file is missing there.
        """
        if address.scheme == "tcp":
            return Credentials(None)
        place = certificates_folder(folder)
        files = [place / name for name in (CA, *pair(role))]
        for file in files:
            if not file.is_file():
                raise InputRefused(
                    f"the folder of certificates has no {file.name}",
                    where=str(place),
                    hint=f"a {role} needs {', '.join(f.name for f in files)}",
                )
        return Credentials(*(file.resolve() for file in files))

    def security(self) -> Security:
        """For Dask: both ends must show a certificate of this authority."""
        require_farm()
        from distributed import Security

        if self.ca is None:
            return Security(require_encryption=False)
        ca, certificate, key = str(self.ca), str(self.certificate), str(self.key)
        pairs = {
            f"tls_{role}_{what}": value
            for role in ("client", "worker", "scheduler")
            for what, value in (("cert", certificate), ("key", key))
        }
        return Security(require_encryption=True, tls_ca_file=ca, **pairs)


def require_farm() -> None:
    """Refuse where Dask is not installed.

    Raises:
        TargetUnavailable: the extra is missing.
    """
    try:
        import distributed  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise TargetUnavailable(
            f"a farm needs Dask: {error}", hint="pip install 'edgemtl[farm]'"
        ) from error
