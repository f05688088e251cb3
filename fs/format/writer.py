"""Writes RAFS v6 bootstraps.

The same tree, blobs and options give the same bytes: nothing depends on the
order of a dict, on time or on the machine. Output goes out in one pass from
start to end; nothing in it is visible before the caller makes it so.
See docs/format.md for every rule that is kept here.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from fs.format import dirents, erofs, rafs6
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
from fs.format.chunkrecords import ChunkRecords
from fs.format.errors import FormatError
from fs.format.layout import Layout, Placed, PlacedData, PlacedDirectory
from fs.format.tree import HOLE, Chunk, Node
from fs.format.xattrs import count_of

_META_START = 4096
_BLOCK_BITS = {512: 9, 4096: 12}
_MAX_POSITION = 0xFFFFFF
_MAX_BLOCK = 0xFFFFFFFE
#: Chunks of a file that are held all at once.
_FEW = 1024
_ZERO_PAGE = bytes(4096)


@dataclass(slots=True)
class BootstrapOptions:
    """How a bootstrap is written.

    `prefetch` are the nodes to be read first, in order. `compressor` and
    `digester` are the superblock's word; each blob has its own. `blob_alignment`
    is that of the blobs' places in an image made of one file; 0 gives them none.
    `root_ino` is the root's number, which older builders of Nydus left 0.
    """

    chunk_size: int = DEFAULT_CHUNK_SIZE
    compressor: Compressor = Compressor.ZSTD
    digester: Digester = Digester.BLAKE3
    block_size: int = 4096
    prefetch: Sequence[Node] = ()
    extra_flags: int = 0
    root_ino: int = 1
    blob_alignment: int = 0x80000


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
    layout = Layout(root, options.block_size, options.root_ino, wanted)
    prefetch = [layout.find(node).nid for node in wanted]
    regions = _Regions.of(len(blobs), len(prefetch))
    inodes = _InodeWriter(layout, regions.meta, blobs, options)
    metadata = inodes.pack()
    chunks = inodes.chunks.sort()

    chunk_table_offset = _align(regions.meta + layout.end)
    total = _align(chunk_table_offset + chunks.size)
    out.write(bytes(erofs.SUPERBLOCK_OFFSET))
    out.write(_superblock(layout, regions, blobs, options).pack())
    out.write(
        rafs6.ExtendedSuperblock(
            _flags(layout, blobs, options),
            regions.blob_table,
            BLOB_SIZE * len(blobs),
            options.chunk_size,
            chunk_table_offset if chunks.size else 0,
            chunks.size,
            regions.prefetch_table if prefetch else 0,
            4 * len(prefetch),
        ).pack()
    )
    header = bytearray(_device_slots(blobs, options, total))
    header += bytes(regions.blob_table - erofs.DEVICE_SLOTS_OFFSET - len(header))
    header += b"".join([blob.pack() for blob in blobs])
    header += struct.pack(f"<{len(prefetch)}I", *prefetch)
    header += bytes(regions.meta + _META_START - erofs.DEVICE_SLOTS_OFFSET - len(header))
    out.write(header)
    out.write(metadata)
    out.write(bytes(chunk_table_offset - regions.meta - _META_START - len(metadata)))
    chunks.write(out)
    out.write(bytes(total - chunk_table_offset - chunks.size))


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


class _InodeWriter:
    """The metadata area from the root inode on, and the chunk table that comes of it."""

    def __init__(
        self, layout: Layout, meta: int, blobs: Sequence[BlobRecord], options: BootstrapOptions
    ) -> None:
        self._layout = layout
        self._meta = meta
        self._blobs = blobs
        self._block_size = options.block_size
        self._block_bits = _BLOCK_BITS[options.block_size]
        self._chunk_size = options.chunk_size
        self._data = bytearray(layout.end - _META_START)
        self.chunks = ChunkRecords([bool(blob.features & BlobFeature.TARFS) for blob in blobs])

    def pack(self) -> bytearray:
        for placed in self._layout.inodes:
            mode = placed.node.mode
            try:
                if stat.S_ISREG(mode):
                    self._pack_file(placed)
                elif isinstance(placed, PlacedDirectory):
                    self._pack_directory(placed)
                elif isinstance(placed, PlacedData):
                    self._pack_data(placed, placed.node.target)
                else:
                    self._pack_special(placed)
            except struct.error as error:
                raise placed.error(f"a number is out of range ({error})") from error
        return self._data

    def _pack_inode(self, placed: Placed, layout: int, size: int, u: int) -> int:
        """Write inode and attributes; returns the place after them in the metadata."""
        node, packed_xattrs = placed.node, placed.xattrs
        start = placed.offset - _META_START
        erofs.INODE_EXTENDED.pack_into(
            self._data,
            start,
            layout << 1 | 1,
            count_of(len(packed_xattrs)),
            node.mode,
            size,
            u,
            placed.ino,
            node.uid,
            node.gid,
            node.mtime,
            node.mtime_nsec,
            placed.names if stat.S_ISDIR(node.mode) else node.nlink or placed.names,
        )
        end = start + erofs.INODE_EXTENDED.size + len(packed_xattrs)
        if packed_xattrs:
            self._data[start + erofs.INODE_EXTENDED.size : end] = packed_xattrs
        return end

    def _pack_special(self, placed: Placed) -> None:
        is_device = stat.S_ISCHR(placed.node.mode) or stat.S_ISBLK(placed.node.mode)
        self._pack_inode(placed, erofs.FLAT_PLAIN, 0, placed.node.rdev if is_device else 0)

    def _pack_directory(self, placed: PlacedDirectory) -> None:
        entries = [(child.nid, erofs.file_type(child.node.mode)) for child in placed.entries]
        names, counts = placed.entry_names, placed.block_counts
        self._pack_data(placed, dirents.pack(names, entries, counts, self._block_size))

    def _pack_data(self, placed: PlacedData, data: bytes | bytearray) -> None:
        layout = erofs.FLAT_INLINE if placed.inline else erofs.FLAT_PLAIN
        address = self._meta + placed.data_offset >> self._block_bits
        end = self._pack_inode(placed, layout, len(data), address)
        tail = len(data) % self._block_size if placed.inline else 0
        whole = len(data) - tail
        if tail:
            self._data[end : end + tail] = data[whole:]
        if whole:
            start = placed.data_offset - _META_START
            self._data[start : start + whole] = data[:whole]

    def _pack_file(self, placed: Placed) -> None:
        node = placed.node
        # Some contents make their chunks anew each time that they are looked at.
        chunks = list(node.chunks) if len(node.chunks) <= _FEW else node.chunks
        self._check_chunk_sizes(placed, chunks)
        bits = self._chunk_bits(node, chunks) - self._block_bits
        end = self._pack_inode(placed, erofs.CHUNK_BASED, node.size, erofs.CHUNK_INDEXES | bits)
        at = end + -end % erofs.CHUNK_INDEX_SIZE
        for number, chunk in enumerate(chunks):
            erofs.CHUNK_INDEX.pack_into(self._data, at, *self._chunk_index(placed, chunk, number))
            at += erofs.CHUNK_INDEX_SIZE

    def _check_chunk_sizes(self, placed: Placed, chunks: Sequence[Chunk]) -> None:
        left = placed.node.size
        for chunk in chunks:
            if left <= 0 or chunk.uncompressed_size != min(left, self._chunk_size):
                raise placed.error(f"chunk of {chunk.uncompressed_size} bytes, {left} bytes left")
            left -= chunk.uncompressed_size
        if left:
            raise placed.error(f"{left} of {placed.node.size} bytes have no chunk")

    def _chunk_bits(self, node: Node, chunks: Sequence[Chunk]) -> int:
        """log2 of the chunk size that the inode claims.

        A file whose chunks follow each other in one blob claims a single chunk: then the
        kernel shares page cache between its copies.
        """
        bits = self._chunk_size.bit_length() - 1
        if node.size <= self._chunk_size or chunks[0].blob_index == HOLE:
            return bits
        expected = chunks[0].uncompressed_offset
        for chunk in chunks:
            if (chunk.blob_index, chunk.uncompressed_offset) != (
                chunks[0].blob_index,
                expected,
            ):
                return bits
            expected += self._chunk_size
        whole = (node.size - 1).bit_length()
        return whole if whole - self._block_bits <= erofs.CHUNK_BITS_MASK else bits

    def _chunk_index(self, placed: Placed, chunk: Chunk, number: int) -> tuple[int, int, int]:
        if chunk.blob_index == HOLE:
            return 0, 0, erofs.NULL_ADDRESS
        self._add_chunk(placed, chunk, number * self._chunk_size)
        low = chunk.position & 0xFFFF
        high = chunk.position >> 16 << 8 | chunk.blob_index + 1
        return low, high, chunk.uncompressed_offset >> self._block_bits

    def _add_chunk(self, placed: Placed, chunk: Chunk, file_offset: int) -> None:
        self._check_chunk(placed, chunk)
        self.chunks.add(chunk, file_offset)

    def _check_chunk(self, placed: Placed, chunk: Chunk) -> None:
        if not 0 <= chunk.blob_index < len(self._blobs):
            raise placed.error(f"chunk in blob {chunk.blob_index} of {len(self._blobs)}")
        if chunk.uncompressed_offset % self._block_size:
            raise placed.error(f"chunk at {chunk.uncompressed_offset} does not start a block")
        end = chunk.uncompressed_offset + chunk.uncompressed_size
        if (
            not 0 <= chunk.position <= _MAX_POSITION
            or chunk.uncompressed_offset >> self._block_bits > _MAX_BLOCK
            or end > self._blobs[chunk.blob_index].uncompressed_size
            or len(chunk.digest) != 32
        ):
            raise placed.error(f"chunk {chunk.position} lies outside of blob {chunk.blob_index}")


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
    layout: Layout,
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
        root_nid=layout.inodes[0].nid,
        inos=layout.name_count,
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


def _flags(layout: Layout, blobs: Sequence[BlobRecord], options: BootstrapOptions) -> int:
    features = 0
    for blob in blobs:
        features |= blob.features
    flags = options.extra_flags | rafs6.SuperFlag.EXPLICIT_UID_GID
    flags |= rafs6.COMPRESSOR_FLAGS[options.compressor] | rafs6.DIGESTER_FLAGS[options.digester]
    if any(placed.node.xattrs for placed in layout.inodes):
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
