"""Debian's docker-registry on loopback, stopped when the caller is done with it."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.parts.waiting import PATIENCE, eventually


@dataclass(frozen=True)
class Registry:
    """`host` is "127.0.0.1:PORT"; `log` has one JSON line a request (status, bytes, range)."""

    host: str
    log: Path
    storage: Path
    pid: int

    def requests(self, path_part: str = "") -> list[dict[str, Any]]:
        """The answered requests whose URI contains `path_part`, oldest first."""
        answered = []
        for line in self.log.read_text(errors="replace").splitlines():
            if '"http.response.status"' in line and path_part in line:
                answered.append(json.loads(line))
        return answered


def free_port() -> int:
    """One that the kernel gives to nobody who does not ask for it by its number."""
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(given // 2, given)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def start_registry(
    root: Path,
    *,
    auth: dict[str, Any] | None = None,
    tls: dict[str, str] | None = None,
    upstream: str | None = None,
) -> Iterator[Registry]:
    """Run a registry with its data under `root`; `auth` is the registry's own `auth` section.

    With `upstream`, a URL, it is a pull-through cache of that registry.
    """
    port = free_port()
    storage = root / "data"
    storage.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if auth:
        config["auth"] = auth
    if tls:
        config["http"]["tls"] = tls
    if upstream:
        config["proxy"] = {"remoteurl": upstream}
    config_file = root / "config.yml"
    config_file.write_text(json.dumps(config))  # JSON is YAML
    log = root / "registry.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config_file)], stdout=sink, stderr=sink
        )
    try:
        await_port(process, port, log)
        yield Registry(f"127.0.0.1:{port}", log, storage, process.pid)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def htpasswd_auth(root: Path, user: str, password: str) -> dict[str, Any]:
    """The registry's `auth` section for one user with a bcrypt password."""
    made = subprocess.run(
        ["htpasswd", "-nbB", user, password], check=True, capture_output=True, text=True
    )
    path = root / "htpasswd"
    path.write_text(made.stdout)
    return {"htpasswd": {"realm": "tests", "path": str(path)}}


def self_signed(root: Path, name: str = "127.0.0.1") -> tuple[Path, Path]:
    """A certificate for an address or a name that is its own authority, and its key; PEM files."""
    certificate, key = root / "cert.pem", root / "key.pem"
    kind = "IP" if name[0].isdigit() else "DNS"
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={kind}:{name}"]
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*new, *subject, *files], check=True, capture_output=True)
    return certificate, key


def await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    def listens() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended: {log.read_text()[-500:]}")
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    eventually(listens, f"{process.args!r} listens")
