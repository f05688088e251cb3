"""A real HTTP server of blobs that can be held, broken and counted, on loopback."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_RANGE = re.compile(r"bytes=(\d+)-(\d+)\Z")


class BlobServer:
    """`mode`: "" serves ranges, "whole" ignores them, "other" sends another one, "short" half of
    it; a number answers with that status.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mode = ""
        self.retry_after = ""
        self.ranges: list[tuple[int, int]] = []
        self.connections = 0
        self.held = 0
        self._open = threading.Event()
        self._open.set()
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/blobs"

    def hold(self) -> None:
        """Let requests wait from now on."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def up(self) -> None:
        """Listen, on the same port as before."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                owner.connections += 1
                super().setup()

            def do_GET(self) -> None:
                owner._answer(self)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections and drop those that are open."""
        self.release()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.held += 1
        self._open.wait()
        self.held -= 1
        if self._server is None:
            request.close_connection = True
            return
        match = _RANGE.match(request.headers["Range"])
        assert match
        first, last = int(match[1]), int(match[2])
        self.ranges.append((first, last))
        with contextlib.suppress(ConnectionError):
            self._send(request, first, last)

    def _send(self, request: BaseHTTPRequestHandler, first: int, last: int) -> None:
        path = self.directory / request.path.removeprefix("/blobs/")
        status = int(self.mode) if self.mode.isdecimal() else 206
        if status == 206 and not path.exists():
            status = 404
        data = path.read_bytes() if status == 206 else b""
        if status == 206 and first >= len(data):
            status, data = 416, b""
        if self.mode == "whole":
            status = 200
        piece = data[first : last + 1] if status == 206 else data
        request.send_response(status)
        request.send_header("Content-Length", str(len(piece)))
        if self.retry_after:
            request.send_header("Retry-After", self.retry_after)
        if status == 206:
            begin = first + (self.mode == "other")
            end = begin + len(piece) - 1
            request.send_header("Content-Range", f"bytes {begin}-{end}/{len(data)}")
        request.end_headers()
        if self.mode == "short":
            request.wfile.write(piece[: len(piece) // 2])
            request.close_connection = True
        else:
            request.wfile.write(piece)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True


@contextlib.contextmanager
def blob_server(directory: Path) -> Iterator[BlobServer]:
    """Serves the files of `directory` under URL `.url`."""
    server = BlobServer(directory)
    server.up()
    try:
        yield server
    finally:
        server.down()
