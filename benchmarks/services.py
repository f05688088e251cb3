"""The servers that measurements run against, each private: own port, own directories.

Data of the registry lies on tmpfs, so that dropped page caches slow the client
under test, not the server.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from fs import mounts

_START_SECONDS = 20.0
_POLL = 0.01

Address = str | tuple[str, int]
Wrap = Callable[[Sequence[str]], list[str]]


class Traffic(NamedTuple):
    """What a registry answered: bodies in bytes, and how many requests."""

    sent_bytes: int
    requests: int

    def since(self, before: Traffic) -> Traffic:
        return Traffic(self.sent_bytes - before.sent_bytes, self.requests - before.requests)


@dataclass(frozen=True)
class Registry:
    """`host` is "ADDRESS:PORT"."""

    host: str
    log: Path
    pid: int = 0

    def cpu(self) -> float:
        """Seconds of CPU that the server took so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def traffic(self) -> Traffic:
        """All answers so far, from the registry's own log, which has them when they are over."""
        answers = list(self._answers())
        return Traffic(sum(int(each.get("http.response.written", 0)) for each in answers),
                       len(answers))  # fmt: skip

    def answered(self, part: str, since: float) -> float | None:
        """When the first request since then whose path has `part` in it was answered.

        In seconds since 1970.
        """
        for answer in self._answers():
            moment = datetime.fromisoformat(answer["time"]).timestamp()
            if moment >= since and part in answer["http.request.uri"]:
                return moment
        return None

    def _answers(self) -> Iterator[dict[str, Any]]:
        for line in self.log.read_text(errors="replace").splitlines():
            if '"http.response.status"' in line:
                yield json.loads(line)


@contextmanager
def memory(directory: Path) -> Iterator[Path]:
    """A new directory whose files lie in memory."""
    directory.mkdir()
    mounts.mount("tmpfs", directory, "tmpfs", data="mode=0700")
    try:
        yield directory
    finally:
        mounts.umount(directory, mounts.MNT_DETACH)


@contextmanager
def registry(work: Path) -> Iterator[Registry]:
    """Debian's docker-registry on a free port of loopback, with its data in memory."""
    with memory(work / "registry") as data, serve_registry(work, data) as server:
        yield server


@contextmanager
def serve_registry(work: Path, data: Path, enter: Sequence[str] = ()) -> Iterator[Registry]:
    """docker-registry on the loopback of the namespace that the command `enter` leads into."""
    port = free_port()
    settings = {
        "version": 0.1,
        "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(data)}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    configuration = work / f"registry-{port}.yml"
    configuration.write_text(json.dumps(settings))  # JSON is YAML
    log = work / f"registry-{port}.log"
    with running([*enter, "docker-registry", "serve", str(configuration)], log) as process:
        _wait(process, log, lambda: "listening on" in log.read_text(errors="replace"))
        yield Registry(f"127.0.0.1:{port}", log, process.pid)


def _unwrapped(command: Sequence[str]) -> list[str]:
    return [*command]


@contextmanager
def containerd(
    work: Path, snapshotters: Mapping[str, Path] | None = None, wrap: Wrap = _unwrapped
) -> Iterator[Path]:
    """A containerd with empty stores below `work`; yields its socket, for `ctr --address`.

    `snapshotters` are the sockets of further ones, by name; `wrap` makes a command
    one that is accounted for.
    """
    home = work / "containerd"
    home.mkdir()
    address = home / "sock"
    plugins = "".join(
        f'[proxy_plugins.{name}]\ntype = "snapshot"\naddress = "{place}"\n'
        for name, place in (snapshotters or {}).items()
    )
    configuration = home / "config.toml"
    configuration.write_text(
        f"""
version = 2
root = "{home / "root"}"
state = "{home / "state"}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{address}"
{plugins}"""
    )
    log = work / "containerd.log"
    with running(wrap(["containerd", "--config", str(configuration)]), log) as process:
        await_socket(str(address), process, log)
        yield address


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server while the context lasts; what it says goes to `log`."""
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_socket(address: Address, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a Unix socket (a path) or TCP port accepts. RuntimeError if it never does."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET

    def accepts() -> bool:
        with socket.socket(family) as probe:
            return probe.connect_ex(address) == 0

    _wait(process, log, accepts)


def _wait(process: subprocess.Popen[bytes], log: Path, is_up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended: {log.read_text()[-500:]}")
        if is_up():
            return
        time.sleep(_POLL)
    raise RuntimeError(f"{process.args!r} does not listen")
