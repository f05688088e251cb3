"""One layer of a plain image, unpacked into a directory as overlayfs wants it.

The result is what containerd makes of the layer. A file that is deleted becomes
a character device 0:0, an opaque directory gets its attribute; both hide what
lower layers have, never what this layer has, wherever in the archive they
stand. A directory that is only implied takes its attributes from the layers
below. Links on the way to an entry are followed inside the layer; one of a
lower layer is not, and a directory takes its place.

Layers are hostile: every name is opened relative to its parent's descriptor
without following (fs/rootdir.py), so nothing outside the directory is touched.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from fs import rootdir
from fs.format.errors import Failure, FormatError, StorageError
from fs.tar.entry import HARD_LINK, Entry, pieces
from fs.tar.paths import clean
from snapshotter.overlay import OPAQUE, Layers, opened_layers
from snapshotter.trees import remove_directory

_WHITEOUT = b".wh."
_AUFS = b".wh..wh."
_OPAQUE_MARK = b".wh..wh..opq"
_PIECE = 1 << 20
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Read = Callable[[int], bytes]


class _Attributes(NamedTuple):
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[bytes, bytes]


class Unpacker:
    """Unpacks entries into the writable layer of `layers`; `name` is the layer's, for messages.

    `add` each entry in order, then `finish`. Raises FormatError for what cannot
    be unpacked, StorageError for the disk. `scratch` is an empty directory.
    """

    def __init__(self, layers: Layers, scratch: str, name: str) -> None:
        if layers.upper is None:
            raise ValueError("nothing to unpack into")
        self._layers = layers
        self._upper = layers.upper
        self._scratch = scratch
        self._name = name
        self._root = os.open(self._upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._prefix = len(os.readlink(f"/proc/self/fd/{self._root}".encode()))
        self._marks: list[tuple[bytes, bytes]] = []
        self._devices: list[tuple[bytes, bytes]] = []
        self._directory_times: dict[bytes, int] = {}
        self._implied: set[bytes] = set()
        self._parent_names: list[bytes] | None = None
        self._parent = -1
        self._below = -1
        if layers.lowers:
            with opened_layers(Layers(layers.lowers), scratch) as root:
                self._below = os.dup(root)

    def close(self) -> None:
        self._forget_parent()
        for descriptor in (self._root, self._below):
            if descriptor >= 0:
                os.close(descriptor)

    def add(self, entry: Entry, read: Read) -> None:
        """Unpack one entry; `read` gives its content."""
        where = f"{self._name}, entry at offset {entry.offset}"
        try:
            self._add(entry, read, where)
        except OSError as error:
            raise _failure(error, where) from None

    def finish(self) -> None:
        """Settle what depends on the whole layer: whiteouts, and times of directories."""
        try:
            self._forget_parent()
            for directory, mark in self._marks:
                self._apply_mark(directory, mark)
            for directory, name in self._devices:
                self._drop_ghost(directory, name)
            for entry in os.listdir(self._root):
                if entry.startswith(os.fsdecode(_AUFS)):
                    self._remove(self._root, os.fsencode(entry))
            for path, mtime_ns in self._directory_times.items():
                with suppress(FileNotFoundError, NotADirectoryError):
                    opened = _literal(self._root, path)
                    os.utime(f"/proc/self/fd/{opened}", ns=(mtime_ns, mtime_ns))
                    os.close(opened)
        except OSError as error:
            raise _failure(error, self._name) from None

    def _add(self, entry: Entry, read: Read, where: str) -> None:
        names = clean(entry.path, where)
        if not names:
            if entry.kind != stat.S_IFDIR:
                raise FormatError("the root is not a directory", where)
            self._set_attributes(self._root, b".", entry, stat.S_IFDIR)
            self._directory_times[b""] = _mtime_ns(entry)
            return
        parent, base = self._open_parent(names[:-1]), names[-1]
        if base.startswith(_WHITEOUT):
            self._note_mark(parent, base, where)
            return
        self._make_room(parent, base, entry.kind)
        if entry.kind == HARD_LINK:
            self._link(parent, base, clean(entry.target, where), where)
        else:
            _make(parent, base, entry, read)
        status = os.stat(base, dir_fd=parent, follow_symlinks=False)
        self._set_attributes(parent, base, entry, stat.S_IFMT(status.st_mode))
        if _is_whiteout(status):
            self._devices.append((self._path(parent), base))
        if entry.kind == stat.S_IFDIR:
            path = self._path(parent) + b"/" + base
            self._directory_times[path] = _mtime_ns(entry)
            self._implied.discard(path)

    def _open_parent(self, names: list[bytes]) -> int:
        """The directory of an entry, made with what is missing above it; kept for the next."""
        if names != self._parent_names:
            self._forget_parent()
            parent = rootdir.open_in_root(self._root, b"/".join(names), self._imply)
            if not stat.S_ISDIR(os.fstat(parent).st_mode):
                os.close(parent)
                raise OSError(errno.ENOTDIR, "a parent is not a directory")
            self._parent, self._parent_names = parent, names
        return self._parent

    def _forget_parent(self) -> None:
        if self._parent_names is not None:
            os.close(self._parent)
            self._parent_names = None

    def _imply(self, parent: int, name: bytes, last: bool) -> None:
        """Make a directory that has no entry (so far), like the one in the layers below."""
        os.mkdir(name, 0o755, dir_fd=parent)
        path = self._path(parent) + b"/" + name
        below = self._stat_below(path)
        if below is None or not stat.S_ISDIR(below.mode):
            made = os.stat(name, dir_fd=parent)  # the group may be a set-group-ID parent's
            below = _Attributes(stat.S_IFDIR | 0o755, made.st_uid, made.st_gid, 0, {})
        else:
            self._directory_times[path] = below.mtime_ns
        self._implied.add(path)
        _apply(parent, name, below)

    def _path(self, directory: int) -> bytes:
        """Where a directory that is open lies below the root: "" or "/…"."""
        return os.readlink(b"/proc/self/fd/%d" % directory)[self._prefix :]

    def _stat_below(self, path: bytes) -> _Attributes | None:
        """What the layers below show at `path`, no link followed; None if nothing."""
        if self._below < 0:
            return None
        try:
            found = _literal(self._below, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            status = os.fstat(found)
            xattrs = _xattrs(found) if stat.S_ISDIR(status.st_mode) else {}
            return _Attributes(
                status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, xattrs
            )
        finally:
            os.close(found)

    def _make_room(self, parent: int, base: bytes, kind: int) -> None:
        """A later entry replaces an earlier one, but for directories, which are merged."""
        try:
            there = os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if not (kind == stat.S_IFDIR and stat.S_ISDIR(there)):
            self._remove(parent, base)

    def _remove(self, parent: int, base: bytes) -> None:
        if stat.S_ISDIR(os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode):
            directory = os.open(f"/proc/self/fd/{parent}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                remove_directory(directory, base)
            finally:
                os.close(directory)
        else:
            os.unlink(base, dir_fd=parent)

    def _link(self, parent: int, base: bytes, target: list[bytes], where: str) -> None:
        if not target:
            raise FormatError("hard link to the root", where)
        try:
            _link_in(self._root, target, parent, base)
        except FileNotFoundError:
            if self._below < 0:
                raise
            self._link_below(parent, base, target)

    def _link_below(self, parent: int, base: bytes, target: list[bytes]) -> None:
        """A second name for a file of a lower layer, which overlayfs itself copies up for us."""
        with opened_layers(self._layers, self._scratch) as merged:
            directory = _literal(merged, self._path(parent))
            try:
                with suppress(FileNotFoundError):
                    os.unlink(base, dir_fd=directory)
                _link_in(merged, target, directory, base)
            finally:
                os.close(directory)

    def _set_attributes(self, parent: int, base: bytes, entry: Entry, kind: int) -> None:
        attributes = _Attributes(
            kind | entry.mode, entry.uid, entry.gid, _mtime_ns(entry), entry.xattrs
        )
        _apply(parent, base, attributes)

    def _note_mark(self, parent: int, base: bytes, where: str) -> None:
        if base != _OPAQUE_MARK and base.startswith(_AUFS):
            return  # AUFS's own
        if base[len(_WHITEOUT) :] in (b"", b".", b".."):
            raise FormatError(f"whiteout of {base[len(_WHITEOUT) :]!r}", where)
        self._marks.append((self._path(parent), base))

    def _apply_mark(self, path: bytes, mark: bytes) -> None:
        try:
            directory = _literal(self._root, path)
        except (FileNotFoundError, NotADirectoryError):
            return  # replaced by a later entry
        try:
            if mark != _OPAQUE_MARK:
                self._hide(directory, path, mark[len(_WHITEOUT) :])
            elif path:
                os.setxattr(f"/proc/self/fd/{directory}", OPAQUE, b"y")
            elif self._below >= 0:  # overlayfs knows no opaque root
                for name in os.listdir(f"/proc/self/fd/{self._below}"):
                    self._hide(directory, path, os.fsencode(name))
        finally:
            os.close(directory)

    def _drop_ghost(self, path: bytes, name: bytes) -> None:
        """Remove a device 0:0 of the layer's own that, to overlayfs, hides nothing."""
        if self._stat_below(path + b"/" + name) is not None:
            return
        with suppress(FileNotFoundError, NotADirectoryError):
            directory = _literal(self._root, path)
            try:
                if _is_whiteout(os.stat(name, dir_fd=directory, follow_symlinks=False)):
                    os.unlink(name, dir_fd=directory)
            finally:
                os.close(directory)

    def _hide(self, directory: int, path: bytes, name: bytes) -> None:
        """Hide `name` of the layers below. Whiteouts of nothing would be listed as ghosts."""
        if self._stat_below(path + b"/" + name) is None:
            return
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)
            return
        if stat.S_ISDIR(status.st_mode):
            place = b"/proc/self/fd/%d/%b" % (directory, name)
            if path + b"/" + name in self._implied:  # what it is like is hidden too
                self._directory_times.pop(path + b"/" + name, None)
                _forget_attributes(directory, name, place)
            os.setxattr(place, OPAQUE, b"y")


