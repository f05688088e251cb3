"""Entries written as a directory tree.

The entries are an image's own tree (nydusify/layers/entries.py): each directory comes before
what is in it and none is named twice. So every parent was made here, and is reached by
descriptors that follow no link; a name can lead nowhere else.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fs.format.errors import AccessError, FormatError, StorageError, UsageError, local_errors
from fs.rootdir import open_directory
from fs.tar.entry import HARD_LINK, Entry, pieces

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 1 << 20


class DirectoryWriter:
    """A tree in the making below `root`, which must be new or empty.

    Without root's rights, owners and devices cannot be kept: AccessError, unless
    `lenient`; then `left_out` counts what was not kept.
    """

    def __init__(self, root: Path, *, lenient: bool = False) -> None:
        self.left_out = 0
        self._name = str(root)
        self._lenient = lenient
        with local_errors(root):
            self._made = [each for each in (root, *root.parents) if not each.exists()]
            root.mkdir(parents=True, exist_ok=True)
            if any(root.iterdir()):
                raise UsageError(f"{root}: the directory is not empty")
            self._root = os.open(root, _DIRECTORY)
        self._directories: list[Entry] = []
        self._at: tuple[bytes, int] = (b"", self._root)

    def close(self) -> None:
        self._leave()
        os.close(self._root)

    def discard(self) -> None:
        """Have everything gone that was made here, the root too if it was new."""
        self._leave()
        for entry in self._directories:
            with suppress(OSError):
                opened = self._walk(entry.path)
                try:
                    os.fchmod(opened, 0o700)  # what is in it can only be removed then
                finally:
                    os.close(opened)
        for name in os.listdir(self._root):
            with suppress(OSError):
                if stat.S_ISDIR(os.lstat(name, dir_fd=self._root).st_mode):
                    shutil.rmtree(name, ignore_errors=True, dir_fd=self._root)
                else:
                    os.unlink(name, dir_fd=self._root)
        with suppress(OSError):
            for directory in self._made:
                directory.rmdir()

    def add(self, entry: Entry, read: Callable[[int], bytes]) -> None:
        """One entry; `read` gives its packed content."""
        with local_errors(f"{self._name}: {os.fsdecode(entry.path)}"):
            parent, _, name = entry.path.rpartition(b"/")
            at = self._open(parent)
            if entry.kind == stat.S_IFDIR:
                self._directories.append(entry)
            if not entry.path:
                return
            if entry.kind == HARD_LINK:
                self._link(entry.target, at, name)
                return
            self._make(entry, at, name, read)

    def finish(self) -> None:
        """The attributes of directories, the deepest first.

        Earlier they would hinder what is made inside, be changed by it, or inherited.
        """
        self._leave()
        for entry in reversed(self._directories):
            with local_errors(f"{self._name}: {os.fsdecode(entry.path)}"):
                opened = self._walk(entry.path)
                try:
                    self._attributes(opened, entry)
                finally:
                    os.close(opened)

    def _make(self, entry: Entry, at: int, name: bytes, read: Callable[[int], bytes]) -> None:
        if entry.kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=at)
            return
        if entry.kind != stat.S_IFREG:
            self._make_special(entry, at, name)
            return
        opened = os.open(name, _NEW_FILE, 0o600, dir_fd=at)
        try:
            _fill(opened, entry, read)
            self._attributes(opened, entry)
        finally:
            os.close(opened)

    def _make_special(self, entry: Entry, at: int, name: bytes) -> None:
        if entry.kind == stat.S_IFLNK:
            os.symlink(entry.target, name, dir_fd=at)
        else:
            try:
                os.mknod(name, entry.kind | 0o600, entry.rdev, dir_fd=at)
            except PermissionError:
                self._refused(entry)
                return
        place = b"/proc/self/fd/%d/%b" % (at, name)
        self._own(entry, lambda: os.chown(name, entry.uid, entry.gid, dir_fd=at,
                                          follow_symlinks=False))  # fmt: skip
        if entry.kind != stat.S_IFLNK:
            os.chmod(name, entry.mode, dir_fd=at)
        self._set_xattrs(entry, lambda key, value: os.setxattr(place, key, value,
                                                               follow_symlinks=False))  # fmt: skip
        os.utime(name, ns=(_ns(entry), _ns(entry)), dir_fd=at, follow_symlinks=False)

    def _attributes(self, opened: int, entry: Entry) -> None:
        self._own(entry, lambda: os.fchown(opened, entry.uid, entry.gid))
        os.fchmod(opened, entry.mode)
        self._set_xattrs(entry, lambda key, value: os.setxattr(opened, key, value))
        os.utime(opened, ns=(_ns(entry), _ns(entry)))

    def _own(self, entry: Entry, change: Callable[[], None]) -> None:
        try:
            change()
        except PermissionError:
            self._refused(entry)

    def _set_xattrs(self, entry: Entry, change: Callable[[bytes, bytes], None]) -> None:
        for key, value in entry.xattrs.items():
            try:
                change(key, value)
            except OSError as error:
                if not self._lenient:
                    raise StorageError(
                        f"{self._name}: {os.fsdecode(entry.path)}: {os.fsdecode(key)}: "
                        f"{error.strerror}"
                    ) from None
                self.left_out += 1

    def _refused(self, entry: Entry) -> None:
        if not self._lenient:
            raise AccessError(
                f"{self._name}: {os.fsdecode(entry.path)}: owners and devices need root's rights"
            )
        self.left_out += 1

    def _link(self, target: bytes, at: int, name: bytes) -> None:
        parent, _, base = target.rpartition(b"/")
        opened = self._walk(parent)
        try:
            os.link(base, name, src_dir_fd=opened, dst_dir_fd=at, follow_symlinks=False)
        finally:
            os.close(opened)

    def _open(self, path: bytes) -> int:
        """The directory at `path`; the last one is kept open."""
        known, descriptor = self._at
        if known != path:
            self._leave()
            descriptor = self._walk(path)
            self._at = path, descriptor
        return descriptor

    def _leave(self) -> None:
        if self._at[1] != self._root:
            os.close(self._at[1])
        self._at = b"", self._root

    def _walk(self, path: bytes) -> int:
        """A new descriptor of the directory at `path`, of whose names none is a link."""
        if b".." in path.split(b"/"):
            raise FormatError("'..' in a path", self._name)
        return open_directory(self._root, path)


def _fill(opened: int, entry: Entry, read: Callable[[int], bytes]) -> None:
    offset = 0
    for piece in pieces(entry, read, _PIECE):
        if isinstance(piece, int):
            offset += piece
            continue
        view = memoryview(piece)
        while view:
            written = os.pwrite(opened, view, offset)
            offset += written
            view = view[written:]
    os.ftruncate(opened, entry.size)


def _ns(entry: Entry) -> int:
    return entry.mtime * 10**9 + entry.mtime_nsec
