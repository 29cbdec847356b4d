"""Whether a scheduler can be reached and takes our certificate, before Dask is asked.

Dask tries again and again and then says that time ran out; a person wants to know which of the
three it was: nobody there, not of this farm, or we are not.
"""

from __future__ import annotations

import socket
import ssl

from edgemtl.devices.farm.address import Credentials, FarmAddress
from edgemtl.errors import InputRefused, TargetUnavailable

_SECONDS = 5.0
_FOREIGN = "each end needs a pair that the other's ca.pem signed: docs/farm.md"


def probe(address: FarmAddress, credentials: Credentials) -> None:
    """Connect once.

    Raises:
        TargetUnavailable: nobody listens there, it is not a member of this farm, or it does not
            take us for one.
        InputRefused: our own certificate or key cannot be read.
    """
    where = str(address)
    try:
        raw = socket.create_connection((address.host, address.port), _SECONDS)
    except OSError as error:
        raise TargetUnavailable(
            f"the farm's scheduler cannot be reached: {error.strerror or error}",
            where=where,
            hint="start it there ('edgemtl farm scheduler'), or check address and firewall",
        ) from error
    with raw:
        if credentials.ca is None:
            return
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(credentials.ca))
        context.check_hostname = False  # members are known by their authority, as in Dask
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(str(credentials.certificate), str(credentials.key))
        except (OSError, ValueError) as error:
            raise InputRefused(
                f"this certificate and key cannot be used: {error}",
                where=str(credentials.certificate),
            ) from error
        try:
            with context.wrap_socket(raw) as encrypted:
                encrypted.settimeout(_SECONDS)
                # A member speaks first. In TLS 1.3 a refusal of our certificate comes only here.
                if not encrypted.recv(1):
                    raise TargetUnavailable(
                        "the farm's scheduler closed the connection", where=where
                    )
        except ssl.SSLCertVerificationError as error:
            raise TargetUnavailable(
                f"the scheduler is not of this farm: {error.verify_message}",
                where=where,
                hint=_FOREIGN,
            ) from error
        except (ssl.SSLError, ConnectionError) as error:
            reason = getattr(error, "reason", None) or error.strerror or str(error)
            raise TargetUnavailable(
                f"the scheduler does not take this certificate: {reason}",
                where=where,
                hint=_FOREIGN,
            ) from error
        except TimeoutError as error:
            raise TargetUnavailable(
                "the program that listens there is not a farm's scheduler", where=where
            ) from error
