"""What snapshots there are: one SQLite file, shared by all processes that use a store.

A change is one transaction, whole and on disk when it returns, or never made.
Rows know nothing of directories except that a snapshot's is named by its
identifier, and identifiers are never used twice.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from fs.cache.locks import alone
from fs.format.errors import (
    FormatError,
    NotFoundError,
    StorageError,
    UsageError,
    local_errors,
)
from snapshotter.errors import SnapshotExistsError, SnapshotStateError

ACTIVE = "active"
VIEW = "view"
COMMITTED = "committed"

_VERSION = 1
_BUSY_SECONDS = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS snapshot (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
    parent INTEGER REFERENCES snapshot (id) ON DELETE RESTRICT,
    source TEXT,
    labels TEXT NOT NULL,
    created REAL NOT NULL,
    updated REAL NOT NULL,
    inodes INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS children ON snapshot (parent);
"""
_COLUMNS = "id, name, kind, parent, source, labels, created, updated, inodes, size"


class Row(NamedTuple):
    """One snapshot. `source` is set for image layers, which somebody else mounts.

    `size` (bytes on disk) and `inodes` are known from the commit on.
    """

    id: int
    name: str
    kind: str
    parent: int | None
    source: str | None
    labels: dict[str, str]
    created: float
    updated: float
    inodes: int
    size: int


class Metadata:
    """Raises NotFoundError, SnapshotExistsError, SnapshotStateError; StorageError for the disk.

    Not to be shared by threads nor carried over a fork: open one for each.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with self._failures():
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            with self._failures(), local_errors(path), alone(os.path.dirname(path)):
                self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        """SQLite does not wait for others while it turns to write-ahead logging, so we do."""
        self._db.execute("PRAGMA foreign_keys=ON")
        version: int = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise FormatError(f"version {version} is newer than this program", self._path)
        self._db.execute("PRAGMA synchronous=FULL")
        if version < _VERSION:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;")

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside happens, or nothing; other writers wait."""
        with self._failures():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk ends it by itself
                    self._db.execute("ROLLBACK")
                raise

    def create(
        self,
        name: str,
        kind: str,
        parent: str | None,
        labels: Mapping[str, str],
        source: str | None = None,
    ) -> Row:
        if not name:
            raise UsageError("a snapshot needs a name")
        above = self._committed(parent) if parent is not None else None
        now = time.time()
        try:
            self._db.execute(
                "INSERT INTO snapshot (name, kind, parent, source, labels, created, updated)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (name, kind, above, source, json.dumps(dict(labels)), now, now),
            )
        except sqlite3.IntegrityError:
            raise SnapshotExistsError(f"snapshot {name}: already exists") from None
        except UnicodeEncodeError:
            raise UsageError(f"snapshot {name}: {source!r} is no UTF-8 text") from None
        return self.get(name)

    def _committed(self, name: str) -> int:
        row = self.get(name)
        if row.kind != COMMITTED:
            raise UsageError(f"snapshot {name}: {row.kind}, but a parent must be committed")
        return row.id

    def get(self, name: str) -> Row:
        with self._failures():
            found = self._db.execute(f"SELECT {_COLUMNS} FROM snapshot WHERE name = ?", (name,))
            row = found.fetchone()
        if row is None:
            raise NotFoundError(f"snapshot {name}: no such snapshot")
        return _row(row)

    def chain(self, row: Row) -> list[Row]:
        """The ancestors, nearest first."""
        ancestors: list[Row] = []
        above = row.parent
        while above is not None:
            found = self._db.execute(f"SELECT {_COLUMNS} FROM snapshot WHERE id = ?", (above,))
            ancestors.append(_row(found.fetchone()))
            above = ancestors[-1].parent
        return ancestors

    def all(self) -> list[Row]:
        """Every snapshot, oldest first: a parent before its children."""
        with self._failures():
            found = self._db.execute(f"SELECT {_COLUMNS} FROM snapshot ORDER BY id")
            return [_row(row) for row in found.fetchall()]

    def commit(
        self, row: Row, name: str, labels: Mapping[str, str], inodes: int, size: int
    ) -> None:
        if row.kind != ACTIVE:
            raise SnapshotStateError(f"snapshot {row.name}: {row.kind}, not active")
        try:
            self._db.execute(
                "UPDATE snapshot SET name=?, kind=?, labels=?, updated=?, inodes=?, size=?"
                " WHERE id=?",
                (name, COMMITTED, json.dumps(dict(labels)), time.time(), inodes, size, row.id),
            )
        except sqlite3.IntegrityError:
            raise SnapshotExistsError(f"snapshot {name}: already exists") from None

    def set_labels(self, row: Row, labels: Mapping[str, str]) -> None:
        self._db.execute(
            "UPDATE snapshot SET labels=?, updated=? WHERE id=?",
            (json.dumps(dict(labels)), time.time(), row.id),
        )

    def delete(self, row: Row) -> None:
        try:
            self._db.execute("DELETE FROM snapshot WHERE id = ?", (row.id,))
        except sqlite3.IntegrityError:
            raise SnapshotStateError(f"snapshot {row.name}: has children") from None


def _row(columns: tuple[object, ...]) -> Row:
    row = Row(*columns)  # type: ignore[arg-type]  # the schema says what they are
    return row._replace(labels=json.loads(columns[5]))  # type: ignore[arg-type]
