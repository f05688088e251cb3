"""Places to mount at, by the kernel's own table; never asks a file system, so never hangs."""

from __future__ import annotations

import errno
import os

from fs import mounts
from fs.format.errors import MountError, NotFoundError, UsageError


def checked_mountpoint(mountpoint: str) -> str:
    """The absolute, resolved path of a directory that can be mounted on."""
    resolved = resolved_path(mountpoint)
    try:
        is_directory = os.path.isdir(resolved)
    except OSError as error:  # a dead mount answers ENOTCONN
        raise MountError(f"{mountpoint}: {error.strerror}") from None
    if not is_directory and not is_mounted(resolved):
        raise NotFoundError(f"{mountpoint}: no such directory")
    return resolved


def resolved_path(mountpoint: str) -> str:
    """`mountpoint` as the kernel's table has it."""
    if not mountpoint:  # realpath() takes it for the working directory
        raise UsageError("the mountpoint is empty")
    return os.path.realpath(mountpoint)


def is_mounted(mountpoint: str) -> bool:
    """Whether something is mounted at this resolved path."""
    return mount_device(mountpoint) is not None


def mount_device(mountpoint: str) -> str | None:
    """ "MAJOR:MINOR" of the topmost mount at `mountpoint`, from the kernel's mount table."""
    found = None
    wanted = os.fsencode(mountpoint)
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            fields = line.split(b" ", 5)
            if fields[4] == wanted or (b"\\" in fields[4] and _unescape(fields[4]) == wanted):
                found = fields[2].decode()
    return found


def _unescape(path: bytes) -> bytes:
    for code, plain in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        path = path.replace(code, plain)
    return path


def attach(mount: int, mountpoint: str) -> None:
    """Put a detached mount at a directory of our mount namespace. MountError."""
    try:
        target = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mounts.move_mount(mount, target)
        finally:
            os.close(target)
    except OSError as error:
        raise MountError(f"{mountpoint}: {error.strerror}") from None


def unmount_kernel(mountpoint: str, lazy: bool) -> None:
    """Unmount what is topmost there. MountError, "in use" among others."""
    if os.geteuid() != 0:
        _fusermount_unmount(mountpoint, lazy)
        return
    try:
        mounts.umount(mountpoint, mounts.UMOUNT_NOFOLLOW | (mounts.MNT_DETACH if lazy else 0))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise MountError(f"{mountpoint}: in use") from None
        raise MountError(f"{mountpoint}: {error.strerror}") from None


def _fusermount_unmount(mountpoint: str, lazy: bool) -> None:
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", mountpoint]
    pid = os.posix_spawnp(command[0], command, os.environ)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise MountError(f"{mountpoint}: fusermount3 could not unmount it")
