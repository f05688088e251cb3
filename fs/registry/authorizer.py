"""Keeps the authorization for one repository: learns it, reuses it, renews it.

Thread-safe: of many threads that meet an expired token one fetches the new one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fs.format.errors import AccessError
from fs.registry.address import absolute, check_redirect, origin, shown
from fs.registry.auth import (
    MAX_TOKEN_ANSWER,
    Challenge,
    Token,
    TokenRequest,
    basic_header,
    parse_challenges,
    read_token,
    token_request,
)
from fs.registry.credentials import Credentials
from fs.registry.retry import TemporaryFault, is_temporary_status
from fs.registry.transport import Answer, Transport

Scopes = tuple[str, ...]
_MARGIN = 10.0
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5


class Authorizer:
    """`credentials` is asked once, and only if the registry wants a login.

    `clock` tells seconds that do not jump, for the life of tokens.
    """

    def __init__(
        self,
        transport: Transport,
        credentials: Callable[[], Credentials | None],
        *,
        plain_http: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._find = credentials
        self._plain_http = plain_http
        self._clock = clock
        self._lock = threading.RLock()
        self._searched = False
        self._found: Credentials | None = None
        self._challenge: Challenge | None = None
        self._tokens: dict[Scopes, Token] = {}

    def header(self, scopes: Scopes, registry: str) -> str | None:
        """The Authorization to send to the registry (a URL), None before it asked for one."""
        with self._lock:
            if self._challenge is None:
                return None
            if self._challenge.scheme == "basic":
                return self._basic()
            token = self._tokens.get(scopes)
            if token is None or self._clock() > token.expires - _MARGIN:
                token = self._fetch(self._challenge, scopes, registry)
            return f"Bearer {token.value}"

    def renew(self, answer: Answer, used: str | None, scopes: Scopes, registry: str) -> str | None:
        """After a 401 or 403: an Authorization that may fare better than `used`, or None."""
        challenge = _usable(parse_challenges(answer.headers.get("www-authenticate", "")))
        with self._lock:
            challenge = challenge or self._challenge
            if challenge is None:
                return None
            self._challenge = challenge
            token = self._tokens.get(scopes)
            if token and used == f"Bearer {token.value}":
                del self._tokens[scopes]
            better = self.header(scopes, registry)
        return better if better != used else None

    def explain(self) -> str:
        """Why a refusal may have come about."""
        if self._challenge is None:
            return "access denied"
        if self._credentials() is None:
            return "access denied; it does not exist, or needs a login, and none is stored"
        return "the stored login is refused or not sufficient"

    def _credentials(self) -> Credentials | None:
        with self._lock:
            if not self._searched:
                self._found = self._find()
                self._searched = True
            return self._found

    def _basic(self) -> str | None:
        credentials = self._credentials()
        return basic_header(credentials) if credentials and credentials.username else None

    def _fetch(self, challenge: Challenge, scopes: Scopes, registry: str) -> Token:
        credentials = self._credentials()
        if credentials and credentials.registry_token:
            return Token(credentials.registry_token, self._clock() + 3600)
        request = token_request(
            challenge, scopes, credentials, registry, plain_http=self._plain_http
        )
        answer = self._ask(request)
        token = read_token(
            answer.read_all(MAX_TOKEN_ANSWER, "token"), self._clock(), shown(answer.url)
        )
        self._tokens[scopes] = token
        return token

    def _ask(self, request: TokenRequest) -> Answer:
        """The token server's good answer; a login does not follow a redirect elsewhere."""
        url, headers = request.url, request.headers
        for _ in range(_MAX_REDIRECTS):
            answer = self._transport.send(request.method, url, headers, request.body)
            if answer.status not in _REDIRECTS or request.method != "GET":
                break
            answer.close()
            target = absolute(answer.headers.get("location"), url, "redirect")
            check_redirect(url, target, plain_http=self._plain_http)
            if origin(target) != origin(url):
                headers = {}
            url = target
        if answer.status == 200:
            return answer
        answer.close()
        raise self._refused(answer)

    def _refused(self, answer: Answer) -> Exception:
        where = f"token server {shown(answer.url)}"
        if is_temporary_status(answer.status):
            return TemporaryFault(f"{where}: status {answer.status}", answer.retry_after())
        login = "the stored login" if self._credentials() else "a request without a login"
        return AccessError(f"{where} refuses {login} (status {answer.status})")


def _usable(challenges: list[Challenge]) -> Challenge | None:
    """Bearer if it is offered, else basic."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme:
                return challenge
    return None
