"""An HTTP client of a Unix socket, and what the tests send by it."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.daemon.mounting import Place
from tests.image.build import BuiltImage
from tests.parts.waiting import PATIENCE


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = connected(self._path)


def connected(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(20)
    made.connect(str(path))
    return made


@dataclass
class Client:
    path: Path
    here: Place
    image: BuiltImage

    def ask(self, method: str, target: str, body: object = None) -> tuple[int, Any]:
        """Status and document, text, or None."""
        connection = _Connection(self.path)
        try:
            connection.request(method, target, None if body is None else json.dumps(body))
            response = connection.getresponse()
            raw = response.read()
            if response.status == 204:
                assert raw == b""
                return 204, None
            if response.getheader("Content-Type") == "application/json":
                return response.status, json.loads(raw)
            return response.status, raw.decode()
        finally:
            connection.close()

    def get(self, target: str) -> Any:  # noqa: ANN401
        status, document = self.ask("GET", target)
        assert status == 200, document
        return document

    @property
    def config(self) -> dict[str, Any]:
        """nydusd's, version 1."""
        return {
            "device": {
                "backend": {"type": "localfs", "config": {"dir": str(self.image.blobs)}},
                "cache": {
                    "type": "blobcache",
                    "config": {"work_dir": str(self.here.root / "cache")},
                },
            },
            "mode": "direct",
        }

    @property
    def order(self) -> dict[str, str]:
        return {
            "source": str(self.image.bootstrap),
            "fs_type": "rafs",
            "config": json.dumps(self.config),
        }

    def mount(self, name: str) -> Path:
        """Mount the image and tell where it is."""
        assert self.ask("POST", f"/api/v1/mount?mountpoint={name}", self.order) == (204, None)
        return self.here.state / "api" / name.lstrip("/")

    def umount(self, name: str) -> None:
        assert self.ask("DELETE", f"/api/v1/mount?mountpoint={name}") == (204, None)
