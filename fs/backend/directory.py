"""Blobs as files of a directory, named by their ids, or one file."""

from __future__ import annotations

import os
import threading

from fs.backend.blobs import checked_name
from fs.format.errors import AccessError, NotFoundError, StorageError, VerifyError


class DirectoryBackend:
    """Keeps each blob file open from its first read on. `others` come after `directory`."""

    def __init__(self, directory: str, *others: str) -> None:
        self._directories = (directory, *others)
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()

    def read(self, blob: str, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._file(blob), length, offset)
        except OSError as error:
            raise StorageError(f"{self._paths(blob)[0]}: {error.strerror}") from error
        if len(data) != length:
            raise VerifyError(
                f"{self._paths(blob)[0]}: ends inside of a chunk, at {offset + len(data)}"
            )
        return data

    def size(self, blob: str) -> int:
        """The length of the blob's file; raises as `read`."""
        return os.fstat(self._file(blob)).st_size

    def _paths(self, blob: str) -> list[str]:
        """Where the blob may be."""
        name = checked_name(blob)
        return [os.path.join(directory, name) for directory in self._directories]

    def _file(self, blob: str) -> int:
        with self._lock:
            descriptor = self._files.get(blob)
            if descriptor is None:
                descriptor = self._files[blob] = self._open(self._paths(blob))
        return descriptor

    def _open(self, paths: list[str]) -> int:
        for path in paths:
            try:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                continue
            except PermissionError:
                raise AccessError(f"{path}: permission denied") from None
        raise NotFoundError(f"{', '.join(paths)}: no such blob")

    def close(self) -> None:
        with self._lock:
            for descriptor in self._files.values():
                os.close(descriptor)
            self._files.clear()


class FileBackend(DirectoryBackend):
    """One file that is the blob, whichever is asked for: chunks are verified by their digests."""

    def __init__(self, path: str) -> None:
        super().__init__("")
        self._path = path

    def size(self, blob: str) -> int:
        """The length of the blob's file; raises as `read`."""
        return os.fstat(self._file(blob)).st_size

    def _paths(self, blob: str) -> list[str]:
        return [self._path]
