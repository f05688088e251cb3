"""System calls of containers that Python 3.11 lacks: namespaces, capabilities, process attributes.

Mounting is in fs/mounts.py. Wrappers of a few lines; each raises OSError with the call in its text.
"""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_CLOSE_RANGE_CLOEXEC = 4
_SYS_CLOSE_RANGE = 436
_SYS_KEYCTL = 250 if os.uname().machine == "x86_64" else 219
_KEYCTL_JOIN_SESSION_KEYRING = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.sethostname.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)


def _check(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    _check(_libc.setns(descriptor, kind), "setns")


def set_hostname(name: str) -> None:
    raw = name.encode()
    _check(_libc.sethostname(raw, len(raw)), "sethostname")


def die_with_parent(signal_number: int) -> None:
    """Ask for a signal when the parent dies; setuid and exec of set-id programs undo it."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl PDEATHSIG")


def forbid_tracing() -> None:
    """Make /proc/self unreadable for others and refuse their ptrace; undone by exec."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl DUMPABLE")


def forbid_new_privileges() -> None:
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl NO_NEW_PRIVS")


def drop_from_bounding_set(capability: int) -> None:
    _check(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "prctl CAPBSET_DROP")


def clear_ambient_capabilities() -> None:
    result = _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    _check(result, "prctl CAP_AMBIENT")


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) of this process; the sets are bit masks of capability numbers."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    sets = (effective, permitted, inheritable)
    low = [mask & 0xFFFFFFFF for mask in sets]
    high = [mask >> 32 for mask in sets]
    _check(_libc.capset(header, struct.pack("=6I", *low, *high)), "capset")


def close_on_exec_from(first: int) -> None:
    """Let no descriptor from `first` on survive the next exec."""
    last = ctypes.c_ulong(0xFFFFFFFF)
    number = ctypes.c_long(_SYS_CLOSE_RANGE)
    result = _libc.syscall(
        number, ctypes.c_ulong(first), last, ctypes.c_ulong(_CLOSE_RANGE_CLOEXEC)
    )
    _check(result, "close_range")


def new_session_keyring() -> None:
    """Leave the caller's keys behind."""
    number = ctypes.c_long(_SYS_KEYCTL)
    result = _libc.syscall(number, ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), None)
    _check(result, "keyctl JOIN_SESSION_KEYRING")
