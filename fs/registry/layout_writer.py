"""Writing an OCI image layout: `oci:DIR[:TAG]`.

A blob appears under its digest only when it is whole, verified and on the disk;
index.json is replaced last, under a lock on the directory, so that concurrent
writers keep each other's tags and a crash leaves at most a temporary file.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fs.format.errors import (
    AccessError,
    FormatError,
    NotFoundError,
    StorageError,
    UsageError,
    local_errors,
)
from fs.registry.body import BlobBody
from fs.registry.descriptor import Descriptor, text_map
from fs.registry.digest import digest_of, is_digest
from fs.registry.files import blob_path
from fs.registry.layout import INDEX_FILE, LAYOUT_FILE, REF_NAME
from fs.registry.manifest import parse_json_object, parse_manifest
from fs.registry.mediatypes import OCI_INDEX
from fs.registry.places import Body, Progress
from fs.registry.reference import Reference

LAYOUT_VERSION = {"imageLayoutVersion": "1.0.0"}


class LayoutWriter:
    """An ImageWriter into a directory, made if it is not there. `tag` None: the unnamed image."""

    def __init__(self, directory: Path, tag: str | None, name: str) -> None:
        if tag is not None and is_digest(tag):
            raise UsageError(f"{name}: a target is named by a tag, not by a digest")
        self._root = directory
        self._tag = tag
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def check(self) -> None:
        self._is_new()
        place = self._root
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise NotFoundError(f"{self._name}: {place} is no directory")
        if os.statvfs(place).f_flag & os.ST_RDONLY:
            raise StorageError(f"{self._name}: {place} is on a read-only file system")
        if not os.access(place, os.W_OK | os.X_OK):
            raise AccessError(f"{self._name}: {place} cannot be written to")

    def has_blob(self, descriptor: Descriptor) -> bool:
        path = self._root / blob_path(descriptor.digest)
        with local_errors(self._name):
            return path.is_file() and path.stat().st_size == descriptor.size

    def push_blob(
        self, descriptor: Descriptor, body: Body, progress: Progress | None = None
    ) -> None:
        if self.has_blob(descriptor):
            return
        if self._is_new():
            self._begin()
        path = self._root / blob_path(descriptor.digest)
        with local_errors(self._name):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._write(path, BlobBody(body, descriptor, self._name).pieces(progress))

    def mount_blob(self, descriptor: Descriptor, source: Reference) -> bool:
        return self.has_blob(descriptor)

    def push_manifest(self, raw: bytes, media_type: str, *, tag: bool) -> Descriptor:
        document = parse_manifest(raw, media_type, self._name)
        descriptor = Descriptor(document.media_type, digest_of(raw), len(raw))
        self.push_blob(descriptor, raw)
        if tag:
            self._publish(descriptor)
        return descriptor

    def close(self) -> None:
        """Nothing is kept open."""

    def _is_new(self) -> bool:
        """Whether there is nothing yet; UsageError if there is something else than a layout."""
        with local_errors(self._name):
            if (self._root / LAYOUT_FILE).exists():
                return False
            there = self._root.iterdir() if self._root.exists() else ()
            if not any(not entry.name.startswith(".tmp-") for entry in there):
                return True
            if (self._root / LAYOUT_FILE).exists():  # another writer has just begun it
                return False
        raise UsageError(f"{self._name}: the directory is not empty and no OCI layout")

    def _begin(self) -> None:
        with local_errors(self._name):
            self._root.mkdir(parents=True, exist_ok=True)
        self._write(self._root / LAYOUT_FILE, [json.dumps(LAYOUT_VERSION).encode()])

    def _publish(self, descriptor: Descriptor) -> None:
        with self._locked():
            path = self._root / INDEX_FILE
            with local_errors(self._name):
                raw = path.read_bytes() if path.exists() else b"{}"
            index = with_entry(
                parse_json_object(raw, INDEX_FILE, self._name), descriptor, self._tag
            )
            self._write(path, [json.dumps(index, indent=2).encode()])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with local_errors(self._name):
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)

    def _write(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Put a file in its place, whole and synced, or not at all."""
        temporary = self._root / f".tmp-{secrets.token_hex(8)}"
        with local_errors(self._name):
            try:
                with temporary.open("xb") as file:
                    for piece in pieces:
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.rename(path)
                _sync_directory(path.parent)
            finally:
                temporary.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _tag_of(entry: dict[str, Any]) -> str | None:
    return text_map(entry.get("annotations"), "annotations", INDEX_FILE).get(REF_NAME)


def with_entry(index: dict[str, Any], descriptor: Descriptor, tag: str | None) -> dict[str, Any]:
    """index.json with `descriptor` under `tag`; entries with another name are kept as they are."""
    entries = index.get("manifests") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise FormatError("manifests is no list of objects", INDEX_FILE)
    kept = [entry for entry in entries if _tag_of(entry) != tag]
    added = descriptor.to_json()
    if tag is not None:
        added["annotations"] = {**added.get("annotations", {}), REF_NAME: tag}
    return {"schemaVersion": 2, "mediaType": OCI_INDEX} | index | {"manifests": [*kept, added]}
