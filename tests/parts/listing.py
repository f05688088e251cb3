"""Directories read as programs do that seek in them: by getdents64 and lseek."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

_LIBC = ctypes.CDLL(None, use_errno=True)
_GETDENTS64 = 217
_HEAD = struct.Struct("<QqHB")


class Name(NamedTuple):
    """`cookie` is where to seek to for what comes after it."""

    name: bytes
    cookie: int
    inode: int


def getdents(descriptor: int, room: int = 4096) -> list[Name]:
    """What one call returns; empty at the end."""
    buffer = ctypes.create_string_buffer(room)
    got = _LIBC.syscall(_GETDENTS64, descriptor, buffer, room)
    if got < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    names, at = [], 0
    while at < got:
        inode, cookie, length, _ = _HEAD.unpack_from(buffer, at)
        name = buffer.raw[at + _HEAD.size : at + length].partition(b"\0")[0]
        names.append(Name(name, cookie, inode))
        at += length
    return names


def rest(descriptor: int, room: int = 4096) -> list[Name]:
    """All that follows."""
    found: list[Name] = []
    while part := getdents(descriptor, room):
        found += part
    return found
