"""Reading an OCI image layout: `oci:DIR[:TAG]`, or the same inside an archive."""

from __future__ import annotations

import re
from pathlib import Path

from fs.format.errors import FormatError, NotFoundError, UsageError, local_errors
from fs.registry.descriptor import Descriptor
from fs.registry.files import DirectoryFiles, LayoutFiles, blob_path, read_small
from fs.registry.local import FilesReader
from fs.registry.manifest import MAX_MANIFEST, Index, Manifest, parse_json_object, parse_manifest
from fs.registry.mediatypes import OCI_INDEX
from fs.registry.reference import canonical

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


class LayoutReader(FilesReader):
    """An ImageReader over the files of a layout."""

    def __init__(self, files: LayoutFiles, tag: str | None) -> None:
        super().__init__(files)
        self._tag = tag

    def _path(self, digest: str) -> str:
        return blob_path(digest)

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
