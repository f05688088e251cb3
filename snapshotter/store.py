"""The snapshot store: containerd's contract on overlayfs.

A snapshot is a row of the metadata and a directory named by its identifier:

    ROOT/metadata.db
    ROOT/snapshots/<id>/fs      the snapshot's own layer; of an image layer, its mountpoint
    ROOT/snapshots/<id>/work    overlayfs's, of active snapshots

`prepare` makes an active snapshot, to be written to, `view` one to be read;
`commit` turns an active one into a committed one, which can be a parent. An
image layer is a committed snapshot whose content an `ImageMounter` provides.

The directory is there before its row and goes after it, so a crash can only
leave directories without rows; `cleanup` removes those. ROOT is for its owner
alone: layers hold set-user-ID programs.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fs.format.errors import MountError, UsageError, local_errors
from snapshotter.errors import SnapshotStateError
from snapshotter.images import ImageMounter
from snapshotter.metadata import ACTIVE, COMMITTED, VIEW, Metadata, Row
from snapshotter.overlay import Layers, Mount, describe
from snapshotter.trees import Usage, disk_usage, remove_tree


class Info(NamedTuple):
    """A snapshot as others see it; times in seconds since the epoch."""

    kind: str
    name: str
    parent: str
    labels: dict[str, str]
    created: float
    updated: float


class Store:
    """The snapshots under `root`, which is made if missing.

    Processes may share a root; a Store is for one thread of one process. Every
    method raises NotFoundError for an unknown name and StorageError for the disk.
    """

    def __init__(self, root: str, images: ImageMounter) -> None:
        self.root = os.path.abspath(root)
        self._snapshots = os.path.join(self.root, "snapshots")
        with local_errors(root):
            os.makedirs(self._snapshots, mode=0o700, exist_ok=True)
            os.chmod(root, 0o700)
        self._metadata = Metadata(os.path.join(root, "metadata.db"))
        self._images = images

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._metadata.close()

    def stat(self, name: str) -> Info:
        return self._info(self._metadata.get(name))

    def walk(self) -> Iterator[Info]:
        """All snapshots, a parent before its children."""
        rows = self._metadata.all()
        names = {row.id: row.name for row in rows}
        for row in rows:
            yield _info(row, "" if row.parent is None else names[row.parent])

    def update(
        self, name: str, labels: Mapping[str, str], fields: Sequence[str] = ("labels",)
    ) -> Info:
        """Change labels, the only thing that can be: all of them, or those "labels.KEY" names."""
        with self._metadata.transaction():
            row = self._metadata.get(name)
            merged = dict(row.labels)
            for field in fields:
                head, _, key = field.partition(".")
                if head != "labels":
                    raise UsageError(f"snapshot {name}: {field} cannot be changed")
                if not key:
                    merged = dict(labels)
                elif key in labels:
                    merged[key] = labels[key]
                else:
                    merged.pop(key, None)
            self._metadata.set_labels(row, merged)
        return self.stat(name)

    def usage(self, name: str) -> Usage:
        """What the snapshot's own layer takes on disk, without its parents."""
        row = self._metadata.get(name)
        if row.kind == ACTIVE:
            return disk_usage(self._layer(row))
        return Usage(row.inodes, row.size)

    def prepare(
        self, key: str, parent: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Mount]:
        """A new active snapshot on the committed `parent`; its mounts."""
        self._create(key, ACTIVE, parent, labels or {})
        return self.mounts(key)

    def view(
        self, key: str, parent: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Mount]:
        """A new read-only snapshot of the committed `parent`; its mounts."""
        self._create(key, VIEW, parent, labels or {})
        return self.mounts(key)

    def attach(
        self, name: str, source: str, labels: Mapping[str, str] | None = None
    ) -> dict[str, Any] | None:
        """A committed snapshot whose content the image mounter provides; the image's configuration.

        Nothing is left if it cannot be mounted.
        """
        row = self._create(name, COMMITTED, None, labels or {}, source)
        try:
            return self._images.mount(source, self._layer(row))
        except BaseException:
            self.remove(name)
            raise

    def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None) -> None:
        """Make the active snapshot `key` the committed one `name`.

        Data that must outlive a crash of the machine is to be synced before.
        """
        row = self._metadata.get(key)
        if row.kind != ACTIVE:
            raise SnapshotStateError(f"snapshot {key}: {row.kind}, not active")
        used = disk_usage(self._layer(row))
        with self._metadata.transaction():
            self._metadata.commit(self._metadata.get(key), name, labels or {}, *used)

    def mounts(self, key: str) -> list[Mount]:
        """The mounts that show an active snapshot or a view."""
        return describe(self.layers(key))

    def layers(self, key: str) -> Layers:
        """The same as directories. Image layers below are mounted if they are not."""
        row = self._metadata.get(key)
        if row.kind == COMMITTED:
            raise SnapshotStateError(f"snapshot {key}: committed, cannot be mounted itself")
        ancestors = self._metadata.chain(row)
        for ancestor in ancestors:
            self._ensure_mounted(ancestor)
        lowers = tuple(self._layer(ancestor) for ancestor in ancestors)
        if row.kind == VIEW:
            return Layers(lowers or (self._layer(row),))
        return Layers(lowers, self._layer(row), self._path(row.id, "work"))

    def remove(self, name: str) -> None:
        """Remove a snapshot without children, and all its data."""
        row = self._metadata.get(name)
        if row.kind == ACTIVE:  # what it wrote may be what fills the disk, and a change needs room
            remove_tree(self._layer(row))
        with self._metadata.transaction():
            row = self._metadata.get(name)
            self._metadata.delete(row)
        if row.source is not None:
            self._images.unmount(self._layer(row))
        remove_tree(self._path(row.id))

    def detach(self, name: str) -> None:
        """Unmount an image layer; it comes back when a snapshot above it is used."""
        row = self._metadata.get(name)
        if row.source is not None:
            self._images.unmount(self._layer(row))

    def cleanup(self) -> int:
        """Remove directories that a crash left without a snapshot; their number."""
        with self._metadata.transaction():  # nobody is between directory and row
            known = {str(row.id) for row in self._metadata.all()}
            orphans = [name for name in os.listdir(self._snapshots) if name not in known]
            doomed = [self._set_aside(name) for name in orphans]
        for directory in doomed:
            remove_tree(directory)
        return len(doomed)

    def _set_aside(self, name: str) -> str:
        """Rename a directory without a row, whose identifier may be given out again."""
        directory = os.path.join(self._snapshots, name)
        self._images.unmount(os.path.join(directory, "fs"))
        aside = f"{directory}.{os.urandom(4).hex()}"
        os.rename(directory, aside)
        return aside

    def _create(
        self,
        name: str,
        kind: str,
        parent: str | None,
        labels: Mapping[str, str],
        source: str | None = None,
    ) -> Row:
        if parent is not None:
            self._ensure_mounted(self._metadata.get(parent))
        with self._metadata.transaction(), local_errors(self._snapshots):
            row = self._metadata.create(name, kind, parent, labels, source)
            if os.path.isdir(self._path(row.id)):  # of a transaction that a crash undid
                self._set_aside(str(row.id))
            try:
                self._make_directories(row)
            except BaseException:
                remove_tree(self._path(row.id))
                raise
        return row

    def _make_directories(self, row: Row) -> None:
        os.mkdir(self._path(row.id), 0o700)
        os.mkdir(self._layer(row), 0o755)
        if row.kind == ACTIVE:
            os.mkdir(self._path(row.id, "work"), 0o711)
        if row.parent is not None:
            _copy_attributes(self._path(row.parent, "fs"), self._layer(row))

    def _ensure_mounted(self, row: Row) -> None:
        if row.source is None or self._images.check(self._layer(row)):
            return
        self._images.unmount(self._layer(row))
        self._images.mount(row.source, self._layer(row))
        if not self._images.check(self._layer(row)):
            raise MountError(f"snapshot {row.name}: {row.source} does not stay mounted")

    def _info(self, row: Row) -> Info:
        ancestors = self._metadata.chain(row)
        return _info(row, ancestors[0].name if ancestors else "")

    def _layer(self, row: Row) -> str:
        return self._path(row.id, "fs")

    def _path(self, identifier: int, *parts: str) -> str:
        return os.path.join(self._snapshots, str(identifier), *parts)


def _copy_attributes(source: str, target: str) -> None:
    """All that overlayfs shows of /, because it shows those of the top layer's directory."""
    status = os.stat(source)
    for name in _xattr_names(source):
        if not name.startswith("trusted.overlay."):
            os.setxattr(target, name, os.getxattr(source, name))
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _xattr_names(path: str) -> list[str]:
    try:
        return os.listxattr(path)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return []  # images without any say so


def _info(row: Row, parent: str) -> Info:
    return Info(row.kind, row.name, parent, row.labels, row.created, row.updated)
