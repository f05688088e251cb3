"""A node: one daemon with a few images mounted for good, and what its users do to it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

from fs.daemon import launch
from fs.daemon.trimming import PAUSE
from tests.daemon.mounting import is_alive
from tests.e2e.commands import call, succeed
from tests.parts import leaks
from tests.parts.waiting import PATIENCE, eventually
from tests.soak import images
from tests.soak.footprint import Footprint, footprint

#: Less than the images have, so that reading goes on evicting.
QUOTA = 24 << 20
_LONGEST = 256 << 10
#: Exit codes: of `nydus-fs` when a registry is not there, of lazyrun for all of its failures.
UNREACHABLE, FAILED = 7, 125


class Node:
    """`mounted` is by place: the name of the image there, and the driver."""

    def __init__(self, root: Path, host: str, mounted: dict[str, tuple[str, str]]) -> None:
        self.root = root
        self.host = host
        self.mounted = mounted
        self.state, self.cache = root / "state", root / "cache"
        self.state.mkdir(parents=True)

    def start(self) -> None:
        for place, (image, driver) in self.mounted.items():
            self.mount(place, image, driver)

    def mount(self, place: str, image: str, driver: str) -> Path:
        target = self.root / place
        target.mkdir(exist_ok=True)
        _through_outages(
            UNREACHABLE,
            "nydus-fs", "mount", f"{self.host}/soak/{image}:nydus", target, "--plain-http",
            "--driver", driver, "--cache-dir", self.cache, "--cache-size", QUOTA,
            "--state-root", self.state, "--prefetch", "none",
        )  # fmt: skip
        return target

    def unmount(self, place: str) -> None:
        succeed("nydus-fs", "umount", self.root / place, "--state-root", self.state)

    def read_some(self, drawn: random.Random, place: str, image: str) -> None:
        """Look up a file and read of it, past the kernel's memory; AssertionError, OSError."""
        sizes = images.sizes(image)
        path = drawn.choice(list(sizes))
        size = sizes[path]
        descriptor = os.open(self.root / place / path, os.O_RDONLY)
        try:
            assert os.fstat(descriptor).st_size == size, f"{place}/{path}: another size"
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            offset = drawn.randrange(size)
            length = drawn.randrange(1, _LONGEST)
            found = os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)
        right = images.content(image, path, size)[:size][offset : offset + length]
        assert found == right, f"{place}/{path}: wrong bytes, {length} at {offset}"

    def kill_worker(self) -> None:
        """Its successor is there when this returns."""
        before = self.pids()
        os.kill(before[-1], signal.SIGKILL)
        eventually(lambda: self.pids()[-1:] not in ([], before[-1:]), "a new worker")

    def restart(self) -> None:
        """End the daemon as an administrator would, and mount all again by another one."""
        pids = self.pids()
        succeed("nydus-fs", "daemon", "--stop", "--state-root", self.state)
        self.assert_gone(pids)
        self.start()

    def stop(self) -> None:
        """Unmount all: the daemon ends with the last."""
        pids = self.pids()
        for place in self.mounted:
            self.unmount(place)
        self.assert_gone(pids)

    def assert_gone(self, pids: list[int]) -> None:
        eventually(lambda: not any(map(is_alive, pids)), f"processes {pids} end")
        eventually(lambda: leaks.mounts_below(self.root) == [], "no mount is left")
        eventually(lambda: list(self.state.iterdir()) == [], "no state is left")

    def pids(self) -> list[int]:
        """Supervisor and worker; none while it is restored."""
        with contextlib.suppress(Exception):
            for status in launch.all_status(str(self.state)):
                return [status["pid"], status["worker_pid"]]
        return []

    def footprint(self) -> Footprint:
        """When the worker has given back what it took while it was busy."""
        eventually(lambda: all(map(is_alive, self.pids() or [0])), "it rests")
        time.sleep(2 * PAUSE)
        return footprint(self.pids(), self.root, self.cache)


class Containers:
    """lazyrun with a root, cache and daemon of its own."""

    def __init__(self, root: Path, host: str) -> None:
        self.root = root
        self.host = host
        self.state = root / "nydus-fs"

    def run_one(self, drawn: random.Random, image: str) -> None:
        sizes = images.sizes(image)
        path = drawn.choice(list(sizes))
        script = f"echo changed > /soak/large/0; cat /soak/large/0; wc -c < /{path}"
        output = _through_outages(
            FAILED,
            "lazyrun", "run", "--rm", "--root", self.root, "--plain-http", "--cache-size", QUOTA,
            "--prefetch", "none", f"{self.host}/soak/{image}:nydus", script,
        )  # fmt: skip
        size = len("changed\n") if path == "soak/large/0" else sizes[path]
        assert output.split() == ["changed", str(size)], output

    def assert_nothing_left(self) -> None:
        eventually(lambda: leaks.mounts_below(self.root) == [], "no container's mount is left")
        assert list(self.root.glob("containers/*")) == []
        assert list(self.root.glob("store/snapshots/*")) == []
        assert launch.all_status(str(self.state)) == []


def _through_outages(code: int, *command: object) -> str:
    """Standard output of a command that is repeated while the registry, which it names, fails."""
    deadline = time.monotonic() + PATIENCE
    while True:
        done = call(*map(str, command))
        if done.returncode == 0:
            return done.stdout
        assert done.returncode == code, f"{command}: {done.stderr}"
        assert "127.0.0.1:" in done.stderr, f"{command}: {done.stderr}"
        assert time.monotonic() < deadline, f"{command}: {done.stderr}"
        time.sleep(0.2)
