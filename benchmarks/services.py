"""The servers that measurements run against, each private: own port, own directories.

Data of the registry lies on tmpfs, so that dropped page caches slow the client
under test, not the server.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fs import mounts

_START_SECONDS = 20.0


class Traffic(NamedTuple):
    """What a registry answered: bodies in bytes, and how many requests."""

    sent_bytes: int
    requests: int


@dataclass(frozen=True)
class Registry:
    """`host` is "127.0.0.1:PORT"."""

    host: str
    log: Path

    def traffic(self) -> Traffic:
        """All answers so far, from the registry's own log."""
        sent = requests = 0
        for line in self.log.read_text(errors="replace").splitlines():
            if '"http.response.status"' in line:
                sent += int(json.loads(line).get("http.response.written", 0))
                requests += 1
        return Traffic(sent, requests)


@contextmanager
def registry(work: Path) -> Iterator[Registry]:
    """Debian's docker-registry on a free port of loopback, with its data in memory."""
    data = work / "registry"
    data.mkdir()
    mounts.mount("tmpfs", data, "tmpfs", data="mode=0700")
    try:
        port = _free_port()
        settings = {
            "version": 0.1,
            "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(data)}},
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        configuration = work / "registry.yml"
        configuration.write_text(json.dumps(settings))  # JSON is YAML
        log = work / "registry.log"
        with _running(["docker-registry", "serve", str(configuration)], log) as process:
            _await_socket(socket.AF_INET, ("127.0.0.1", port), process, log)
            yield Registry(f"127.0.0.1:{port}", log)
    finally:
        mounts.umount(data)


@contextmanager
def containerd(work: Path) -> Iterator[Path]:
    """A containerd with empty stores below `work`; yields its socket, for `ctr --address`."""
    home = work / "containerd"
    home.mkdir()
    address = home / "sock"
    configuration = home / "config.toml"
    configuration.write_text(
        f"""
version = 2
root = "{home / "root"}"
state = "{home / "state"}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{address}"
"""
    )
    log = work / "containerd.log"
    with _running(["containerd", "--config", str(configuration)], log) as process:
        _await_socket(socket.AF_UNIX, str(address), process, log)
        yield address


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_socket(
    family: int, address: object, process: subprocess.Popen[bytes], log: Path
) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended: {log.read_text()[-500:]}")
        with socket.socket(family) as probe:
            if probe.connect_ex(address) == 0:  # type: ignore[arg-type]
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen")
