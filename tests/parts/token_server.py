"""A token server as docker-registry expects one: signs JWTs for whoever logs in.

Tokens are RS256, with the certificate in the header (`x5c`), which the registry
checks against its `rootcertbundle`. openssl does the signing.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.parts.registry import self_signed

SERVICE = "tests-registry"
ISSUER = "tests-issuer"


@dataclass
class TokenServer:
    """`grants` maps (user, password) or ("", "") to allowed actions.

    `lives` holds the real lives, in seconds, of the next tokens; after them 300.
    What the answer says is always 300. `requests` are (method, query or form, login).
    """

    certificate: Path
    key: Path
    url: str = ""
    grants: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    identity_tokens: dict[str, tuple[str, str]] = field(default_factory=dict)
    lives: list[float] = field(default_factory=list)
    requests: list[tuple[str, dict[str, list[str]], str]] = field(default_factory=list)

    @property
    def auth(self) -> dict[str, Any]:
        """The registry's `auth` section."""
        return {
            "token": {
                "realm": f"{self.url}/token",
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(self.certificate),
            }
        }

    def token(self, user: str, scopes: list[str], allowed: set[str]) -> str:
        now = time.time()
        life = self.lives.pop(0) if self.lives else 300.0
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": int(now + life),
            "nbf": int(now - 1000),
            "iat": int(now - 1000),
            "jti": str(now),
            "access": [_access(scope, allowed) for scope in scopes],
        }
        der = ssl.PEM_cert_to_DER_cert(self.certificate.read_text())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        signed = f"{_encode(json.dumps(header))}.{_encode(json.dumps(claims))}"
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key, "-binary"],
            input=signed.encode(),
            check=True,
            capture_output=True,
        )
        return f"{signed}.{_encode(signature.stdout)}"


def _encode(data: str | bytes) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _access(scope: str, allowed: set[str]) -> dict[str, Any]:
    kind, name, actions = scope.split(":")
    granted = [action for action in actions.split(",") if action in allowed]
    return {"type": kind, "name": name, "actions": granted}


class _Handler(BaseHTTPRequestHandler):
    tokens: TokenServer

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        header = self.headers.get("Authorization", "")
        login = ("", "")
        if header.startswith("Basic "):
            user, _, password = base64.b64decode(header[6:]).decode().partition(":")
            login = (user, password)
        self._answer("GET", query, login, query.get("scope", []))

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        login = self.tokens.identity_tokens.get(form.get("refresh_token", [""])[0], ("?", "?"))
        self._answer("POST", form, login, form.get("scope", [""])[0].split())

    def _answer(
        self, method: str, query: dict[str, list[str]], login: tuple[str, str], scopes: list[str]
    ) -> None:
        self.tokens.requests.append((method, query, login[0]))
        if login not in self.tokens.grants:
            self._send(401, {"details": "incorrect username or password"})
            return
        token = self.tokens.token(login[0], scopes, self.tokens.grants[login])
        name = "access_token" if method == "POST" else "token"
        self._send(200, {name: token, "expires_in": 300})

    def _send(self, status: int, document: dict[str, Any]) -> None:
        raw = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def start_token_server(root: Path) -> Iterator[TokenServer]:
    """A token server on loopback; its certificate is made below `root`."""
    root.mkdir(parents=True, exist_ok=True)
    tokens = TokenServer(*self_signed(root))
    handler = type("Handler", (_Handler,), {"tokens": tokens})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        tokens.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield tokens
        finally:
            server.shutdown()
            thread.join()
