"""System calls for mounting, by ctypes: the only place that has them.

Wrappers of a few lines, nothing higher. Each raises OSError with the call and
its object in the text. Imports ctypes and os only, because the runner starts cold through here.
"""

from __future__ import annotations

import ctypes
import os

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

_SYS_PIVOT_ROOT = 155  # x86_64; aarch64 and riscv64 have 41

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


def _check(result: int, call: str, subject: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", subject)


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
    result = _libc.syscall(ctypes.c_long(number), os.fsencode(new_root), os.fsencode(put_old))
    _check(result, "pivot_root", os.fsdecode(new_root))
