"""Compiling and running the timed loops, and mounting what they run on."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import program, run_to_end
from benchmarks.micro.trees import LARGE, Tree


class Probe:
    """The compiled loops. Each call returns units a second (things, or bytes of `whole`)."""

    def __init__(self, work: Path) -> None:
        self._program = str(work / "probe")
        #: Seconds after which a loop counts as stuck.
        self.patience: float | None = None
        source = Path(__file__).with_name("probe.c")
        run_to_end(["gcc", "-O2", "-Wall", "-o", self._program, str(source)])

    def walk(self, root: Path, _: Tree) -> float:
        return self._rate("walk", root)

    def stat(self, root: Path, tree: Tree) -> float:
        return self._rate("stat", root, names=tree.names)

    def small(self, root: Path, tree: Tree) -> float:
        return self._rate("small", root, names=tree.names)

    def whole(self, root: Path, _: Tree) -> float:
        return self._rate("whole", root / LARGE)

    def pages(self, root: Path, count: int) -> float:
        return self._rate("pages", root / LARGE, str(count))

    def _rate(self, what: str, path: Path, *more: str, names: Path = Path(os.devnull)) -> float:
        with names.open() as listed:
            done = subprocess.run(
                [self._program, what, str(path), *more],
                stdin=listed,
                capture_output=True,
                text=True,
                check=True,
                timeout=self.patience,
            )
        seconds, touched = done.stdout.split()
        return int(touched) / float(seconds)


class Place:
    """Daemons' state and cache of this run, of one driver."""

    def __init__(self, work: Path, driver: str) -> None:
        self.driver = driver
        self.root = work / driver
        self.root.mkdir()
        self._state = ["--state-root", str(self.root / "state")]

    def mount(self, source: str, name: str = "mnt", *options: str) -> Path:
        target = self.root / name
        target.mkdir(exist_ok=True)
        run_to_end(
            [program("nydus-fs"), "mount", "--driver", self.driver, "--prefetch", "none",
             "--cache-dir", str(self.root / "cache"), *self._state, *options, source, str(target)]
        )  # fmt: skip
        return target

    def umount(self, target: Path) -> None:
        run_to_end([program("nydus-fs"), "umount", *self._state, str(target)])

    @contextmanager
    def mounted(self, source: str) -> Iterator[Path]:
        target = self.mount(source)
        try:
            yield target
        finally:
            self.umount(target)

    def mount_seconds(self, source: str) -> float:
        start = time.monotonic()
        with self.mounted(source):
            return time.monotonic() - start

    def worker(self) -> int:
        """The process that answers reads."""
        answer: list[dict[str, Any]] = json.loads(
            run_to_end([program("nydus-fs"), "status", "--json", *self._state])
        )
        return int(answer[0]["worker_pid"])

    def requests(self) -> int:
        """How many requests the worker has had from the kernel about images."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.root / "state/api.sock"))
        with closing(connection):
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        kind = "nydus_fs_operations_total{"
        return sum(int(line.split()[-1]) for line in lines if line.startswith(kind))

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """The worker stands still: what is asked of it now waits."""
        worker = self.worker()
        os.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(worker, signal.SIGCONT)

    def rested_worker(self) -> int:
        """The process that answers reads, once it has done its imports and rests."""
        pid, used = self.worker(), -1.0
        while used != (used := processor_seconds(pid)):
            time.sleep(0.5)
        return pid

    def warm_blobs(self) -> None:
        """Bring what is in the chunk cache into the page cache."""
        for path in (self.root / "cache").rglob("*.blob.data"):
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass


def processor_seconds(pid: int) -> float:
    """What a process has used with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> tuple[float, float]:
    """MiB resident in all, and of that the process's own (not pages of files)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]