def _forget_attributes(parent: int, name: bytes, place: bytes) -> None:
    """Make a directory as if nothing had been below it."""
    for attribute in os.listxattr(place):
        os.removexattr(place, attribute)
    _apply(parent, name, _Attributes(stat.S_IFDIR | 0o755, 0, 0, 0, {}))


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _make(parent: int, base: bytes, entry: Entry, read: Read) -> None:
    if entry.kind == stat.S_IFREG:
        descriptor = os.open(base, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            _write(descriptor, entry, read)
        finally:
            os.close(descriptor)
    elif entry.kind == stat.S_IFDIR:
        with suppress(FileExistsError):
            os.mkdir(base, 0o700, dir_fd=parent)
    elif entry.kind == stat.S_IFLNK:
        os.symlink(entry.target, base, dir_fd=parent)
    else:
        os.mknod(base, entry.kind | 0o600, entry.rdev, dir_fd=parent)


def _write(descriptor: int, entry: Entry, read: Read) -> None:
    for piece in pieces(entry, read, _PIECE):
        if isinstance(piece, int):
            os.lseek(descriptor, piece, os.SEEK_CUR)
            continue
        view = memoryview(piece)
        while view:
            view = view[os.write(descriptor, view) :]
    if entry.segments is not None:
        os.ftruncate(descriptor, entry.size)


def _link_in(root: int, target: list[bytes], parent: int, base: bytes) -> None:
    directory = rootdir.open_in_root(root, b"/".join(target[:-1]))
    try:
        os.link(target[-1], base, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(directory)


def _literal(root: int, path: bytes, flags: int = _DIRECTORY) -> int:
    """What lies at `path` with no link followed anywhere; directories all the way."""
    current = os.open(b".", _DIRECTORY, dir_fd=root)
    names = [name for name in path.split(b"/") if name]
    for depth, name in enumerate(names, 1):
        parent = current
        try:
            current = os.open(name, flags if depth == len(names) else _DIRECTORY, dir_fd=parent)
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link, with O_NOFOLLOW
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
            raise
        finally:
            os.close(parent)
    return current


def _xattrs(descriptor: int) -> dict[bytes, bytes]:
    place = f"/proc/self/fd/{descriptor}"
    names = [name for name in os.listxattr(place) if not name.startswith("trusted.overlay.")]
    return {os.fsencode(name): os.getxattr(place, name) for name in names}


def _apply(parent: int, base: bytes, attributes: _Attributes) -> None:
    """Set all of an inode's attributes; the owner first, since that undoes some of the others."""
    place = b"/proc/self/fd/%d/%b" % (parent, base)
    os.chown(base, attributes.uid, attributes.gid, dir_fd=parent, follow_symlinks=False)
    for name, value in attributes.xattrs.items():
        try:
            os.setxattr(place, name, value, follow_symlinks=False)
        except OSError as error:
            # As containerd: what this file system or this type of file cannot have is dropped.
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise
    if not stat.S_ISLNK(attributes.mode):
        os.chmod(place, stat.S_IMODE(attributes.mode))
    times = (attributes.mtime_ns, attributes.mtime_ns)
    os.utime(base, ns=times, dir_fd=parent, follow_symlinks=False)


def _mtime_ns(entry: Entry) -> int:
    return entry.mtime * 10**9 + entry.mtime_nsec


def _failure(error: OSError, where: str) -> Failure:
    if error.errno in _DISK:
        return StorageError(f"{where}: {error.strerror}")
    return FormatError(f"cannot be unpacked: {error.strerror}", where)
