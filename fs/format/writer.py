"""Writes RAFS v6 bootstraps.

The same tree, blobs and options give the same bytes: nothing depends on the
order of a dict, on time or on the machine. Output goes out in one pass from
start to end; nothing in it is visible before the caller makes it so.
See docs/format.md for every rule that is kept here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from fs.format import erofs, rafs6
from fs.format.allocator import START
from fs.format.blobtable import (
    BLOB_SIZE,
    DEFAULT_CHUNK_SIZE,
    MAX_BLOBS,
    MAX_CHUNK_SIZE,
    MIN_CHUNK_SIZE,
    BlobFeature,
    BlobRecord,
    Compressor,
    Digester,
)
from fs.format.errors import FormatError
from fs.format.filecontents import FileContents
from fs.format.inodes import Inodes
from fs.format.tree import Node

_BLOCK_BITS = {512: 9, 4096: 12}
_MAX_BLOCK = 0xFFFFFFFE


@dataclass(slots=True)
class BootstrapOptions:
    """How a bootstrap is written.

    `prefetch` are the nodes to be read first, in order. `compressor` and
    `digester` are the superblock's word; each blob has its own. `blob_alignment`
    is that of the blobs' places in an image made of one file; 0 gives them none.
    `root_ino` is the root's number, which older builders of Nydus left 0. `sealed`: with a digest
    of itself, so that any change of it is seen by who looks.
    """

    chunk_size: int = DEFAULT_CHUNK_SIZE
    compressor: Compressor = Compressor.ZSTD
    digester: Digester = Digester.BLAKE3
    block_size: int = 4096
    prefetch: Sequence[Node] = ()
    extra_flags: int = 0
    root_ino: int = 1
    blob_alignment: int = 0x80000
    sealed: bool = True


def write_bootstrap(
    root: Node, blobs: Sequence[BlobRecord], options: BootstrapOptions, out: BinaryIO
) -> None:
    """Write the bootstrap of `root` to `out`, which is only ever appended to.

    `blobs` are in the order of their index, `Chunk.blob_index` refers to them. FormatError, naming
    the path, when the tree or the blobs cannot be expressed.
    """
    _check_options(options)
    _check_blobs(blobs, options)
    wanted = options.prefetch if blobs else ()
    regions = _Regions.of(len(blobs), len(wanted))
    contents = FileContents(blobs, options.chunk_size, _BLOCK_BITS[options.block_size])
    inodes = Inodes(contents, options.block_size, regions.meta, wanted)
    inodes.write(root, options.root_ino)
    prefetch = [inodes.find(node) for node in wanted]
    chunks = contents.table()

    chunk_table_offset = _align(regions.meta + inodes.end)
    total = _align(chunk_table_offset + chunks.size)
    superblock = _superblock(inodes, regions, blobs, options).pack()
    extended = rafs6.ExtendedSuperblock(
        _flags(inodes, blobs, options),
        regions.blob_table,
        BLOB_SIZE * len(blobs),
        options.chunk_size,
        chunk_table_offset if chunks.size else 0,
        chunks.size,
        regions.prefetch_table if prefetch else 0,
        4 * len(prefetch),
    )
    header = bytearray(_device_slots(blobs, options, total))
    header += bytes(regions.blob_table - erofs.DEVICE_SLOTS_OFFSET - len(header))
    header += b"".join([blob.pack() for blob in blobs])
    header += struct.pack(f"<{len(prefetch)}I", *prefetch)
    header += bytes(regions.meta + START - erofs.DEVICE_SLOTS_OFFSET - len(header))
    gap = bytes(chunk_table_offset - regions.meta - inodes.end)
    start = bytes(erofs.SUPERBLOCK_OFFSET) + superblock
    if options.sealed:
        extended = _sealed(start, extended, header, inodes.data, gap)
    for part in (start, extended.pack(), header, inodes.data, gap):
        out.write(part)
    chunks.write(out)
    out.write(bytes(total - chunk_table_offset - chunks.size))


def _sealed(
    start: bytes, extended: rafs6.ExtendedSuperblock, *parts: bytes | bytearray | memoryview
) -> rafs6.ExtendedSuperblock:
    seal = hashlib.sha256(start + extended.pack())
    for part in parts:
        seal.update(part)
    return extended._replace(seal=seal.digest())


@dataclass(slots=True)
class _Regions:
    """Byte offsets of the parts in front of the inodes."""

    blob_table: int
    prefetch_table: int
    meta: int

    @classmethod
    def of(cls, blob_count: int, prefetch_count: int) -> _Regions:
        blob_table = _align(erofs.DEVICE_SLOTS_OFFSET + erofs.DEVICE_SLOT_SIZE * blob_count)
        prefetch_table = blob_table + BLOB_SIZE * blob_count
        # Without blobs, the metadata area starts with the superblock itself.
        meta = _align(prefetch_table + 4 * prefetch_count) if blob_count else 0
        return cls(blob_table, prefetch_table, meta)


def _check_options(options: BootstrapOptions) -> None:
    size = options.chunk_size
    if size & (size - 1) or not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE:
        raise FormatError(f"chunk size {size} is not a power of two from 4 KiB to 16 MiB")
    if options.block_size not in _BLOCK_BITS:
        raise FormatError(f"block size {options.block_size} is neither 512 nor 4096")


def _check_blobs(blobs: Sequence[BlobRecord], options: BootstrapOptions) -> None:
    if len(blobs) > MAX_BLOBS:
        raise FormatError(f"{len(blobs)} blobs, at most {MAX_BLOBS} are possible")
    for index, blob in enumerate(blobs):
        if blob.index != index or blob.chunk_size != options.chunk_size:
            raise FormatError(
                f"blob {index} has index {blob.index} and chunk size {blob.chunk_size}"
            )
        blob.check("blob table")


def _superblock(
    inodes: Inodes,
    regions: _Regions,
    blobs: Sequence[BlobRecord],
    options: BootstrapOptions,
) -> erofs.Superblock:
    bits = _BLOCK_BITS[options.block_size]
    return erofs.Superblock(
        magic=erofs.MAGIC,
        checksum=0,
        feature_compat=erofs.COMPAT_RAFS_V6,
        blkszbits=bits,
        extslots=0,
        root_nid=inodes.root_nid,
        inos=inodes.name_count,
        build_time=0,
        build_time_nsec=0,
        blocks=min(sum(_blocks(blob, options) for blob in blobs), 0xFFFFFFFF),
        meta_blkaddr=regions.meta >> bits,
        xattr_blkaddr=0,
        uuid=bytes(16),
        volume=bytes(16),
        feature_incompat=erofs.INCOMPAT_RAFS_V6,
        algorithms=0,
        extra_devices=len(blobs),
        devt_slotoff=erofs.DEVICE_SLOT_START,
    )


def _flags(inodes: Inodes, blobs: Sequence[BlobRecord], options: BootstrapOptions) -> int:
    features = 0
    for blob in blobs:
        features |= blob.features
    flags = options.extra_flags | rafs6.SuperFlag.EXPLICIT_UID_GID
    flags |= rafs6.COMPRESSOR_FLAGS[options.compressor] | rafs6.DIGESTER_FLAGS[options.digester]
    if inodes.has_xattrs:
        flags |= rafs6.SuperFlag.HAS_XATTR
    if features & BlobFeature.INLINED_CHUNK_DIGEST:
        flags |= rafs6.SuperFlag.INLINED_CHUNK_DIGEST
    if features & BlobFeature.TARFS:
        flags |= rafs6.SuperFlag.TARFS_MODE
    return int(flags)


def _blocks(blob: BlobRecord, options: BootstrapOptions) -> int:
    return -(-blob.uncompressed_size // options.block_size)


def _device_slots(blobs: Sequence[BlobRecord], options: BootstrapOptions, total: int) -> bytes:
    """One slot a blob; `total` is the bootstrap's length, after which the blobs are mapped."""
    slots = []
    position = total
    for blob in blobs:
        mapped = 0
        if options.blob_alignment:
            position = _align(position, options.blob_alignment)
            mapped = position // options.block_size
        if mapped > _MAX_BLOCK:
            raise FormatError("the blobs are larger than one image can be")
        slots.append(erofs.pack_device_slot(blob.blob_id, _blocks(blob, options), mapped))
        position += blob.uncompressed_size
    return b"".join(slots)


def _align(offset: int, unit: int = rafs6.REGION_ALIGNMENT) -> int:
    return offset + -offset % unit
