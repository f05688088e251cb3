"""Reading image archives: `oci-archive:FILE[:TAG]` and `docker-archive:FILE[:NAME:TAG]`.

An archive that holds an OCI layout, as today's `docker save` writes, is read as
one. In the older shape there is no manifest: it is made here from manifest.json
and the configuration, whose diff IDs are the digests of the plain tar layers.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from fs.format.errors import FormatError, NotFoundError, UsageError, VerifyError, local_errors
from fs.registry.body import PIECE
from fs.registry.config import MAX_CONFIG, parse_config
from fs.registry.descriptor import Descriptor
from fs.registry.digest import digest_of
from fs.registry.documents import image_document
from fs.registry.files import LayoutFiles, read_small
from fs.registry.layout import INDEX_FILE, LAYOUT_FILE, LayoutReader
from fs.registry.local import FilesReader
from fs.registry.manifest import MAX_MANIFEST, Manifest, parse_manifest
from fs.registry.mediatypes import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    DOCKER_MANIFEST,
)
from fs.registry.places import ImageReader
from fs.registry.reference import canonical, parse_reference
from fs.registry.tarfiles import TarFiles

MANIFEST_FILE = "manifest.json"
_MAX_IMAGES = 4096
_CONFIG_NAME = re.compile(r"(?:.*/)?([0-9a-f]{64})(?:\.json)?")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def split_archive_place(rest: str, text: str) -> tuple[Path, str | None]:
    """File and image of `FILE[:IMAGE]`; a FILE has no colon."""
    file, colon, image = rest.partition(":")
    if not file or (colon and not image):
        raise UsageError(f"{text!r} is not docker-archive:FILE[:NAME:TAG], oci-archive:FILE[:TAG]")
    return Path(file), image or None


def open_archive(kind: str, rest: str, text: str) -> ImageReader:
    """The reader for the shape that the archive has."""
    path, image = split_archive_place(rest, text)
    files = TarFiles(path, text)
    try:
        if LAYOUT_FILE in files and INDEX_FILE in files:
            return LayoutReader(files, image)
        if kind == "docker-archive" and MANIFEST_FILE in files:
            return LegacyArchive(files, image)
        raise FormatError("no image archive: no index.json and no manifest.json", text)
    except BaseException:
        files.close()
        raise


class LegacyArchive(FilesReader):
    """An ImageReader over what `docker save` wrote before it wrote layouts."""

    def __init__(self, files: LayoutFiles, image: str | None) -> None:
        super().__init__(files)
        raw = read_small(files, MANIFEST_FILE, MAX_MANIFEST)
        entry = _choose(_entries(raw, files.name), image, files.name)
        self._config, layer_paths = _paths(entry, files.name)
        self._raw_config = read_small(files, self._config, MAX_CONFIG)
        self._paths: dict[str, str] = {}
        self._manifest = self._make_manifest(layer_paths)

    def _top(self) -> tuple[None, Manifest]:
        return None, self._manifest

    def _path(self, digest: str) -> str:
        try:
            return self._paths[digest]
        except KeyError:
            raise NotFoundError(f"{self.name}: {digest} is not in the image") from None

    def _make_manifest(self, layer_paths: list[str]) -> Manifest:
        """The Docker manifest that a push of this image would make."""
        config = self._describe_config()
        diff_ids = parse_config(self._raw_config, f"{self.name}: {self._config}").diff_ids
        if len(diff_ids) != len(layer_paths):
            raise FormatError(f"{len(layer_paths)} layers, {len(diff_ids)} diff IDs", self.name)
        pairs = zip(layer_paths, diff_ids, strict=True)
        layers = [self._describe_layer(path, diff_id) for path, diff_id in pairs]
        document = image_document(config, layers, {}, DOCKER_MANIFEST)
        manifest = parse_manifest(json.dumps(document).encode(), DOCKER_MANIFEST, self.name)
        assert isinstance(manifest, Manifest)
        return manifest

    def _describe_config(self) -> Descriptor:
        digest = digest_of(self._raw_config)
        named = _CONFIG_NAME.fullmatch(self._config)
        if named and digest != f"sha256:{named[1]}":
            raise VerifyError(f"{self.name}: {self._config} has digest {digest}")
        self._paths[digest] = self._config
        return Descriptor(DOCKER_CONFIG, digest, len(self._raw_config))

    def _describe_layer(self, path: str, diff_id: str) -> Descriptor:
        """A plain layer has its diff ID as digest; a compressed one must be hashed."""
        size = self._files.size(path)
        head = self._files.read_at(path, 0, 4)
        media_type, digest = DOCKER_LAYER, diff_id
        if head.startswith(_GZIP):
            media_type, digest = DOCKER_LAYER_GZIP, self._hash(path)
        elif head.startswith(_ZSTD):
            media_type, digest = DOCKER_LAYER_ZSTD, self._hash(path)
        self._paths[digest] = path
        return Descriptor(media_type, digest, size)

    def _hash(self, path: str) -> str:
        found = hashlib.sha256()
        with self._files.open(path) as file, local_errors(f"{self.name}: {path}"):
            while piece := file.read(PIECE):
                found.update(piece)
        return f"sha256:{found.hexdigest()}"


def _entries(raw: bytes, where: str) -> list[dict[str, Any]]:
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError):
        raise FormatError("manifest.json is not JSON", where) from None
    valid = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    if not valid or not 0 < len(entries) <= _MAX_IMAGES:
        raise FormatError("manifest.json is no list of images", where)
    return list(entries)


def _paths(entry: dict[str, Any], where: str) -> tuple[str, list[str]]:
    config, layers = entry.get("Config"), entry.get("Layers")
    if not isinstance(config, str) or not isinstance(layers, list):
        raise FormatError("manifest.json: image without Config or Layers", where)
    if not all(isinstance(layer, str) for layer in layers):
        raise FormatError("manifest.json: Layers is no list of texts", where)
    return config, layers


def _choose(entries: list[dict[str, Any]], image: str | None, where: str) -> dict[str, Any]:
    if image is None and len(entries) == 1:
        return entries[0]
    names = [(str(tag), entry) for entry in entries for tag in entry.get("RepoTags") or []]
    known = ", ".join(sorted(name for name, _ in names)[:20]) or "none with a name"
    if image is None:
        raise UsageError(f"{where}: say which image; there are: {known}")
    wanted = str(parse_reference(image))
    for name, entry in names:
        if wanted in (name, canonical(name)):
            return entry
    raise NotFoundError(f"{where}: no such image; there are: {known}")
