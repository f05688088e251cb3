"""What is mounted in a container, as data: planned, sorted, and executed elsewhere.

Everything that the container or its image can influence is mounted nodev: no
device controller stands behind it, so a device node must never be usable
except the few that /dev gets, each of which is a mount of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from fs.format.errors import UsageError
from fs.mounts import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
)

BIND = "bind"
_QUIET = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC

DEVICES = {  # name in /dev: major, minor
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
    "core": "/proc/kcore",
}
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class Step(NamedTuple):
    """One mount. `target` is an absolute path in the container.

    `ordinary` targets must be real directories: a link there is an attack.
    `is_file` says what to make where the target is missing.
    """

    target: str
    fstype: str
    source: str = ""
    options: tuple[tuple[str, str | None], ...] = ()
    attributes: int = 0
    ordinary: bool = False
    is_file: bool = False


def plan(given: Iterable[Step], files: dict[str, str], shm_size: str = "64m") -> list[Step]:
    """All mounts of a container in their order.

    `files` (target: source on the host) are those that are made for each
    container. A mount in `given` replaces one of ours at the same place; a
    deeper one comes after the one it lies in.
    """
    wanted = {step.target: step for step in _own(shm_size)}
    for target, source in files.items():
        wanted[target] = Step(target, BIND, source, attributes=MOUNT_ATTR_NODEV, is_file=True)
    replacing = {}
    for step in given:
        if step.target in replacing:
            raise UsageError(f"mounted twice: {step.target}")
        replacing[step.target] = step
    return sorted((wanted | replacing).values(), key=lambda step: step.target.count("/"))


def _own(shm_size: str) -> list[Step]:
    dev_options = (("mode", "755"), ("size", "65536k"))
    pts_options = (("newinstance", None), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5"))
    shm_options = (("mode", "1777"), ("size", shm_size))
    not_devices = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC
    return [
        Step("/proc", "proc", attributes=_QUIET, ordinary=True),
        Step("/dev", "tmpfs", "", dev_options, not_devices | MOUNT_ATTR_STRICTATIME, True),
        Step("/sys", "sysfs", attributes=_QUIET | MOUNT_ATTR_RDONLY, ordinary=True),
        Step("/dev/pts", "devpts", "", pts_options, not_devices, True),
        Step("/dev/shm", "tmpfs", "", shm_options, _QUIET, True),
        Step("/dev/mqueue", "mqueue", attributes=_QUIET, ordinary=True),
    ]


_FLAGS = {
    "ro": MOUNT_ATTR_RDONLY,
    "rw": 0,
    "noexec": MOUNT_ATTR_NOEXEC,
    "nosuid": MOUNT_ATTR_NOSUID,
    "exec": 0,
    "suid": 0,
}


def volume(text: str) -> Step:
    """The mount for `-v SOURCE:TARGET[:ro,…]`; UsageError."""
    source, _, rest = text.partition(":")
    target, _, options = rest.partition(":")
    if not target:
        raise UsageError(f"-v {text}: want SOURCE:TARGET[:OPTIONS]")
    if not source.startswith(("/", ".")):
        raise UsageError(f"-v {text}: named volumes are not supported, want a path")
    attributes = MOUNT_ATTR_NODEV
    for option in filter(None, options.split(",")):
        if option not in _FLAGS:
            raise UsageError(f"-v {text}: unknown option {option}")
        attributes |= _FLAGS[option]
    source = os.path.realpath(source)
    is_file = os.path.exists(source) and not os.path.isdir(source)
    return Step(_target(target, text), BIND, source, (), attributes, is_file=is_file)


def tmpfs(text: str) -> Step:
    """The mount for `--tmpfs TARGET[:size=…,mode=…,ro,noexec,…]`; UsageError."""
    target, _, options = text.partition(":")
    attributes = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC
    pairs: dict[str, str | None] = {"mode": "1777"}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key in ("exec", "suid"):
            attributes &= ~_FLAGS["no" + key]
        elif key in _FLAGS:
            attributes |= _FLAGS[key]
        elif key in ("size", "mode", "nr_inodes", "uid", "gid") and value:
            pairs[key] = value
        else:
            raise UsageError(f"--tmpfs {text}: unknown option {option}")
    return Step(_target(target, text), "tmpfs", "", tuple(pairs.items()), attributes)


def device(text: str) -> Step:
    """The mount for `--device PATH[:TARGET]`: the one way to a device of the host."""
    source, _, target = text.partition(":")
    if not source.startswith("/dev/"):
        raise UsageError(f"--device {text}: not below /dev")
    attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC
    return Step(_target(target or source, text), BIND, source, (), attributes, is_file=True)


def _target(path: str, text: str) -> str:
    if not path.startswith("/"):
        raise UsageError(f"{text}: the path in the container must be absolute")
    target = os.path.normpath("/" + path.lstrip("/"))
    if target == "/":
        raise UsageError(f"{text}: the container's root cannot be mounted over")
    if target == "/proc" or target.startswith("/proc/"):
        raise UsageError(f"{text}: nothing can be mounted in /proc")
    return target
