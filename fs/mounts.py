"""System calls for mounting, by ctypes: the only place that has them.

Wrappers of a few lines, nothing higher. Each raises OSError with the call and
its object in the text. Imports ctypes and os only, because the runner starts cold through here.

Two generations stand side by side: mount(2) by path, and the calls by
descriptor (open_tree, fsopen, fsconfig, fsmount, move_mount, mount_setattr),
with which a mount is made detached and attached to an opened directory, so
that no path is resolved twice. All are there from Linux 5.12 on.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_STRICTATIME = 0x1000000

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_STRICTATIME = 0x20

AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_FROM_EMPTY_PATH = 0x4
_MOVE_TO_EMPTY_PATH = 0x40
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CREATE = 6
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_FAN_CLOEXEC = 0x1
_FAN_NONBLOCK = 0x2
_FAN_REPORT_MNT = 0x4000
_FAN_MARK_ADD = 0x1
_FAN_MARK_MNTNS = 0x110
_FAN_MNT_DETACH = 0x2000000

_SYS_PIVOT_ROOT = 155  # x86_64; aarch64 and riscv64 have 41
# The younger calls have one number everywhere.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_MOUNT_SETATTR = 442

StrPath = str | bytes | os.PathLike[str]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.syscall.restype = ctypes.c_long
_libc.fanotify_mark.argtypes = (
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_uint64,
    ctypes.c_int,
    ctypes.c_char_p,
)


def _check(result: int, call: str, subject: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", subject)
    return result


def _syscall(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """syscall(2); whole numbers travel as longs, because varargs of C int lose their upper half."""
    raw = [ctypes.c_long(item) if isinstance(item, int) else item for item in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *raw)
    return result


def mount(
    source: StrPath | None,
    target: StrPath,
    fstype: str | None = None,
    flags: int = 0,
    data: str | bytes | None = None,
) -> None:
    """mount(2). `data` is the comma-separated option string of the file system."""
    result = _libc.mount(
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if fstype is None else fstype.encode(),
        flags,
        os.fsencode(data) if data is not None else None,
    )
    _check(result, f"mount {fstype or 'bind'}", os.fsdecode(target))


def umount(target: StrPath, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), "umount", os.fsdecode(target))


def pivot_root(new_root: StrPath, put_old: StrPath) -> None:
    """pivot_root(2); with both "." the old root lies under the new one, to be detached."""
    number = 41 if os.uname().machine in ("aarch64", "riscv64") else _SYS_PIVOT_ROOT
    result = _syscall(number, os.fsencode(new_root), os.fsencode(put_old))
    _check(result, "pivot_root", os.fsdecode(new_root))


def open_tree(path: StrPath, *, directory: int = AT_FDCWD, recursive: bool = False) -> int:
    """A detached copy of the mount at `path` (a bind mount in the making), as a descriptor.

    An empty `path` means `directory` itself.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    result = _syscall(_SYS_OPEN_TREE, directory, os.fsencode(path), flags)
    return _check(result, "open_tree", os.fsdecode(path))


def move_mount(mount_fd: int, target: int) -> None:
    """Attach the detached mount at the opened file or directory `target`."""
    flags = _MOVE_FROM_EMPTY_PATH | _MOVE_TO_EMPTY_PATH
    result = _syscall(_SYS_MOVE_MOUNT, mount_fd, b"", target, b"", flags)
    _check(result, "move_mount", f"descriptor {target}")


def new_mount(
    fstype: str, options: Iterable[tuple[str, str | None]] = (), attributes: int = 0
) -> int:
    """A detached mount of a new file system; options are (key, value), value None for a flag.

    A file system's own words about a refused option are in the error's text.
    """
    context = _check(_syscall(_SYS_FSOPEN, fstype.encode(), _CLOEXEC), "fsopen", fstype)
    try:
        for key, value in options:
            _configure(context, fstype, key, value)
        created = _syscall(_SYS_FSCONFIG, context, _FSCONFIG_CREATE, None, None, 0)
        _check_context(context, created, f"mount {fstype}")
        result = _syscall(_SYS_FSMOUNT, context, _CLOEXEC, attributes)
        return _check(result, "fsmount", fstype)
    finally:
        os.close(context)


def _configure(context: int, fstype: str, key: str, value: str | None) -> None:
    command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
    text = None if value is None else os.fsencode(value)
    result = _syscall(_SYS_FSCONFIG, context, command, key.encode(), text, 0)
    _check_context(context, result, f"mount {fstype}: {key}={value}")


def _check_context(context: int, result: int, call: str) -> None:
    if result >= 0:
        return
    number = ctypes.get_errno()
    try:
        words = os.read(context, 4096).decode(errors="replace").strip().removeprefix("e ")
    except OSError:
        words = ""
    raise OSError(number, f"{call}: {words or os.strerror(number)}")


def set_mount_attributes(
    mount_fd: int, attributes: int, *, clear: int = 0, recursive: bool = False
) -> None:
    """mount_setattr(2) on the mount that the descriptor is the root of."""
    request = attributes.to_bytes(8, sys.byteorder) + clear.to_bytes(8, sys.byteorder) + bytes(16)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    result = _syscall(_SYS_MOUNT_SETATTR, mount_fd, b"", flags, request, len(request))
    _check(result, "mount_setattr", f"descriptor {mount_fd}")


def sync_filesystem(descriptor: int) -> None:
    """syncfs(2): what was written to the file system of the descriptor is on disk then."""
    _check(_libc.syncfs(descriptor), "syncfs", f"descriptor {descriptor}")


def unmount_listener() -> int:
    """A descriptor, non-blocking, that is readable when a mount has gone from a known namespace.

    A namespace that dies loses all its mounts. Root; from Linux 6.15 on.
    """
    flags = _FAN_CLOEXEC | _FAN_NONBLOCK | _FAN_REPORT_MNT
    return _check(_libc.fanotify_init(flags, os.O_RDONLY), "fanotify_init", "")


def listen_to_namespace(listener: int, namespace: int) -> None:
    """Have the listener know the mount namespace of descriptor `namespace`; keeps it not alive."""
    flags = _FAN_MARK_ADD | _FAN_MARK_MNTNS
    result = _libc.fanotify_mark(listener, flags, _FAN_MNT_DETACH, namespace, None)
    _check(result, "fanotify_mark", f"descriptor {namespace}")
