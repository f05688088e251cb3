"""What a converted image shows, read back through the format's reader from blob files alone."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path

from fs.format import blobmeta, codec
from fs.format.blobtable import BlobFeature
from fs.format.bootstrap import Bootstrap
from fs.format.chunkinfo import ChunkFlag
from fs.format.contexts import BatchContext, batch_contexts
from fs.format.errors import VerifyError
from fs.format.versions import open_bootstrap
from fs.format.walk import paths
from fs.registry.platform import Platform
from fs.registry.store import open_reader
from nydusify.layers.sources import open_source
from nydusify.operations.image_conversion import convert_layers, write_bootstrap_file
from nydusify.options import ConvertOptions
from nydusify.report import Silence
from tests.parts.layers import with_least_names
from tests.parts.trees import Entry


def convert_tars(tars: Sequence[bytes], work: Path, options: ConvertOptions) -> dict[bytes, Entry]:
    """Convert layers (tars, lowest first) without a registry; the tree of the image."""
    layers = []
    for number, tar in enumerate(tars):
        path = work / f"layer{number}.tar"
        path.write_bytes(tar)
        with open_source(f"layer:{path}", None, options.source_store) as source:
            layers += source.layers
    converted = convert_layers(layers, options, work, Silence())
    bootstrap = work / "image.boot"
    write_bootstrap_file(converted, options, bootstrap)
    blobs = {blob.record.blob_id: blob.path for blob in converted.blobs}
    return tree_of(open_bootstrap(bootstrap.read_bytes(), "test"), blobs)


def nid_at(bootstrap: Bootstrap, path: str) -> int:
    """Of an absolute path that is there; no link is followed."""
    wanted = os.fsencode(path).lstrip(b"/")
    return next(inode.nid for name, inode in paths(bootstrap) if name == wanted)


def pulled_tree(place: str, work: Path, platform: Platform | None = None) -> dict[bytes, Entry]:
    """The tree of a published image."""
    bootstrap, blobs = pull(place, work, platform)
    return tree_of(open_bootstrap(bootstrap.read_bytes(), place), blobs)


def pull(place: str, work: Path, platform: Platform | None = None) -> tuple[Path, dict[str, Path]]:
    """The bootstrap and the blobs (by id) of a published image, as files in `work`."""
    reader = open_reader(place)
    image = reader.resolve(platform, nydus=True)
    *blob_layers, last = image.manifest.layers
    blobs = {}
    for layer in blob_layers:
        blob_id = layer.digest.removeprefix("sha256:")
        blobs[blob_id] = work / blob_id
        blobs[blob_id].write_bytes(reader.read_blob(layer, layer.size))
    with tarfile.open(fileobj=io.BytesIO(reader.read_blob(last, last.size))) as archive:
        content = archive.extractfile("image/image.boot")
        assert content is not None
        bootstrap = work / "image.boot"
        bootstrap.write_bytes(content.read())
    reader.close()
    return bootstrap, blobs


def decode_blob(image: Bootstrap, index: int, blob: Path, decoded: Path) -> None:
    """Write the decoded blob, every chunk verified: what a kernel mount takes as a device."""
    record = image.blobs[index]
    table = image.chunk_table(index)
    batches: Sequence[BatchContext] = []
    rows = {}
    with blob.open("rb") as source, decoded.open("wb") as out:
        if record.features & BlobFeature.BATCH:
            start, size = blobmeta.chunk_info_range(record)
            source.seek(start)
            header, array = blobmeta.read_chunk_info(source.read(size), record)
            batches = batch_contexts(array, header, "blob")
            rows = {row.position: row for row in blobmeta.chunk_rows(array, header, "blob")}
        out.truncate(record.uncompressed_size)
        for number in range(len(table)):
            row = table.row(number)
            if row.flags & ChunkFlag.BATCH:
                told = rows[row.position]
                batch = batches[told.context]
                source.seek(told.compressed_offset)
                data = source.read(batch.compressed_size)
                if batch.compressed_size != batch.uncompressed_size:
                    data = codec.decompress(record.compressor, data, batch.uncompressed_size)
                data = data[told.within : told.within + told.uncompressed_size]
            else:
                source.seek(row.compressed_offset)
                data = source.read(row.compressed_size)
                if row.flags & ChunkFlag.COMPRESSED:
                    data = codec.decompress(record.compressor, data, row.uncompressed_size)
            if codec.digest(record.digester, data) != row.digest:
                raise VerifyError(f"{blob}: chunk {number}")
            out.seek(row.uncompressed_offset)
            out.write(data)


def tree_of(image: Bootstrap, blobs: dict[str, Path]) -> dict[bytes, Entry]:
    """As tests.parts.trees.scan would give it for a mount."""
    decoded = []
    for index, record in enumerate(image.blobs):
        device = blobs[record.blob_id].with_suffix(".decoded")
        decode_blob(image, index, blobs[record.blob_id], device)
        decoded.append(device.read_bytes())
    tree: dict[bytes, Entry] = {}
    first: dict[int, bytes] = {}
    todo = [(b".", image.root)]
    while todo:
        path, nid = todo.pop()
        tree[path] = _entry(image, nid, first.setdefault(nid, path), decoded)
        if stat.S_ISDIR(tree[path].mode):
            prefix = b"" if path == b"." else path + b"/"
            todo += [(prefix + child.name, child.nid) for child in image.entries(nid)]
    return with_least_names(tree)


def _entry(image: Bootstrap, nid: int, identity: bytes, decoded: Sequence[bytes]) -> Entry:
    inode = image.inode(nid)
    is_directory = stat.S_ISDIR(inode.mode)
    content = ""
    if stat.S_ISREG(inode.mode):
        pieces = [
            decoded[extent.blob_index][extent.blob_offset : extent.blob_offset + extent.length]
            for extent in image.extents(nid, 0, inode.size)
        ]
        data = b"".join(pieces)
        assert len(data) == inode.size
        content = hashlib.sha256(data).hexdigest()
    xattrs = image.xattrs(nid).items()
    return Entry(
        inode.mode,
        inode.uid,
        inode.gid,
        0 if is_directory else inode.size,
        inode.mtime * 10**9 + inode.mtime_nsec,
        0 if is_directory else inode.nlink,
        inode.rdev,
        identity,
        content,
        image.readlink(nid) if stat.S_ISLNK(inode.mode) else b"",
        tuple(sorted((os.fsdecode(name), value) for name, value in xattrs)),
    )
