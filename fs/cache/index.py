"""Where in a cache directory the bytes of a digest may be found: `content.db`, in sqlite.

Asked before the network is, so that equal chunks of different blobs are
fetched once. Everything in it is a hint: whoever follows one verifies the
bytes, so entries may be stale, lost or damaged, and nothing is ever synced.
An index that cannot be used is done without.

A digest is taken as the right to its bytes: an image that names the digest of
a chunk gets it from here, whatever registry the chunk came from.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

NAME = "content.db"
_TABLES = """
create table if not exists files (id integer primary key, path text not null unique);
create table if not exists chunks (
    digest blob primary key, file integer not null, offset integer not null
) without rowid;
"""
_FIND = "select path, offset from chunks join files on files.id = chunks.file where digest = ?"
#: Another process may write; waiting for it longer costs more than the chunk (seconds).
_PATIENCE = 0.5


class ContentIndex:
    """The index of `directory`, which must exist. Any thread; raises nothing."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._usable = True

    def read(self, digester: int, digest: bytes, size: int) -> bytes | None:
        """`size` bytes that had the digest once; the caller verifies that they still have."""
        found = self._use(lambda connection: _find(connection, _key(digester, digest)))
        if found is None:
            return None
        name, offset = found
        try:
            return _bytes_at(os.path.join(self._directory, name), offset, size)
        except (OSError, ValueError, TypeError, OverflowError):
            return None

    def add(self, digester: int, path: str, chunks: Iterable[tuple[bytes, int]]) -> None:
        """Note that file `path` (in the directory) has these digests at these offsets."""
        name = os.path.relpath(path, self._directory)
        entries = ((_key(digester, digest), offset) for digest, offset in chunks)
        self._use(lambda connection: _insert(connection, name, entries))

    def forget(self, path: str) -> None:
        """The file is gone."""
        name = os.path.relpath(path, self._directory)
        self._use(lambda connection: _delete(connection, name))

    def close(self) -> None:
        with self._lock:
            self._usable = False
            self._disconnect()

    def _use(self, action: Callable[[sqlite3.Connection], T]) -> T | None:
        with self._lock:
            if not self._usable:
                return None
            try:
                if self._connection is None:
                    self._connection = _connect(os.path.join(self._directory, NAME))
                with self._connection:
                    return action(self._connection)
            except sqlite3.OperationalError as error:  # busy, or the disk is full
                log.debug("content index: %s", error)
            except sqlite3.Error as error:
                log.warning("content index of %s: %s; it begins anew", self._directory, error)
                self._disconnect()
                self._usable = False
                with suppress(OSError):
                    os.unlink(os.path.join(self._directory, NAME))
            return None

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_PATIENCE, check_same_thread=False)
    try:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = off")
        connection.execute("pragma cache_size = -256")
        connection.executescript(_TABLES)
    except BaseException:
        connection.close()
        raise
    return connection


def _key(digester: int, digest: bytes) -> bytes:
    return bytes([digester]) + digest


def _find(connection: sqlite3.Connection, key: bytes) -> tuple[str, int] | None:
    found: tuple[str, int] | None = connection.execute(_FIND, (key,)).fetchone()
    return found


def _insert(
    connection: sqlite3.Connection, name: str, entries: Iterable[tuple[bytes, int]]
) -> None:
    connection.execute("insert or ignore into files (path) values (?)", (name,))
    (file,) = connection.execute("select id from files where path = ?", (name,)).fetchone()
    connection.executemany(
        "insert or replace into chunks values (?, ?, ?)",
        ((key, file, offset) for key, offset in entries),
    )


def _delete(connection: sqlite3.Connection, name: str) -> None:
    connection.execute(
        "delete from chunks where file = (select id from files where path = ?)", (name,)
    )
    connection.execute("delete from files where path = ?", (name,))


def _bytes_at(path: str, offset: int, size: int) -> bytes | None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        data = os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)
    return data if len(data) == size else None
