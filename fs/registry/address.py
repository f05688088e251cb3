"""URLs that servers send us, and what may be shown of them.

A Location or a realm is hostile until `absolute` has read it. Only `shown` goes
into messages: paths and queries of storage servers hold signatures.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit, urlunsplit

from fs.format.errors import AccessError, FormatError

_MAX_URL = 16 << 10
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int


def origin(url: str) -> Origin:
    """Scheme, host and port of a URL that has come through `absolute` or is ours."""
    parts = urlsplit(url)
    return Origin(parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme])


def absolute(location: str | None, base: str, what: str) -> str:
    """`location` as an absolute http or https URL without a login; FormatError if it is none."""
    where = f"{shown(base)}: {what}"
    if not location or len(location) > _MAX_URL or not _PRINTABLE.fullmatch(location):
        raise FormatError("missing or malformed", where)
    try:
        parts = urlsplit(urljoin(base, location))
        port = parts.port
    except ValueError:
        raise FormatError("malformed URL", where) from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise FormatError("no http or https URL", where)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = f"{host}:{port}" if port else host
    return urlunsplit((parts.scheme, netloc, parts.path, parts.query, ""))


def shown(url: str) -> str:
    """The part of a URL that a message may hold: HOST[:PORT]."""
    return urlsplit(url).netloc.rpartition("@")[2]


def is_loopback(host: str) -> bool:
    """Whether a host name or address literal is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_local(host: str) -> bool:
    """Loopback, or link-local, where clouds keep their metadata services."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return is_loopback(host)
    return address.is_loopback or address.is_link_local or address.is_unspecified


def check_redirect(source: str, target: str, *, plain_http: bool) -> None:
    """AccessError for a redirect to clear text, or from elsewhere to this machine itself.

    Who asked for plain http has a laboratory, where both are usual.
    """
    before, after = origin(source), origin(target)
    if plain_http:
        return
    if before.scheme == "https" and after.scheme == "http":
        raise AccessError(f"{shown(source)} redirects from https to http at {shown(target)}")
    if _is_local(after.host) and not _is_local(before.host):
        raise AccessError(f"{shown(source)} redirects to the local address {shown(target)}")
