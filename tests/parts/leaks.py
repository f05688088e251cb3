"""Mounts and processes that tests leave behind: found, named, and cleared away.

Several sessions may run on one machine, so only what belongs to a session is touched:
mounts below its own temporary directory, and processes that inherited its mark.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from fs import mounts

MARK = "NYDUS_TEST_SESSION"


def mount_points() -> list[str]:
    """Every mount point of this mount namespace, oldest mount first."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    return [_unescape(line.split(" ")[4]) for line in lines]


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def mounts_below(root: Path) -> list[str]:
    return [point for point in mount_points() if point.startswith(f"{root}/")]


def detach(points: list[str]) -> None:
    for point in reversed(points):
        with contextlib.suppress(OSError):
            mounts.umount(point, mounts.MNT_DETACH | mounts.UMOUNT_NOFOLLOW)


def sweep_dead_sessions(temporary: Path) -> None:
    """Detach what killed sessions left mounted below pytest's directory of all sessions."""
    for session in temporary.glob("pytest-*"):
        if session.is_symlink() or not (below := mounts_below(session)):
            continue
        try:
            owner = int((session / ".lock").read_text())
        except (OSError, ValueError):
            owner = 0  # ended in order: the lock is removed then
        if not owner or not Path(f"/proc/{owner}").exists():
            detach(below)


def processes_of(mark: str, root: Path) -> Iterator[tuple[int, str]]:
    """Living processes of a session: those that inherited `mark`, and containers in `root`."""
    return processes_with([f"{MARK}={mark}".encode()], root)


def processes_with(settings: list[bytes], root: Path | None) -> Iterator[tuple[int, str]]:
    """Living processes with one of the settings, NAME=VALUE, in their environment,
    or whose root has a layer in `root`: containers.

    Any other mount namespace that was made meanwhile has copies of a session's mounts too:
    only what "/" is made of tells whose a process is.
    """
    ours = os.readlink("/proc/self/ns/mnt")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            environment = (entry / "environ").read_bytes().split(b"\0")
            inherited = any(setting in environment for setting in settings)
            contained = root is not None and os.readlink(entry / "ns/mnt") != ours
            if inherited or (contained and f"{root}/".encode() in _root_mount(entry)):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                yield int(entry.name), b" ".join(words).decode(errors="replace").strip()


def _root_mount(process: Path) -> bytes:
    """What /proc/PID/mountinfo says of the process's root: of an overlay, its layers too."""
    lines = (process / "mountinfo").read_bytes().splitlines()
    return next((line for line in reversed(lines) if line.split(b" ")[4] == b"/"), b"")


def end_processes_of(mark: str, root: Path, grace: float = 30.0) -> list[str]:
    """Wait `grace` seconds for a session's processes to end, kill the rest and name them."""
    deadline = time.monotonic() + grace
    while (left := list(processes_of(mark, root))) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid, _ in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"process {pid}: {command}" for pid, command in left]
