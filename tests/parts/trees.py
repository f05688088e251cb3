"""What a mounted tree shows, as values that can be compared.

Two trees are equal when `scan` gives equal mappings: names, types, modes,
owners, mtimes, link counts and identity, link targets, rdev, xattrs, sizes
and the sha256 of the contents.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Attributes of the file system a tree lies on, not of the tree.
_FOREIGN_XATTRS = ("trusted.overlay.", "user.overlay.", "security.selinux")


class Entry(NamedTuple):
    """One name. `identity` is the first path (in byte order) that names the same inode."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    nlink: int
    rdev: int
    identity: bytes
    content: str
    target: bytes
    xattrs: tuple[tuple[str, bytes], ...]


def scan(root: Path | str, *, xattrs: bool = True) -> dict[bytes, Entry]:
    """Every path below `root` ('.' is the root itself), relative, in byte order.

    Directory sizes and link counts depend on the file system and are left out (0).
    """
    first: dict[tuple[int, int], bytes] = {}
    return {path: _entry(path, found, first, xattrs) for path, found in _walk(os.fsencode(root))}


def differences(left: dict[bytes, Entry], right: dict[bytes, Entry], limit: int = 10) -> list[str]:
    """Up to `limit` lines that say where two scans differ; none when they are equal."""
    lines = []
    for path in sorted(left.keys() | right.keys()):
        one, other = left.get(path), right.get(path)
        if one == other:
            continue
        if one is None or other is None:
            lines.append(f"{path!r} only in the {'right' if one is None else 'left'}")
            continue
        fields = [
            f"{name} {a!r} != {b!r}"
            for name, a, b in zip(Entry._fields, one, other, strict=True)
            if a != b
        ]
        lines.append(f"{path!r}: {'; '.join(fields)}")
    return lines[:limit]


def _walk(root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """(relative path, lstat) of everything, read from inside `root`."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fchdir(descriptor)
        pending = [b"."]
        while pending:
            path = pending.pop()
            found = os.lstat(path)
            yield path, found
            if stat.S_ISDIR(found.st_mode):
                names = sorted(os.listdir(path), reverse=True)
                prefix = b"" if path == b"." else path + b"/"
                pending.extend(prefix + name for name in names)
    finally:
        os.fchdir(here)
        os.close(here)
        os.close(descriptor)


def _entry(
    path: bytes,
    found: os.stat_result,
    first: dict[tuple[int, int], bytes],
    xattrs: bool,
) -> Entry:
    kind = stat.S_IFMT(found.st_mode)
    directory = kind == stat.S_IFDIR
    inode = (found.st_dev, found.st_ino)
    identity = path if directory else first.setdefault(inode, path)
    return Entry(
        found.st_mode,
        found.st_uid,
        found.st_gid,
        0 if directory else found.st_size,
        found.st_mtime_ns,
        0 if directory else found.st_nlink,
        found.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        identity,
        _sha256(path) if kind == stat.S_IFREG else "",
        os.readlink(path) if kind == stat.S_IFLNK else b"",
        _xattrs(path) if xattrs else (),
    )


def _sha256(path: bytes) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # the file system has none
        return ()
    wanted = sorted(name for name in names if not name.startswith(_FOREIGN_XATTRS))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in wanted)
