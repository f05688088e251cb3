"""Reading an OCI image layout: `oci:DIR[:TAG]`, or the same inside an archive.

Everything is verified on the way out except ranges, just as from a registry: a
layout may come from anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fs.format.errors import FormatError, NotFoundError, UsageError, VerifyError, local_errors
from fs.registry.descriptor import Descriptor
from fs.registry.digest import check_bytes, verified
from fs.registry.files import DirectoryFiles, LayoutFiles, blob_path, read_small
from fs.registry.manifest import MAX_MANIFEST, Index, Manifest, parse_json_object, parse_manifest
from fs.registry.mediatypes import OCI_INDEX
from fs.registry.places import Image, OnManifest
from fs.registry.platform import Platform
from fs.registry.reference import canonical
from fs.registry.resolution import resolve_image

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
_PLACE = re.compile(r"([^:]+?)(?:@(sha256:[0-9a-f]{64})|:(.+))?", re.DOTALL)


def split_layout_place(rest: str, text: str) -> tuple[Path, str | None]:
    """Directory and tag (or digest) of `DIR[:TAG]` or `DIR@DIGEST`; a DIR has no colon."""
    match = _PLACE.fullmatch(rest)
    if not match:
        raise UsageError(f"{text!r} is not oci:DIR[:TAG]")
    return Path(match[1]), match[2] or match[3]


def open_layout(rest: str, text: str) -> LayoutReader:
    directory, tag = split_layout_place(rest, text)
    with local_errors(text):
        is_directory = directory.is_dir()
    if not is_directory:
        raise NotFoundError(f"{text}: there is no such directory")
    return LayoutReader(DirectoryFiles(directory, text), tag)


class LayoutReader:
    """An ImageReader over the files of a layout; closes them with itself."""

    def __init__(self, files: LayoutFiles, tag: str | None) -> None:
        self._files = files
        self._tag = tag

    @property
    def name(self) -> str:
        return self._files.name

    @property
    def reference(self) -> None:
        return None

    def referrers(self, digest: str) -> list[Descriptor]:
        return []

    def resolve(
        self,
        platform: Platform | None = None,
        *,
        nydus: bool = False,
        found: OnManifest | None = None,
    ) -> Image:
        descriptor, top = self._top()
        return resolve_image(self, top, descriptor, platform, nydus=nydus, found=found)

    def index(self) -> Index | None:
        descriptor, top = self._top()
        return top if descriptor and isinstance(top, Index) else None

    def open_blob(self, descriptor: Descriptor) -> BinaryIO:
        path = blob_path(descriptor.digest)
        self._check_size(path, descriptor.size)
        return verified(self._files.open(path), descriptor.digest, descriptor.size, self.name)

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        if descriptor.size > limit:
            raise FormatError(
                f"{descriptor.digest} has {descriptor.size} bytes, at most {limit}", self.name
            )
        path = blob_path(descriptor.digest)
        self._check_size(path, descriptor.size)
        data = read_small(self._files, path, limit)
        check_bytes(data, descriptor.digest, descriptor.size, self.name)
        return data

    def read_manifest(self, descriptor: Descriptor) -> bytes:
        return self.read_blob(descriptor, MAX_MANIFEST)

    def blob_size(self, digest: str) -> int:
        return self._files.size(blob_path(digest))

    def read_range(self, blob: Descriptor | str, offset: int, length: int) -> bytes:
        digest = blob if isinstance(blob, str) else blob.digest
        data = self._files.read_at(blob_path(digest), offset, length)
        if len(data) != length:
            raise VerifyError(f"{self.name}: {digest} ends before byte {offset + length}")
        return data

    def range_pieces(self, blob: Descriptor | str, offset: int, length: int) -> Iterator[bytes]:
        yield self.read_range(blob, offset, length)

    def reject(self, digest: str, offset: int, length: int) -> bool:
        return False

    def close(self) -> None:
        self._files.close()

    def _check_size(self, path: str, size: int) -> None:
        found = self._files.size(path)
        if found != size:
            raise VerifyError(f"{self.name}: {path} has {found} bytes, {size} were promised")

    def _top(self) -> tuple[Descriptor | None, Manifest | Index]:
        """What the name points at; no descriptor for a choice of entries of index.json."""
        entries = self._select()
        if len(entries) > 1:
            return None, Index(OCI_INDEX, entries, {}, b"", "")
        raw = self.read_manifest(entries[0])
        where = f"{self.name}: {entries[0].digest}"
        return entries[0], parse_manifest(raw, entries[0].media_type, where)

    def _select(self) -> list[Descriptor]:
        """The entries of index.json that the name means; several differ in platform."""
        entries = self._entries()
        if self._tag is not None:
            found = [entry for entry in entries if entry_has_name(entry, self._tag)]
        elif len(entries) == 1:
            found = entries
        else:
            found = [entry for entry in entries if not entry_names(entry)]
        if found:
            return found
        names = sorted(name for entry in entries for name in entry_names(entry))
        known = f"there are: {', '.join(names[:20])}" if names else "there is none with a name"
        if self._tag is None:
            raise UsageError(f"{self.name}: say which image; {known}")
        raise NotFoundError(f"{self.name}: no such image; {known}")

    def _entries(self) -> list[Descriptor]:
        raw = read_small(self._files, LAYOUT_FILE, 4096)
        version = parse_json_object(raw, LAYOUT_FILE, self.name).get("imageLayoutVersion")
        if not isinstance(version, str) or not version.startswith("1."):
            raise FormatError(f"layout version {version!r} is not 1.x", self.name)
        raw = read_small(self._files, INDEX_FILE, MAX_MANIFEST)
        index = parse_manifest(raw, OCI_INDEX, f"{self.name}: {INDEX_FILE}")
        if not isinstance(index, Index) or not index.manifests:
            raise NotFoundError(f"{self.name}: the layout holds no image")
        return index.manifests


def entry_names(entry: Descriptor) -> list[str]:
    """The names that an entry of index.json has: its tag and, from containerd, its reference."""
    return [
        entry.annotations[key] for key in (REF_NAME, CONTAINERD_NAME) if key in entry.annotations
    ]


def entry_has_name(entry: Descriptor, wanted: str) -> bool:
    """Whether `wanted` is the entry's tag, digest or, however shortened, its reference."""
    names = entry_names(entry)
    return wanted in (entry.digest, *names) or canonical(wanted) in names
