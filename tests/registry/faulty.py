"""An HTTP server that misbehaves as a test tells it to; real registries do not do it on demand."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Reply:
    """Without a "Content-Length" header one is made; `cut` closes the link after the body."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b""
    cut: bool = False


Behaviour = Callable[[Request], Reply]


@dataclass
class Faulty:
    """`behave` may be changed at any time; `requests` is what came, in order, `peers` who did."""

    host: str
    behave: Behaviour
    requests: list[Request] = field(default_factory=list)
    peers: list[object] = field(default_factory=list)

    def to(self, path_part: str) -> list[Request]:
        return [request for request in self.requests if path_part in request.path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_object: Faulty

    def setup(self) -> None:
        self.server_object.peers.append(self.client_address)
        super().setup()

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, self.rfile.read(length))
        self.server_object.requests.append(request)
        reply = self.server_object.behave(request)
        whole = reply.body if isinstance(reply.body, bytes) else None
        self.send_response(reply.status)
        names = {name.lower() for name in reply.headers}
        if whole is not None and not names & {"content-length", "transfer-encoding"}:
            self.send_header("Content-Length", str(len(whole)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = reply.cut or whole is None
        if self.command == "HEAD":
            return
        try:
            for piece in [whole] if whole is not None else reply.body:
                self.wfile.write(piece)  # type: ignore[arg-type]
        except OSError:
            self.close_connection = True  # the client had enough

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients of a faulty server hang up; anything else is a bug of the test."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def start_faulty(behave: Behaviour) -> Iterator[Faulty]:
    faulty = Faulty("", behave)
    handler = type("Handler", (_Handler,), {"server_object": faulty})
    with _Server(("127.0.0.1", 0), handler) as server:
        faulty.host = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield faulty
        finally:
            server.shutdown()
            thread.join()
