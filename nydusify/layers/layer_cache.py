"""Converted layers, their blobs and images' configurations, kept on this machine between runs.

    <directory>/lock                held shared by those who use the cache
    <directory>/layers/<key>        a line of JSON, then the record (converted_layer.py)
    <directory>/blobs/<blob id>     a blob file
    <directory>/documents/<sha256>  a configuration

The directory is this user's alone, and it is believed that an entry under a key is of the
layer and the options that the key is of. Whether its bytes are still those that were
written is checked before they are used. Entries appear by a rename, so a run that was
killed leaves whole ones only; the least recently used go when the directory is too large.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fs.format.errors import StorageError, local_errors
from fs.owndir import make_own
from fs.registry.descriptor import Descriptor
from fs.registry.digest import digest_of

_PIECE = 1 << 20
_MAX_HEAD = 4096
_PARTS = ("layers", "blobs", "documents")


class Entry(NamedTuple):
    """One kept layer. `size` in bytes with its blob, which is "" if it has none."""

    key: str
    source: str
    blob_id: str
    size: int
    last_use: float


class LayerCache:
    """Open for use. Failures of its disk are StorageErrors, for callers to do without it."""

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self._limit = limit
        for part in ("", *_PARTS):
            make_own(str(directory / part))
        with local_errors(directory):
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def find(self, key: str) -> BinaryIO | None:
        """The record under `key`, checked, at its start."""
        path = self.directory / "layers" / key
        try:
            file = path.open("rb")
        except OSError:
            return None
        try:
            start = _checked_start(file)
        except OSError:
            start = None
        if start is None:
            file.close()
            path.unlink(missing_ok=True)
            return None
        file.seek(start)
        with contextlib.suppress(OSError):
            os.utime(path)
        return file

    def blob_path(self, blob_id: str) -> Path:
        """Where the blob is, if it is there."""
        return self.directory / "blobs" / blob_id

    def has_blob(self, blob_id: str, size: int) -> bool:
        """Whether the blob is there, whole and unchanged."""
        path = self.blob_path(blob_id)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                right = found == blob_id and file.tell() == size
        except OSError:
            return False
        if not right:
            path.unlink(missing_ok=True)
        return right

    def keep(
        self, key: str, source: str, write: Callable[[BinaryIO], None], blob_id: str, blob: Path
    ) -> None:
        """Keep the record that `write` writes, and the file of its blob ("": it has none).

        `source` is the digest of the layer.

        A blob that is not at `blob` is one that is known to be at the target.
        """
        if blob_id and not self.blob_path(blob_id).exists() and blob.exists():
            self._place(self.blob_path(blob_id), lambda path: _link_or_copy(blob, path))

        def fill(path: Path) -> None:
            with tempfile.TemporaryFile(dir=path.parent) as record, path.open("xb") as out:
                write(record)
                record.seek(0)
                found = hashlib.file_digest(record, "sha256").hexdigest()
                head = {"sha256": found, "source": source, "blob": blob_id}
                out.write(json.dumps(head).encode() + b"\n")
                record.seek(0)
                shutil.copyfileobj(record, out, _PIECE)

        self._place(self.directory / "layers" / key, fill)

    def read_document(self, descriptor: Descriptor) -> bytes | None:
        """A small blob that was kept; checked."""
        path = self._document(descriptor)
        try:
            raw = path.read_bytes() if path.stat().st_size == descriptor.size else b""
        except OSError:
            return None
        return raw if digest_of(raw) == descriptor.digest else None

    def keep_document(self, descriptor: Descriptor, raw: bytes) -> None:
        if descriptor.digest.startswith("sha256:"):
            with contextlib.suppress(StorageError):
                self._place(self._document(descriptor), lambda path: path.write_bytes(raw))

    def entries(self) -> list[Entry]:
        """What is kept, the one used last first."""
        found = []
        for path in (self.directory / "layers").iterdir():
            with contextlib.suppress(OSError, ValueError):
                state = path.stat()
                with path.open("rb") as file:
                    head = _head(file)
                blob_id = head["blob"]
                size = state.st_size
                with contextlib.suppress(OSError):
                    size += self.blob_path(blob_id).stat().st_size if blob_id else 0
                found.append(Entry(path.name, head["source"], blob_id, size, state.st_mtime))
        return sorted(found, key=lambda entry: (-entry.last_use, entry.key))

    def prune(self, limit: int) -> int:
        """Delete the least recently used down to `limit` bytes; returns how many bytes went.

        StorageError if another run uses the cache.
        """
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(f"{self.directory}: in use by another nydusify") from None
        try:
            with local_errors(self.directory):
                return self._prune(limit)
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def close(self) -> None:
        with contextlib.suppress(StorageError):
            self.prune(self._limit)
        os.close(self._lock)

    def _prune(self, limit: int) -> int:
        before = self._size()
        kept: set[str] = set()
        room = limit
        for entry in self.entries():
            room -= entry.size
            if room >= 0:
                kept.add(entry.blob_id)
            else:
                (self.directory / "layers" / entry.key).unlink(missing_ok=True)
        for path in _files(self.directory / "blobs"):
            if path.name not in kept:
                path.unlink(missing_ok=True)
        for part in _PARTS:  # what runs that were killed have left
            for path in (self.directory / part).glob(".new-*"):
                path.unlink(missing_ok=True)
        for path in sorted(_files(self.directory / "documents"), key=_last_use):
            if self._size() > limit:
                path.unlink(missing_ok=True)
        return before - self._size()

    def _size(self) -> int:
        return sum(p.stat().st_size for part in _PARTS for p in _files(self.directory / part))

    def _document(self, descriptor: Descriptor) -> Path:
        return self.directory / "documents" / descriptor.digest.partition(":")[2]

    def _place(self, path: Path, fill: Callable[[Path], object]) -> None:
        """Have `fill` make a file that then gets its name."""
        made = path.parent / f".new-{secrets.token_hex(8)}"
        with local_errors(path.parent):
            try:
                fill(made)
                made.rename(path)
            finally:
                made.unlink(missing_ok=True)


def key_of(layer_digest: str, options_key: str) -> str:
    """The key of what a layer becomes with options."""
    return hashlib.sha256(f"{layer_digest}\n{options_key}".encode()).hexdigest()


def _checked_start(file: BufferedReader) -> int | None:
    """Where the record begins, None if it is not the one that was written."""
    try:
        promised = _head(file)["sha256"]
    except ValueError:
        return None
    start = file.tell()
    return start if hashlib.file_digest(file, "sha256").hexdigest() == promised else None


def _head(file: BinaryIO) -> dict[str, str]:
    found = json.loads(file.readline(_MAX_HEAD))
    names = ("sha256", "source", "blob")
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in names):
        raise ValueError("no head of a record")
    return found


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _files(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.is_file():
            yield path


def _last_use(path: Path) -> float:
    return path.stat().st_mtime
