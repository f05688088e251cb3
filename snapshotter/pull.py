"""Plain images: pulled in full, each layer a committed snapshot named by its chain of contents.

A name stands for the digests of all layers up to this one, as in containerd
(the OCI chain ID), so images share layers, and what is there is not fetched
again. A layer is committed only when all of it is unpacked, verified against
both of its digests, and on disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from fs import mounts
from fs.format.errors import FormatError, NotFoundError, VerifyError
from fs.registry.descriptor import Descriptor
from fs.registry.platform import Platform
from fs.registry.store import ImageReader
from fs.tar.reader import TarReader
from fs.tar.stream import LayerStream
from snapshotter.errors import SnapshotExistsError
from snapshotter.extractions import discard, extracting, new_key
from snapshotter.overlay import Layers
from snapshotter.store import Store
from snapshotter.unpack import Unpacker


def pull(
    store: Store, reader: ImageReader, platform: Platform | None, say: Callable[[str], None]
) -> tuple[str, Mapping[str, Any]]:
    """The committed snapshot of an image's top layer, and the image's configuration."""
    image = reader.resolve(platform)
    layers, diff_ids = image.manifest.layers, image.config.diff_ids
    if not layers or len(layers) != len(diff_ids):
        what = f"{len(layers)} layers and {len(diff_ids)} diff IDs"
        raise FormatError(what, reader.name)
    chain = chain_ids(diff_ids)
    missing = [index for index, name in enumerate(chain) if not _exists(store, name)]
    size = sum(layers[index].size for index in missing)
    say(
        f"{reader.name} is not a Nydus image: it is pulled in full"
        f" ({len(missing)} of {len(layers)} layers missing, {size} bytes)"
    )
    with extracting(store):
        for index in missing:
            parent = chain[index - 1] if index else None
            _pull_layer(store, reader, layers[index], diff_ids[index], chain[index], parent)
    return chain[-1], image.config.document


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The name of each layer together with all below it."""
    names = diff_ids[:1]
    for diff_id in diff_ids[1:]:
        names.append("sha256:" + hashlib.sha256(f"{names[-1]} {diff_id}".encode()).hexdigest())
    return names


def _exists(store: Store, name: str) -> bool:
    try:
        store.stat(name)
    except NotFoundError:
        return False
    return True


def _pull_layer(
    store: Store,
    reader: ImageReader,
    layer: Descriptor,
    diff_id: str,
    name: str,
    parent: str | None,
) -> None:
    key = new_key(name)
    try:
        store.prepare(key, parent)
        _fill(store.layers(key), reader, layer, diff_id)
        store.commit(name, key)
    except BaseException as error:
        discard(store, key)
        if not isinstance(error, SnapshotExistsError):  # else another process was first
            raise


def _fill(directories: Layers, reader: ImageReader, layer: Descriptor, diff_id: str) -> None:
    """Unpack `layer` into the writable one of `directories`, verified and synced."""
    upper = directories.upper or ""
    scratch = os.path.join(os.path.dirname(upper), "scratch")
    os.mkdir(scratch, 0o700)
    name = f"{reader.name}, layer {layer.digest}"
    with closing(reader.open_blob(layer)) as raw, ThreadPoolExecutor(1, "decompress") as pool:
        try:
            found = _unpack(LayerStream(raw, name, pool), directories, scratch)
        except FormatError:
            while raw.read(1 << 20):  # if these are not the promised bytes, say that instead
                pass
            raise
        while raw.read(1 << 20):  # what follows the compressed data belongs to the digest
            pass
    if found != diff_id:
        raise VerifyError(f"{name}: decompressed it is {found}, not {diff_id}")
    os.rmdir(scratch)
    descriptor = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mounts.sync_filesystem(descriptor)
    finally:
        os.close(descriptor)


def _unpack(stream: LayerStream, directories: Layers, scratch: str) -> str:
    """Unpack a layer; the digest of what it was decompressed."""
    try:
        with closing(Unpacker(directories, scratch, stream.name)) as unpacker:
            entries = TarReader(stream)
            for entry in entries:
                unpacker.add(entry, entries.read)
            found = stream.drain()
            unpacker.finish()
            return found
    finally:
        stream.stop()
