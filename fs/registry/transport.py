"""One HTTP exchange at a time: the only place that talks to a network.

`requests` does the work through a bare adapter, pooled and safe for threads,
and not through its Session, which would add cookies, ~/.netrc and redirects of
its own. Faults of the link become TemporaryFault or UnreachableError; no
message holds more of a URL than its host.
"""

from __future__ import annotations

import email.utils
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import certifi
import requests
import requests.adapters
import urllib3

from fs.format.errors import FormatError, UnreachableError, UsageError
from fs.registry.address import shown
from fs.registry.body import PIECE
from fs.registry.proxy import proxies_for
from fs.registry.retry import TemporaryFault
from fs.registry.store import StoreOptions

_POOL_HOSTS = 8
_POOL_CONNECTIONS = 16
_BLOCK = 128 << 10
_DRAIN = 64 << 10


class NotTlsError(UnreachableError):
    """The server does not speak TLS; it may speak plain http."""


class Answer:
    """A response whose body is still to be read; `headers` has lower-case names."""

    def __init__(self, response: requests.Response, url: str) -> None:
        self.status = response.status_code
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self.url = url
        self._raw: urllib3.HTTPResponse = response.raw

    @property
    def length(self) -> int | None:
        """Content-Length, if the server says one."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    def read(self, length: int) -> bytes:
        """Up to `length` bytes as sent, b"" at the end; TemporaryFault if the link breaks."""
        with link_faults(self.url):
            return self._raw.read(length, decode_content=False)

    def read_all(self, limit: int, what: str) -> bytes:
        """The whole body, closed; FormatError if it has more than `limit` bytes."""
        pieces, size = [], 0
        try:
            while piece := self.read(min(PIECE, limit + 1 - size)):
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise FormatError(f"{what} has more than {limit} bytes", shown(self.url))
        finally:
            self.close()
        return b"".join(pieces)

    def close(self) -> None:
        """Give the connection back if nearly all of the body was read, else close it."""
        left = self._raw.length_remaining
        if left is not None and left <= _DRAIN:
            self._raw.drain_conn()
        else:
            self._raw.close()
        self._raw.release_conn()

    def retry_after(self) -> float | None:
        """Seconds that the server asks us to wait."""
        text = self.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdigit():
            return float(text[:9])
        try:
            when = email.utils.parsedate_to_datetime(text).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
        return max(0.0, when - time.time())


class Transport:
    """Sends requests as StoreOptions say; knows nothing of registries."""

    def __init__(self, options: StoreOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._adapters: dict[bool, _Adapter] = {}
        if options.insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Iterator[bytes] | bytes | None = None,
    ) -> Answer:
        """One exchange, no redirect followed. An iterator needs a Content-Length header."""
        with link_faults(url):
            request = requests.Request(method, url, headers=dict(headers)).prepare()
            if body is not None:
                request.body = body  # type: ignore[assignment]
                if isinstance(body, bytes):
                    request.headers["Content-Length"] = str(len(body))
            response = self._adapter(secure=url.startswith("https:")).send(
                request,
                stream=True,
                timeout=(self._options.connect_timeout, self._options.read_timeout),
                verify=not self._options.insecure,
                proxies=proxies_for(url, self._options.environment),
            )
        return Answer(response, url)

    def close(self) -> None:
        for adapter in self._adapters.values():
            adapter.close()

    def _adapter(self, *, secure: bool) -> _Adapter:
        """The adapter for https or http; certificates are loaded only for https."""
        with self._lock:
            if secure not in self._adapters:
                self._adapters[secure] = _Adapter(_tls_context(self._options) if secure else None)
            return self._adapters[secure]


class _Adapter(requests.adapters.HTTPAdapter):
    """An adapter with a TLS context of ours and larger blocks."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(_POOL_HOSTS, _POOL_CONNECTIONS)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **options: object
    ) -> None:
        own = {"ssl_context": self._context, "blocksize": _BLOCK}
        super().init_poolmanager(connections, maxsize, block, **options, **own)

    def proxy_manager_for(self, proxy: str, **options: object) -> urllib3.ProxyManager:
        own = {"ssl_context": self._context, "blocksize": _BLOCK}
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **options, **own)
        return manager

    def cert_verify(self, conn: object, url: object, verify: object, cert: object) -> None:
        """The context knows what to trust; the base class would load its own list over it."""


def _tls_context(options: StoreOptions) -> ssl.SSLContext:
    if options.insecure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context = ssl.create_default_context()
    if not _has_system_roots():
        context.load_verify_locations(certifi.where())
    if options.ca_file:
        try:
            context.load_verify_locations(options.ca_file)
        except (OSError, ssl.SSLError):
            raise UsageError(f"{options.ca_file}: no certificates can be read from it") from None
    return context


def _has_system_roots() -> bool:
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return True
    return bool(paths.capath) and any(Path(os.fspath(paths.capath)).iterdir())


@contextmanager
def link_faults(url: str) -> Iterator[None]:
    """Faults of `requests` and below as failures of ours that name the host of `url`."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _fault(error, shown(url)) from None
    except ValueError:
        raise FormatError("malformed URL or header", shown(url)) from None


def _fault(error: Exception, host: str) -> Exception:
    """What a library's error means; its text may hold signed URLs and is not used."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return UnreachableError(f"{host}: certificate not trusted: {cause.verify_message}")
        if isinstance(cause, ssl.SSLError):
            reason = cause.reason or "no TLS"
            if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
                return NotTlsError(f"{host}: does not speak TLS; http has to be asked for")
            return TemporaryFault(f"{host}: TLS failed: {reason}")
        if isinstance(cause, socket.gaierror):
            kind = UnreachableError if cause.errno == socket.EAI_NONAME else TemporaryFault
            return kind(f"{host}: no such host")
        if isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError):
            return TemporaryFault(f"{host}: timed out")
        if isinstance(cause, OSError) and cause.errno and cause.strerror:
            return TemporaryFault(f"{host}: {cause.strerror}")
    if isinstance(error, ValueError):  # the URL and header errors of requests
        return FormatError("malformed URL or header", host)
    return TemporaryFault(f"{host}: connection broken")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The errors that `error` wraps, the innermost first."""
    chain: list[BaseException] = []
    pending: list[object] = [error]
    while pending and len(chain) < 20:
        item = pending.pop()
        if isinstance(item, BaseException) and item not in chain:
            chain.append(item)
            pending += [item.__context__, item.__cause__, getattr(item, "reason", None), *item.args]
    return reversed(chain)
