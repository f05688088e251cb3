"""The login dialogue with a registry, without any input or output.

A registry's 401 carries a challenge; from it and the credentials this makes the
request to the token server, and from that answer the token. Where credentials
may be sent at all is decided here.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlencode

from fs.format.errors import AccessError, FormatError
from fs.registry.address import absolute, is_loopback, origin, shown
from fs.registry.credentials import Credentials
from fs.registry.manifest import parse_json_object

MAX_TOKEN_ANSWER = 1 << 20
_MAX_HEADER = 8 << 10
_CLIENT_ID = "nydus-fs"
_DEFAULT_LIFE = 60.0
_LONGEST_LIFE = 86400.0
_TOKEN = re.compile(r"[\x21-\x7e]+")
_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_PARAMETER = re.compile(rf'[\s,]*({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_SCHEME = re.compile(rf"[\s,]*({_WORD})(?=[\s,]|$)")


@dataclass(frozen=True)
class Challenge:
    """`scheme` in lower case, e.g. "bearer"; parameter names too."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenRequest:
    method: str
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Token:
    """`expires` on the clock that `read_token` was given."""

    value: str = field(repr=False)
    expires: float


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of a WWW-Authenticate header; what cannot be read is left out."""
    found: list[Challenge] = []
    position, header = 0, header[:_MAX_HEADER]
    while position < len(header):
        parameter = _PARAMETER.match(header, position)
        scheme = None if parameter else _SCHEME.match(header, position)
        if parameter and found:
            name, quoted, plain = parameter.groups()
            text = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1].parameters.setdefault(name.lower(), text)
        elif scheme:
            found.append(Challenge(scheme[1].lower()))
        match = parameter or scheme
        position = match.end() if match else position + 1
    return found


def basic_header(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def may_send_login(realm: str, registry: str, *, plain_http: bool) -> bool:
    """Whether a login for `registry` may go to `realm` (both URLs).

    In clear text only inside this machine, to a registry that is itself spoken to
    in clear text, or if the user asked for plain http.
    """
    asked, own = origin(realm), origin(registry)
    if asked.scheme == "https" or plain_http or is_loopback(asked.host):
        return True
    return own.scheme == "http" and own.host == asked.host


def token_request(
    challenge: Challenge,
    scopes: Iterable[str],
    credentials: Credentials | None,
    registry: str,
    *,
    plain_http: bool,
) -> TokenRequest:
    """The request for a token for `scopes`; AccessError if the login must not go there."""
    realm = absolute(challenge.parameters.get("realm"), registry, "realm of the token server")
    if credentials and not may_send_login(realm, registry, plain_http=plain_http):
        raise AccessError(
            f"{shown(registry)} wants the login sent in clear text to {shown(realm)}; "
            "use plain http if that is meant"
        )
    service = challenge.parameters.get("service", "")
    query = [("service", service)] if service else []
    if credentials and credentials.identity_token:
        fields = [
            ("grant_type", "refresh_token"),
            ("refresh_token", credentials.identity_token),
            ("client_id", _CLIENT_ID),
            ("scope", " ".join(scopes)),
            *query,
        ]
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return TokenRequest("POST", realm, headers, urlencode(fields).encode())
    query += [("scope", scope) for scope in scopes]
    joint = "&" if "?" in realm else "?"
    url = f"{realm}{joint}{urlencode(query)}" if query else realm
    return TokenRequest("GET", url, _login(credentials))


def _login(credentials: Credentials | None) -> dict[str, str]:
    if credentials and credentials.username:
        return {"Authorization": basic_header(credentials)}
    return {}


def read_token(raw: bytes, now: float, where: str) -> Token:
    """The token in a token server's answer."""
    document = parse_json_object(raw, "answer of the token server", where)
    value = document.get("token") or document.get("access_token")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise FormatError("answer of the token server has no valid token", where)
    life = document.get("expires_in")
    if not isinstance(life, int | float) or not life > 0:
        life = _DEFAULT_LIFE
    return Token(value, now + min(life, _LONGEST_LIFE))
