"""One HTTP exchange at a time: the only place that talks to a network.

`requests` does the work through a bare adapter, pooled and safe for threads,
and not through its Session, which would add cookies, ~/.netrc and redirects of
its own. Faults of the link become TemporaryFault or UnreachableError; no
message holds more of a URL than its host.
"""

from __future__ import annotations

import email.utils
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import requests
import requests.adapters
import urllib3

from fs.format.errors import AccessError, FormatError, UnreachableError
from fs.registry.address import Origin, origin, shown
from fs.registry.body import PIECE
from fs.registry.connections import made_meanwhile
from fs.registry.hosts import Trust, trust_of
from fs.registry.pace import keep_pace
from fs.registry.places import StoreOptions
from fs.registry.proxy import proxies_for
from fs.registry.retry import TemporaryFault, is_temporary_status
from fs.registry.tls import client_context

#: What is read at once of a body that is used as it comes (bytes): 5 ms of 100 Mbit/s.
STEP = 64 << 10
_POOL_HOSTS = 8
_POOL_CONNECTIONS = 32
_BLOCK = 128 << 10
_DRAIN = 64 << 10
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})\b")


_PROXY_ERRORS = (urllib3.exceptions.ProxyError, requests.exceptions.ProxyError)


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
    """Sends requests as StoreOptions say; knows nothing of registries.

    `own` is where client certificates of `trust` are shown, and nowhere else.
    """

    def __init__(
        self, options: StoreOptions, trust: Trust | None = None, own: Origin | None = None
    ) -> None:
        self._options = options
        self._trust = trust = trust or trust_of(options)
        self._own = own if trust.clients else None
        self._lock = threading.Lock()
        self._adapters: dict[tuple[bool, bool], _Adapter] = {}
        if not trust.checked:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Iterator[bytes] | bytes | None = None,
    ) -> Answer:
        """One exchange, no redirect followed. An iterator needs a Content-Length header."""
        proxies = proxies_for(url, self._options.environment)
        with link_faults(url, proxies.get(url.partition(":")[0])):
            request = requests.Request(method, url, headers=dict(headers)).prepare()
            if body is not None:
                request.body = body  # type: ignore[assignment]
                if isinstance(body, bytes):
                    request.headers["Content-Length"] = str(len(body))
            response = self._adapter(url).send(
                request,
                stream=True,
                timeout=(self._options.connect_timeout, self._options.read_timeout),
                verify=self._trust.checked,
                proxies=proxies,
            )
        return Answer(response, url)

    def with_spare(self, url: str, count: int) -> AbstractContextManager[None]:
        """Have `count` connections made meanwhile, for what the host of `url` is asked next."""
        if not count or proxies_for(url, self._options.environment):
            return nullcontext()
        pool = self._adapter(url).pool(url)
        return made_meanwhile(pool, count, self._options.connect_timeout)

    def close(self) -> None:
        for adapter in self._adapters.values():
            adapter.close()

    def _adapter(self, url: str) -> _Adapter:
        """The adapter for a URL; certificates are loaded only for https."""
        secure, own = url.startswith("https:"), origin(url) == self._own
        with self._lock:
            if (secure, own) not in self._adapters:
                context = client_context(self._trust, shown=own) if secure else None
                self._adapters[secure, own] = _Adapter(context, self._trust)
            return self._adapters[secure, own]


class _Adapter(requests.adapters.HTTPAdapter):
    """An adapter with a TLS context of ours and larger blocks."""

    def __init__(self, context: ssl.SSLContext | None, trust: Trust) -> None:
        self._context = context
        self._trust = trust
        super().__init__(_POOL_HOSTS, _POOL_CONNECTIONS)

    def pool(self, url: str) -> urllib3.HTTPConnectionPool:
        """The connections to the host of `url`, without a proxy."""
        request = requests.Request("GET", url).prepare()
        found = self.get_connection_with_tls_context(request, self._trust.checked)
        return cast(urllib3.HTTPConnectionPool, found)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **options: object
    ) -> None:
        own = {"ssl_context": self._context, "blocksize": _BLOCK}
        super().init_poolmanager(connections, maxsize, block, **options, **own)
        keep_pace(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: object) -> urllib3.ProxyManager:
        own: dict[str, object] = {"ssl_context": self._context, "blocksize": _BLOCK}
        if proxy.startswith("https:"):
            own["proxy_ssl_context"] = client_context(self._trust, shown=False)
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **options, **own)
        keep_pace(manager)
        return manager

    def cert_verify(self, conn: object, url: object, verify: object, cert: object) -> None:
        """The context knows what to trust; the base class would load its own list over it."""


@contextmanager
def link_faults(url: str, proxy: str | None = None) -> Iterator[None]:
    """Faults of `requests` and below as failures of ours that name the host of `url`."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        if proxy and (refusal := _refused_tunnel(error, shown(url), shown(proxy))):
            raise refusal from None
        by_proxy = proxy and any(isinstance(c, _PROXY_ERRORS) for c in _causes(error))
        where = f"{shown(url)}, by proxy {shown(proxy)}" if proxy and by_proxy else shown(url)
        raise _fault(error, where) from None
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


def _refused_tunnel(error: Exception, host: str, proxy: str) -> Exception | None:
    """What a proxy's answer to CONNECT means, if that is what went wrong."""
    for cause in _causes(error):
        match = _TUNNEL.search(str(cause)) if isinstance(cause, OSError) else None
        if match:
            message = f"{host}: proxy {proxy} refuses (status {match[1]})"
            temporary = is_temporary_status(int(match[1]))
            return TemporaryFault(message) if temporary else AccessError(message)
    return None


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
