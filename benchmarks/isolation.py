"""Namespaces of its own for a measurement: whatever happens, nothing of it outlives it.

Mounts and processes end with the program, and with a network namespace the
loopback link can be given the speed of a slow one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fs import mounts
from runner.syscalls import CLONE_NEWNS, setns

_ENTERED = "LAZYRUN_BENCHMARK_ISOLATED"


def isolate(
    module: str, arguments: list[str], *, network: bool = False, megabits: int | None = None
) -> None:
    """Return inside new mount and PID namespaces, where `python -m module` starts again.

    With `network` also in a network namespace that has a loopback only, so that every
    port is free; with `megabits` one whose loopback has that speed.
    Needs root, and iproute2 for a network.
    """
    if os.environ.get(_ENTERED) != "1":
        own_network = ["--net"] if network or megabits else []
        # The shell is process 1 and collects orphans, as any init does.
        inner = ["sh", "-c", '"$@"', "sh", sys.executable, "-m", module, *arguments]
        os.environ[_ENTERED] = "1"
        os.execvp(
            "unshare",
            [
                "unshare",
                "--mount",
                "--propagation=unchanged",
                "--pid",
                "--fork",
                "--kill-child",
                *own_network,
                *inner,
            ],
        )
    _own_mounts()
    mounts.mount("proc", "/proc", "proc", mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC)
    if network or megabits:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    if megabits:
        _shape_loopback(megabits)


def _own_mounts() -> None:
    """Let no mount made here reach the outside, and make "/" the root of the mount namespace.

    In a plain chroot it is not even a mount point, so that neither its propagation can be
    set nor pivot_root(2) works; and who joins this namespace by setns(2), as runc does for
    `ctr-remote image optimize`, would find itself outside of the chroot.
    """
    here = Path.cwd()
    top = os.open("/", os.O_PATH | os.O_CLOEXEC)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    setns(namespace, CLONE_NEWNS)  # and with it its true root
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    chrooted = not os.path.samestat(os.fstat(top), os.stat("/"))
    os.fchdir(top)
    if chrooted:
        mounts.mount(".", "mnt", None, mounts.MS_BIND | mounts.MS_REC)
        os.chdir("mnt")
        mounts.pivot_root(".", ".")
        mounts.umount(".", mounts.MNT_DETACH)
    os.chroot(".")
    os.chdir(here)
    os.close(namespace)
    os.close(top)


def _shape_loopback(megabits: int) -> None:
    subprocess.run(
        ["tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", f"{megabits}mbit",
         "burst", "256kb", "limit", "4mb"],
        check=True,
    )  # fmt: skip


def left_behind() -> list[str]:
    """Command lines of all processes of this PID namespace but its first and this one."""
    left = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in (1, os.getpid()):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            left.append(b" ".join(words).decode(errors="replace"))
    return left
