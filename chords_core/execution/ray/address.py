"""Addresses of Ray clusters. Each has one spelling, so that they can be compared and nothing else reaches Ray."""

from __future__ import annotations

import ipaddress
import os
import re
import socket

from ...errors import InvalidInput
from .errors import ClusterUnreachable

LOCAL = "local"
AUTO = "auto"

_CLIENT = "ray://"
_ADDRESS = re.compile(
    r"(?P<client>ray://)?(?P<host>\[[0-9a-f:.]+\]|[0-9a-z](?:[0-9a-z._-]*[0-9a-z])?):(?P<port>[0-9]{1,5})"
)
_MAX_LENGTH = 300  # characters
_MAX_PORT = 65535


def canonical(address: str, name: str = "ray_address") -> str:
    """The one spelling of an address: ``local``, ``auto``, ``host:port`` or ``ray://host:port``.

    Raises:
        InvalidInput: naming ``name``, for anything else. Ray itself accepts more, and imports a module by the text
            before ``://``.
    """
    text = address.strip().lower()
    if text in (LOCAL, AUTO):
        return text
    match = _ADDRESS.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    if match is None or not 0 < int(match["port"]) <= _MAX_PORT:
        raise InvalidInput(name, f"{_shown(address)} is no address of a Ray cluster; {_FORMS}")
    host = match["host"]
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            raise InvalidInput(name, f"{_shown(address)} has no valid IPv6 address; {_FORMS}") from None
    return f"{match['client'] or ''}{host}:{int(match['port'])}"


_FORMS = (
    "write local (Ray on this machine), auto (the cluster in the server's RAY_ADDRESS, else as local), or host:port, "
    "such as 192.168.1.10:6379"
)


def resolved(address: str) -> str:
    """The canonical address. For ``auto`` it is the one in RAY_ADDRESS in the environment, or ``local`` without it.

    Raises:
        InvalidInput: see `canonical`.
    """
    found = canonical(address)
    if found != AUTO:
        return found
    named = canonical(os.environ.get("RAY_ADDRESS", "").strip() or LOCAL, "RAY_ADDRESS in the environment")
    return LOCAL if named == AUTO else named


def host_and_port(address: str) -> tuple[str, int]:
    """The host and the port of a canonical address that is not ``local`` or ``auto``."""
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    return host.strip("[]"), int(port)


def check_reachable(address: str, seconds: float) -> None:
    """Check quickly whether Ray may be there. Ray itself would try for a minute or more.

    Ray's servers use HTTP/2, in which both sides begin with their settings. This function waits for these settings.

    Args:
        address: canonical, and not ``local`` or ``auto``.
        seconds: for the connection, and again for the answer.

    Raises:
        ClusterUnreachable: if nothing answers, or something that is not Ray; the message says which.
    """
    try:
        connection = socket.create_connection(host_and_port(address), seconds)
    except (OSError, UnicodeError) as error:
        raise ClusterUnreachable(
            f"nothing answers at {address} ({error}). Is Ray running there (ray status), and is the port open?"
        ) from error
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        connection.close()
        return
    with connection:
        connection.settimeout(seconds)
        try:
            connection.sendall(_PREFACE)
            answer = b""
            while len(answer) < _FRAME_BYTES and (part := connection.recv(_FRAME_BYTES - len(answer))):
                answer += part
        except OSError:
            answer = b""
    if len(answer) < _FRAME_BYTES or answer[_TYPE_AT] != _SETTINGS:
        raise ClusterUnreachable(
            f"something listens at {address}, but it is not Ray. Is the port right (6379 unless you chose another one)?"
        )


# The size of the header of an HTTP/2 frame, the place of the frame's type in it, and the type "settings".
_FRAME_BYTES, _TYPE_AT, _SETTINGS = 9, 3, 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0))


def _shown(address: str) -> str:
    return repr(address if len(address) <= 80 else address[:80] + "...")
