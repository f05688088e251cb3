"""A registry that is restarted, and a gateway before it that fails now and then.

The registry is Debian's docker-registry. What it never does by itself, errors and answers that
are cut short, is done by the gateway, under an address that stays the same.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.parts.registry import start_registry

#: Of a hundred answers, so many are an error, and so many end in the middle.
_ERRORS, _CUTS = 4, 4
_PIECE = 64 << 10


class Server:
    """`host` is the gateway's; `counts` says what became of answers."""

    def __init__(self, root: Path) -> None:
        self.host = ""
        self.counts: Counter[str] = Counter()
        self.upstream: tuple[str, int] | None = None
        self._root = root
        self._drawn = random.Random(1)
        self._running = ExitStack()

    def start(self) -> None:
        registry = self._running.enter_context(start_registry(self._root))
        address, port = registry.host.split(":")
        self.upstream = address, int(port)

    def stop(self) -> None:
        self.upstream = None
        self._running.close()
        self._running = ExitStack()

    def draw(self) -> str:
        """What becomes of the next answer."""
        number = self._drawn.randrange(100)
        if number >= _ERRORS + _CUTS:
            return "answered"
        return "refused" if number < _ERRORS else "cut"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: Server

    def do_GET(self) -> None:
        server, fate = self.server_of, self.server_of.draw()
        server.counts[fate] += 1
        upstream = server.upstream
        if upstream is None or fate == "refused":
            self._refuse()
            return
        with contextlib.closing(HTTPConnection(*upstream, timeout=30)) as far:
            try:
                far.request(self.command, self.path, headers=dict(self.headers))
                answer = far.getresponse()
            except (OSError, HTTPException):  # it is being restarted
                self._refuse()
                return
            self._pass_on(answer, int(answer.getheader("Content-Length") or 0), cut=fate == "cut")

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _pass_on(self, answer: HTTPResponse, size: int, *, cut: bool) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() != "connection":
                self.send_header(name, value)
        self.end_headers()
        left = size // 2 if cut else size
        while self.command == "GET" and left:
            try:
                piece = answer.read(min(left, _PIECE))
            except (OSError, HTTPException):
                piece = b""
            if not piece:
                break
            self.wfile.write(piece)
            left -= len(piece)
        self.close_connection = cut or left > 0

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _Gateway(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away, as killed ones do."""


@contextmanager
def start_server(root: Path) -> Iterator[Server]:
    server = Server(root)
    handler = type("Handler", (_Handler,), {"server_of": server})
    with ExitStack() as stack:
        gateway = stack.enter_context(_Gateway(("127.0.0.1", 0), handler))
        server.host = f"127.0.0.1:{gateway.server_address[1]}"
        thread = threading.Thread(target=gateway.serve_forever, args=(0.05,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(gateway.shutdown)
        server.start()
        stack.callback(server.stop)
        yield server
