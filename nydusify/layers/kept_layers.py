"""The layers that need not be converted again: from this machine's cache, or a registry's.

A kept layer is used if its blob is at the target already, or can be brought there
without the source. Whatever is wrong with a cache costs a conversion and a note, never a
failure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from fs.format.errors import Failure, FormatError, UsageError, local_errors
from fs.registry.descriptor import Descriptor
from fs.registry.reference import Reference
from nydusify.blobs.chunk_dictionary import ChunkDictionary
from nydusify.blobs.destination import Destination, blob_layer, stored_id
from nydusify.blobs.layer_blob import Blob
from nydusify.layers.build_cache import RECORD, BuildCache, CachedLayer
from nydusify.layers.converted_layer import (
    ConvertedLayer,
    read_converted_layer,
    write_converted_layer,
)
from nydusify.layers.layer_cache import LayerCache, key_of
from nydusify.layers.layer_conversion import Shaping
from nydusify.layers.sources import SourceLayer
from nydusify.options import CacheOptions


@dataclass
class Caches:
    """What a run was given. Either may be missing; `say` takes notes for the user."""

    local: LayerCache | None
    remote: BuildCache | None
    say: Callable[[str], None]

    def publish(self, target: Reference | None) -> None:
        """Bring the registry's cache up to date, with blobs from `target` where that can be."""
        if self.remote:
            try:
                self.remote.publish(target)
            except Failure as failure:
                self.say(f"note: build cache is not updated: {failure}")


@contextmanager
def opened_caches(options: CacheOptions, say: Callable[[str], None]) -> Iterator[Caches]:
    """The caches that can be used; a note says why another one cannot."""
    local = remote = None
    with ExitStack() as stack:
        if options.directory is not None:
            try:
                local = LayerCache(options.directory, options.limit)
                stack.callback(local.close)
            except Failure as failure:
                say(f"note: no cache of layers: {failure}")
        if options.registry:
            try:
                remote = BuildCache(
                    options.registry, options.registry_store, options.version, options.max_records
                )
                stack.callback(remote.close)
            except UsageError:
                raise
            except Failure as failure:
                say(f"note: no build cache: {failure}")
        yield Caches(local, remote, say)


@dataclass
class KeptLayers:
    """A LayerStore for images that go to `destination`. `work` takes files of this run.

    `begin` is called before the first layer that has to be converted. `dictionary` is the
    conversion's.
    """

    caches: Caches
    destination: Destination
    work: Path
    begin: Callable[[], None]
    dictionary: ChunkDictionary | None = None

    def find(self, source: SourceLayer, options: Shaping) -> ConvertedLayer | None:
        """The layer as it was converted before."""
        if source.digest:
            key = key_of(source.digest, options.key)
            for look in (self._find_local, self._find_brought, self._find_remote):
                try:
                    layer = look(key, source)
                except Failure as failure:
                    self.caches.say(f"note: cache of layers: {failure}")
                    continue
                if layer is not None:
                    return layer
        self.begin()
        return None

    def keep(self, source: SourceLayer, options: Shaping, converted: ConvertedLayer) -> None:
        """Keep what was converted for the next time."""
        if not source.digest:
            return
        key = key_of(source.digest, options.key)
        write = partial(write_converted_layer, converted, dictionary=self.dictionary)
        try:
            if self.caches.local:
                self._keep_local(key, source, write, converted.blob)
            if self.caches.remote:
                self._offer(key, source.digest, write, converted.blob)
        except Failure as failure:
            self.caches.say(f"note: cache of layers: {failure}")

    def _find_local(
        self, key: str, source: SourceLayer, offered: str = ""
    ) -> ConvertedLayer | None:
        """`offered` is the key for the registry's cache, if it is another."""
        cache = self.caches.local
        file = cache.find(key) if cache else None
        if cache is None or file is None:
            return None
        with file:
            start = file.tell()
            converted = read_converted_layer(file, Path(), source.name, self.dictionary)
            blob = converted.blob
            if blob is not None:
                stored, blob_id = blob_layer(blob), stored_id(blob)
                converted = replace(converted, blob=blob._replace(path=cache.blob_path(blob_id)))
                if not self._arrived(blob) and not cache.has_blob(blob_id, stored.size):
                    return None
            if self.caches.remote:
                file.seek(start)
                copy = partial(_copy, file)
                self._offer(offered or key, source.digest, copy, converted.blob)
        return converted

    def _find_brought(self, key: str, source: SourceLayer) -> ConvertedLayer | None:
        """A layer that the registry's cache has brought before: for those who name it only."""
        remote = self.caches.remote
        return self._find_local(_key_by(remote, key), source, key) if remote else None

    def _find_remote(self, key: str, source: SourceLayer) -> ConvertedLayer | None:
        cache = self.caches.remote
        record = self.work / f"record-{key}"
        kept = cache.find(key, record) if cache else None
        if cache is None or kept is None:
            return None
        path = self.work / f"kept-{key}"
        with local_errors(record), record.open("rb") as file:
            converted = read_converted_layer(file, path, source.name, self.dictionary)
        blob = converted.blob
        if _identity(blob_layer(blob) if blob else None) != _identity(kept.blob):
            raise FormatError(f"record {kept.record.digest} is of another blob", cache.name)
        if blob is not None and not self._arrived(blob) and not self._mount(blob, cache):
            cache.fetch(blob_layer(blob), path)
        if self.caches.local:
            with local_errors(record), record.open("rb") as file:
                self._keep_local(_key_by(cache, key), source, partial(_copy, file), blob)
        return converted

    def _keep_local(
        self, key: str, source: SourceLayer, write: Callable[[BinaryIO], None], blob: Blob | None
    ) -> None:
        assert self.caches.local
        blob_id, path = (stored_id(blob), blob.path) if blob else ("", Path())
        self.caches.local.keep(key, source.digest, write, blob_id, path)

    def _arrived(self, blob: Blob) -> bool:
        """Whether the blob is at the target."""
        layer, storage = blob_layer(blob), self.destination.storage
        if storage is None:
            return self.destination.writer.has_blob(layer)
        if self.destination.form.force_push:
            return False
        return storage.has(blob.record.blob_id, layer.size)

    def _mount(self, blob: Blob, cache: BuildCache) -> bool:
        if self.destination.storage is not None or cache.reference is None:
            return False
        return self.destination.writer.mount_blob(blob_layer(blob), cache.reference)

    def _offer(
        self, key: str, digest: str, write: Callable[[BinaryIO], None], blob: Blob | None
    ) -> None:
        """Have the registry's cache take a layer when the image is published."""
        assert self.caches.remote
        path = self.work / f"record-{key}"
        with local_errors(path), path.open("w+b") as file:
            write(file)
            size = file.tell()
            file.seek(0)
            record = Descriptor(
                RECORD, f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}", size
            )
        layer = blob_layer(blob) if blob else None
        self.caches.remote.add(
            CachedLayer(key, digest, record, layer), path, blob.path if blob else None
        )


def _key_by(cache: BuildCache, key: str) -> str:
    """What a registry's cache says a layer became is no word of ours: it has another key here."""
    return key_of(key, cache.name)


def _identity(blob: Descriptor | None) -> tuple[str, int] | None:
    return (blob.digest, blob.size) if blob else None


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    while piece := source.read(1 << 20):
        target.write(piece)
