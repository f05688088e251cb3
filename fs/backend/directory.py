"""Blobs as files of one directory, named by their ids."""

from __future__ import annotations

import os
import threading

from fs.backend.blobs import checked_name
from fs.format.errors import AccessError, NotFoundError, StorageError, VerifyError


class DirectoryBackend:
    """Keeps each blob file open from its first read on."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()

    def read(self, blob: str, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._file(blob), length, offset)
        except OSError as error:
            raise StorageError(f"{self._path(blob)}: {error.strerror}") from error
        if len(data) != length:
            raise VerifyError(
                f"{self._path(blob)}: ends inside of a chunk, at {offset + len(data)}"
            )
        return data

    def _path(self, blob: str) -> str:
        return os.path.join(self.directory, checked_name(blob))

    def _file(self, blob: str) -> int:
        with self._lock:
            descriptor = self._files.get(blob)
            if descriptor is None:
                descriptor = self._files[blob] = self._open(self._path(blob))
        return descriptor

    def _open(self, path: str) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotFoundError(f"{path}: no such blob") from None
        except PermissionError:
            raise AccessError(f"{path}: permission denied") from None

    def close(self) -> None:
        with self._lock:
            for descriptor in self._files.values():
                os.close(descriptor)
            self._files.clear()
