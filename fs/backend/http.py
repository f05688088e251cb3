"""Blobs from a plain HTTP server: GET BASE_URL/<blob id> with a closed range.

One request an attempt, and what redirects it leads through; whoever calls decides
about trying again, by the error: TemporaryFault carries the server's Retry-After.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit

from fs.backend.blobs import checked_name
from fs.format.errors import (
    AccessError,
    Failure,
    NotFoundError,
    UnreachableError,
    UsageError,
    VerifyError,
)
from fs.registry.address import absolute, check_redirect, origin, shown
from fs.registry.hosts import Trust
from fs.registry.retry import TemporaryFault, is_temporary_status
from fs.registry.store import StoreOptions
from fs.registry.targets import Targets
from fs.registry.transport import STEP, Answer, Transport

Sign = Callable[[str, Mapping[str, str]], Mapping[str, str]]
"""The headers to send with a GET of a URL, from those that it has to have."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(?:\d{1,19}|\*)")
_ERROR_CODE = re.compile(rb"<Code>([A-Za-z]{3,60})</Code>")
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
_MAX_ERROR = 4 << 10
_PIECE = 1 << 20


class HttpBackend:
    """Keeps connections alive. `sign` is asked for each request to the server itself."""

    def __init__(
        self,
        base_url: str,
        options: StoreOptions | None = None,
        *,
        trust: Trust | None = None,
        sign: Sign | None = None,
    ) -> None:
        try:
            parts = urlsplit(base_url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise UsageError("the URL of a backend is an http or https URL with a host")
        if parts.username is not None or parts.password is not None:
            raise UsageError(f"{parts.hostname}: credentials in a backend URL would be seen by all")
        self._base = base_url.rstrip("/")
        self._name = f"{parts.scheme}://{shown(base_url)}"
        self._options = options or StoreOptions(connect_timeout=5, read_timeout=20)
        self._transport = Transport(self._options, trust)
        self._sign = sign
        self._targets = Targets()

    def read(self, blob: str, offset: int, length: int) -> bytes:
        return b"".join(self.pieces(blob, offset, length))

    def pieces(self, blob: str, offset: int, length: int) -> Iterator[bytes]:
        """What `read` returns, as it comes."""
        if length <= 0:
            return
        where = f"{self._name}: blob {checked_name(blob)}"
        # Offsets count the bytes as stored: no compression on the way.
        headers = {
            "Range": f"bytes={offset}-{offset + length - 1}",
            "Accept-Encoding": "identity",
            "User-Agent": "nydus-fs",
        }
        answer = self._from_target(blob, headers) or self._from_server(blob, headers, where)
        try:
            skip = _leading_bytes(answer, offset, length, where)
            yield from _body(answer, skip, length, where)
        finally:
            answer.close()

    def close(self) -> None:
        self._transport.close()

    def _from_server(self, blob: str, headers: dict[str, str], where: str) -> Answer:
        """The server's answer or, without a signature, of where it sends us."""
        url = f"{self._base}/{blob}"
        signed = self._sign(url, headers) if self._sign else headers
        answer = self._transport.send("GET", url, signed)
        for _ in range(_MAX_REDIRECTS):
            if answer.status not in _REDIRECTS:
                break
            answer.close()
            target = absolute(answer.headers.get("location"), answer.url, "redirect")
            check_redirect(answer.url, target, plain_http=self._options.plain_http)
            answer = self._transport.send("GET", target, headers)
        else:
            answer.close()
            raise UnreachableError(f"{where}: too many redirects")
        if answer.status in (200, 206) and origin(answer.url) != origin(url):
            self._targets.keep(blob, answer.url)
        return answer

    def _from_target(self, blob: str, headers: dict[str, str]) -> Answer | None:
        """From where the server sent us before; None once that does not work any more."""
        target = self._targets.find(blob)
        if target is None:
            return None
        try:
            answer = self._transport.send("GET", target, headers)
        except TemporaryFault:
            self._targets.forget(blob, target)
            return None
        if answer.status in (200, 206):
            return answer
        answer.close()
        self._targets.forget(blob, target)
        return None


def _leading_bytes(answer: Answer, offset: int, length: int, where: str) -> int:
    """How many bytes of the body lie before `offset`; the Failure if it is no body of ours."""
    content_range = answer.headers.get("content-range", "").strip()
    if answer.status == 200 and not content_range:  # a server that ignores ranges sends everything
        return offset
    if answer.status not in (200, 206):
        raise _failure(answer, where)
    match = _CONTENT_RANGE.fullmatch(content_range)
    if not match or int(match[1]) != offset:
        raise VerifyError(f"{where}: the server sent another range than asked for")
    if int(match[2]) != offset + length - 1:
        raise VerifyError(f"{where}: ends inside of a chunk, at {int(match[2]) + 1}")
    return 0


def _failure(answer: Answer, where: str) -> Failure:
    status = answer.status
    text = f"status {status}{_error_code(answer)}"
    if status in (404, 410):
        return NotFoundError(f"{where}: no such blob ({text})")
    if status == 416:
        return VerifyError(f"{where}: shorter than its chunks ({text})")
    if is_temporary_status(status):
        return TemporaryFault(f"{where}: {text}", answer.retry_after())
    if status < 500:  # asking again would not change the server's mind
        return AccessError(f"{where}: refused ({text})")
    return UnreachableError(f"{where}: {text}")


def _error_code(answer: Answer) -> str:
    """The one word of an object store's explanation that is passed on."""
    try:
        match = _ERROR_CODE.search(answer.read(_MAX_ERROR))
    except TemporaryFault:
        return ""
    return f" {match[1].decode()}" if match else ""


def _body(answer: Answer, skip: int, length: int, where: str) -> Iterator[bytes]:
    """Bytes [skip, skip+length) of the body, as they come."""
    while skip and (piece := answer.read(min(skip, _PIECE))):
        skip -= len(piece)
    left = length
    while not skip and left and (piece := answer.read(min(left, STEP))):
        left -= len(piece)
        yield piece
    if left:
        raise VerifyError(f"{where}: ends inside of a chunk")
