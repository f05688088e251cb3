"""Blobs from a plain HTTP server: GET BASE_URL/<blob id> with a closed range.

One request an attempt; whoever calls decides about trying again, by the error:
TemporaryFault carries the server's Retry-After.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import requests
import requests.adapters

from fs.backend.blobs import checked_name
from fs.format.errors import (
    AccessError,
    Failure,
    NotFoundError,
    UnreachableError,
    UsageError,
    VerifyError,
)
from fs.registry.retry import TemporaryFault, is_temporary_status

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)\Z")
_PIECE = 1 << 16


class HttpBackend:
    """Keeps connections alive, one session a thread. Timeouts in seconds, of one wait each."""

    def __init__(
        self, base_url: str, *, verify: bool | str = True, timeouts: tuple[float, float] = (5, 20)
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{base_url}: not an http or https URL")
        if parts.username is not None or parts.password is not None:
            raise UsageError(f"{parts.hostname}: credentials in a backend URL would be seen by all")
        self._base = base_url.rstrip("/")
        self._name = f"{parts.scheme}://{parts.hostname}"
        self._verify = verify
        self._timeouts = timeouts
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()

    def read(self, blob: str, offset: int, length: int) -> bytes:
        url = f"{self._base}/{checked_name(blob)}"
        where = f"{self._name}: blob {blob}"
        headers = {
            "Range": f"bytes={offset}-{offset + length - 1}",
            # Offsets count the bytes as stored.
            "Accept-Encoding": "identity",
        }
        try:
            with self._session().get(
                url, headers=headers, stream=True, timeout=self._timeouts, verify=self._verify
            ) as answer:
                skip = _leading_bytes(answer, offset, length, where)
                return _body(answer, skip, length, where)
        except requests.RequestException as error:
            raise UnreachableError(f"{where}: {type(error).__name__}") from error

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            # No ~/.netrc and no proxies but those configured: only command lines read the world.
            session.trust_env = False
            with self._lock:
                self._sessions.append(session)
        return session

    def close(self) -> None:
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions.clear()


def _leading_bytes(answer: requests.Response, offset: int, length: int, where: str) -> int:
    """How many bytes of the body lie before `offset`; the Failure if it is no body of ours."""
    if answer.status_code == 200:  # a server that ignores ranges sends everything
        return offset
    if answer.status_code != 206:
        raise _failure(answer, where)
    match = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
    if not match or int(match[1]) != offset:
        raise VerifyError(f"{where}: the server sent another range than asked for")
    if int(match[2]) != offset + length - 1:
        raise VerifyError(f"{where}: ends inside of a chunk, at {int(match[2]) + 1}")
    return 0


def _failure(answer: requests.Response, where: str) -> Failure:
    status = answer.status_code
    if status in (404, 410):
        return NotFoundError(f"{where}: no such blob ({status})")
    if status == 416:
        return VerifyError(f"{where}: shorter than its chunks (416)")
    if is_temporary_status(status):
        return TemporaryFault(f"{where}: status {status}", _seconds(answer))
    if status < 500:  # asking again would not change the server's mind
        return AccessError(f"{where}: refused ({status})")
    return UnreachableError(f"{where}: status {status}")


def _seconds(answer: requests.Response) -> float | None:
    wish = answer.headers.get("Retry-After", "")
    return float(wish) if wish.isdecimal() else None


def _body(answer: requests.Response, skip: int, length: int, where: str) -> bytes:
    """Bytes [skip, skip+length) of the body, holding no more than those."""
    body = bytearray()
    for piece in _pieces(answer):
        if skip >= len(piece):
            skip -= len(piece)
            continue
        body += piece[skip:]
        skip = 0
        if len(body) >= length:
            return bytes(body[:length])
    raise VerifyError(f"{where}: ends inside of a chunk")


def _pieces(answer: requests.Response) -> Iterator[bytes]:
    yield from answer.iter_content(_PIECE)
