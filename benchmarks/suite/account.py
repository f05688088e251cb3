"""What all processes of one run use: a cgroup that every command of the run is started in.

Containers are in it, too. Where controllers are those of cgroup v1 the runtime makes no cgroup
v2 for them; elsewhere it makes one below /sys/fs/cgroup, which is then shown to be the run's.
The group also ends whatever a run leaves behind.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from fs import mounts

_END_SECONDS = 20.0
_SHOWN = Path("/sys/fs/cgroup")
#: Where the commands are: a group with others below it that get controllers holds no process.
_COMMANDS = "commands"


@contextmanager
def group_tree(directory: Path) -> Iterator[Path]:
    """The tree of cgroups v2, mounted for the namespace that we are in."""
    directory.mkdir()
    mounts.mount("cgroup2", directory, "cgroup2")
    try:
        yield directory
    finally:
        mounts.umount(directory)
        directory.rmdir()


class Account:
    """One new group below `groups`; leaving the context ends all that is in it."""

    def __init__(self, groups: Path) -> None:
        self._group = groups / f"startup-{os.getpid()}-{time.monotonic_ns()}"
        (self._group / _COMMANDS).mkdir(parents=True)
        self._unified = (_SHOWN / "cgroup.controllers").exists()

    def __enter__(self) -> Account:
        if self._unified:
            mounts.mount(str(self._group), _SHOWN, None, mounts.MS_BIND)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.end()
        finally:
            if self._unified:
                mounts.umount(_SHOWN, mounts.MNT_DETACH)

    def wrap(self, command: Sequence[str]) -> list[str]:
        """The command as one that enters the group first."""
        enter = 'echo 0 >"$0" && exec "$@"'
        return ["sh", "-c", enter, str(self._group / _COMMANDS / "cgroup.procs"), *command]

    def cpu_seconds(self) -> float:
        """Of all processes that are or were in the group."""
        for line in (self._group / "cpu.stat").read_text().splitlines():
            name, value = line.split()
            if name == "usage_usec":
                return int(value) / 1e6
        raise RuntimeError("cpu.stat has no usage_usec")

    def peak_memory(self) -> int:
        """Bytes: each living process's largest resident set, outside of containers, added up."""
        own = os.readlink("/proc/self/ns/pid")
        total = 0
        for number in (self._group / _COMMANDS / "cgroup.procs").read_text().split():
            with suppress(OSError):
                if os.readlink(f"/proc/{number}/ns/pid") == own:
                    total += _peak(Path(f"/proc/{number}/status"))
        return total

    def end(self) -> None:
        """Kill what is left, and remove the group."""
        (self._group / "cgroup.kill").write_text("1")
        deadline = time.monotonic() + _END_SECONDS
        while True:
            try:
                for directory, _, _ in os.walk(self._group, topdown=False):
                    os.rmdir(directory)
                return
            except OSError:  # processes that are dying still count
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def _peak(status: Path) -> int:
    for line in status.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0
