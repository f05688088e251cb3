"""A forward proxy on loopback: CONNECT and plain requests, with a login, to names of a test."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Proxy:
    """`names` maps "HOST:PORT" as clients know it to an address on loopback.

    `login` is "user:password", if one is wanted; `asked` are (method, target), in order.
    """

    host: str = ""
    login: str = ""
    names: dict[str, tuple[str, int]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def do_CONNECT(self) -> None:
        if not self._allowed(self.path):
            return
        with socket.create_connection(self.proxy.names[self.path]) as far:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_pump, args=(far, self.connection))
            back.start()
            _pump(self.connection, far)
            back.join()
        self.close_connection = True

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        place = f"{url.hostname}:{url.port or 80}"
        if not self._allowed(place):
            return
        with contextlib.closing(HTTPConnection(*self.proxy.names[place])) as far:
            kept = {k: v for k, v in self.headers.items() if not k.lower().startswith("proxy-")}
            far.request("GET", url.path + (f"?{url.query}" if url.query else ""), headers=kept)
            answer = far.getresponse()
            body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _allowed(self, place: str) -> bool:
        self.proxy.asked.append((self.command, place))
        wanted = f"Basic {base64.b64encode(self.proxy.login.encode()).decode()}"
        status = 502 if place not in self.proxy.names else 200
        if self.proxy.login and self.headers.get("Proxy-Authorization") != wanted:
            status = 407
        if status != 200:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
        return status == 200

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True


@contextmanager
def start_proxy(tls: tuple[Path, Path] | None = None) -> Iterator[Proxy]:
    """A proxy that is spoken to in clear text or, with a certificate and its key, by TLS."""
    proxy = Proxy()
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with _Server(("127.0.0.1", 0), handler) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        proxy.host = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
