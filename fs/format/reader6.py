"""Reads RAFS v6 bootstraps: an EROFS image with the tables of `rafs6`.

Nothing is kept between calls but the headers, the blob table and, once asked
for, the chunk tables. See `bootstrap.Bootstrap` for the promises.
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import compress
from typing import NamedTuple

from fs.format import xattrs
from fs.format.blobtable import (
    BLOB_SIZE,
    BlobRecord,
    Compressor,
    Digester,
    unpack_blob,
)
from fs.format.bootstrap import DirEntry, Extent, Inode, join_extent
from fs.format.buffer import CheckedBuffer
from fs.format.chunkinfo import chunk_owners, iter_chunk_infos
from fs.format.chunkrow import ChunkRow
from fs.format.chunktable import ChunkTable
from fs.format.dirents import DirBlock
from fs.format.erofs import (
    CHUNK_BASED,
    CHUNK_BITS_MASK,
    CHUNK_INDEX,
    CHUNK_INDEX_SIZE,
    CHUNK_INDEXES,
    DEVICE_SLOT_SIZE,
    DEVICE_SLOTS_OFFSET,
    DIRENT_SIZE,
    FLAT_INLINE,
    FLAT_PLAIN,
    INODE_COMPACT,
    INODE_EXTENDED,
    INODE_FORMAT,
    NSEC_MAX,
    NULL_ADDRESS,
    SIZE_MAX,
    SLOT_SIZE,
    SUPERBLOCK_OFFSET,
    SUPERBLOCK_SIZE,
    SYMLINK_MAX,
    Superblock,
    file_type,
    unpack_superblock,
)
from fs.format.rafs6 import (
    EXTENDED_OFFSET,
    EXTENDED_SIZE,
    ExtendedSuperblock,
    SuperFlag,
    algorithms,
    unpack_extended,
)
from fs.format.tree import HOLE

_DEVICE_MODES = (stat.S_IFCHR, stat.S_IFBLK)


class _Inode(NamedTuple):
    """An inode as it lies there: `offset` of its first byte, `end` of its attributes."""

    offset: int
    end: int
    layout: int
    xattr_count: int
    mode: int
    size: int
    u: int
    ino: int
    uid: int
    gid: int
    mtime: int
    mtime_nsec: int
    nlink: int


_INODES_KEPT = 256


class BootstrapV6:
    """A v6 bootstrap over `image`; see `bootstrap.Bootstrap`."""

    version = 6

    def __init__(self, image: CheckedBuffer) -> None:
        self._image = image
        # A name is looked up in the same directory as the last, a file read after its lookup.
        self._read_inode = lru_cache(_INODES_KEPT)(self._parse_inode)
        self.name = image.name
        self.path = ""
        self.size = image.size
        superblock = _read_superblock(image)
        extended = _read_extended(image)
        self.block_size = 1 << superblock.blkszbits
        if image.size % self.block_size:
            raise image.error(f"length {image.size} is not a multiple of {self.block_size}")
        self.flags = extended.flags
        self.sealed = any(extended.seal)
        self.compressor, self.digester = _algorithms(image, extended)
        self.has_xattrs = bool(extended.flags & SuperFlag.HAS_XATTR)
        self.chunk_size = extended.chunk_size
        self.inode_count = superblock.inos
        self._block_bits = superblock.blkszbits
        self._build_time = superblock.build_time, superblock.build_time_nsec
        self._meta = superblock.meta_blkaddr << superblock.blkszbits
        self.blobs: Sequence[BlobRecord] = _read_blobs(image, superblock, extended)
        self._chunk_infos = image.slice(
            extended.chunk_table_offset, extended.chunk_table_size, "chunk table"
        )
        self._prefetch = image.slice(
            extended.prefetch_table_offset, extended.prefetch_table_size, "prefetch table"
        )
        self._chunk_owners: array[int] | None = None
        self._chunk_tables: dict[int, ChunkTable] = {}
        self.root = superblock.root_nid
        self._directory(self.root)

    def close(self) -> None:
        """See `bootstrap.Bootstrap`."""
        self._chunk_infos.release()
        self._prefetch.release()
        self._image.close()

    @property
    def prefetch(self) -> Sequence[int]:
        """See `bootstrap.Bootstrap`. A 0 ends the table."""
        nids = []
        for at in range(0, len(self._prefetch), 4):
            nid = int.from_bytes(self._prefetch[at : at + 4], "little")
            if nid == 0:
                break
            nids.append(nid)
        return nids

    def inode(self, nid: int) -> Inode:
        """See `bootstrap.Bootstrap`."""
        raw = self._read_inode(nid)
        device = raw.u if stat.S_IFMT(raw.mode) in _DEVICE_MODES else 0
        return Inode(
            nid,
            raw.ino,
            raw.mode,
            raw.nlink,
            raw.uid,
            raw.gid,
            device,
            raw.size,
            raw.mtime,
            raw.mtime_nsec,
            raw.xattr_count > 0,
        )

    def lookup(self, nid: int, name: bytes) -> int | None:
        """See `bootstrap.Bootstrap`."""
        directory = self._directory(nid)
        low, high = 0, self._block_count(directory)
        while high - low > 1:
            middle = (low + high) // 2
            if self._block(directory, middle).name(0) <= name:
                low = middle
            else:
                high = middle
        return self._block(directory, low).find(name) if high else None

    def entries(self, nid: int, start: int = 0) -> Iterator[DirEntry]:
        """See `bootstrap.Bootstrap`. A cookie is the offset of the record after the entry."""
        directory = self._directory(nid)
        first = max(start, 0) // self.block_size
        skip = max(start, 0) % self.block_size // DIRENT_SIZE
        previous = b""
        for number in range(first, self._block_count(directory)):
            block = self._block(directory, number)
            base = number * self.block_size
            for index, name, record in block.entries(skip):
                if name <= previous:
                    raise self._image.error(f"{name!r} is out of order in directory {nid}")
                previous = name
                if name not in (b".", b".."):
                    cookie = base + (index + 1) * DIRENT_SIZE
                    yield DirEntry(name, record.nid, record.type, cookie)
            skip = 0

    def readlink(self, nid: int) -> bytes:
        """See `bootstrap.Bootstrap`."""
        raw = self._read_inode(nid)
        if not stat.S_ISLNK(raw.mode):
            raise self._image.error(f"inode {nid} is no symbolic link", raw.offset)
        if not 0 < raw.size <= SYMLINK_MAX:
            raise self._image.error(f"link target of {raw.size} bytes", raw.offset)
        pieces = [self._flat_block(raw, n) for n in range(self._block_count(raw))]
        target = b"".join(pieces)
        if b"\0" in target:
            raise self._image.error(f"NUL in the link target of inode {nid}", raw.offset)
        return target

    def xattrs(self, nid: int) -> dict[bytes, bytes]:
        """See `bootstrap.Bootstrap`."""
        raw = self._read_inode(nid)
        if raw.xattr_count == 0:
            return {}
        size = xattrs.size_of(raw.xattr_count)
        return xattrs.unpack(
            self._image.slice(raw.end - size, size, "extended attributes"),
            f"{self.name}: inode {nid}",
        )

    def extents(self, nid: int, offset: int, length: int) -> list[Extent]:
        """See `bootstrap.Bootstrap`. Follows the chunk size of the inode, as the kernel does."""
        raw = self._read_inode(nid)
        if not stat.S_ISREG(raw.mode):
            raise self._image.error(f"inode {nid} is no regular file", raw.offset)
        end = min(offset + length, raw.size)
        if offset < 0 or offset >= end:
            return []
        bits = self._chunk_bits(raw)
        first, last = offset >> bits, (end - 1) >> bits
        indexes = self._image.slice(
            _align(raw.end, CHUNK_INDEX_SIZE) + first * CHUNK_INDEX_SIZE,
            (last - first + 1) * CHUNK_INDEX_SIZE,
            "chunk indexes",
        )
        found: list[Extent] = []
        for number, (_low, high, address) in enumerate(CHUNK_INDEX.iter_unpack(indexes), first):
            start = max(offset, number << bits)
            piece = min(end, (number + 1) << bits) - start
            within = start - (number << bits)
            join_extent(found, self._extent(raw, start, piece, high, address, within))
        return found

    def _extent(
        self, raw: _Inode, start: int, length: int, high: int, address: int, within: int
    ) -> Extent:
        if address == NULL_ADDRESS:
            return Extent(start, length, HOLE, 0)
        blob_index = (high & 0xFF) - 1
        blob_offset = (address << self._block_bits) + within
        if not 0 <= blob_index < len(self.blobs):
            raise self._image.error(f"chunk in blob {blob_index} of {len(self.blobs)}", raw.offset)
        if blob_offset + length > self.blobs[blob_index].uncompressed_size:
            raise self._image.error(
                f"chunk lies outside of blob {blob_index}, at {blob_offset}", raw.offset
            )
        return Extent(start, length, blob_index, blob_offset)

    def chunk_table(self, blob_index: int) -> ChunkTable:
        """See `bootstrap.Bootstrap`. Made of the blob's own records, when first asked for."""
        if not 0 <= blob_index < len(self.blobs):
            raise self._image.error(f"no blob {blob_index}")
        if blob_index not in self._chunk_tables:
            self._chunk_tables[blob_index] = self._read_chunk_table(blob_index)
        return self._chunk_tables[blob_index]

    def _read_chunk_table(self, blob_index: int) -> ChunkTable:
        if self._chunk_owners is None:
            owners = chunk_owners(self._chunk_infos)
            if owners and max(owners) >= len(self.blobs):
                raise self._image.error(f"chunk table names blob {max(owners)}")
            self._chunk_owners = owners
        mine = map(blob_index.__eq__, self._chunk_owners)
        rows = map(ChunkRow.of, compress(iter_chunk_infos(self._chunk_infos), mine))
        return ChunkTable(rows, self.blobs[blob_index], f"{self.name}: chunk table")

    def _parse_inode(self, nid: int) -> _Inode:
        offset = self._meta + nid * SLOT_SIZE
        (form,) = self._image.unpack(INODE_FORMAT, offset, f"inode {nid}")
        layout = form >> 1
        if form & 1:
            _, count, mode, size, u, ino, uid, gid, mtime, nsec, nlink = self._image.unpack(
                INODE_EXTENDED, offset, f"inode {nid}"
            )
            end = offset + INODE_EXTENDED.size
        else:
            _, count, mode, nlink, size, u, ino, uid, gid = self._image.unpack(
                INODE_COMPACT, offset, f"inode {nid}"
            )
            mtime, nsec = self._build_time
            end = offset + INODE_COMPACT.size
        end += xattrs.size_of(count)
        raw = _Inode(offset, end, layout, count, mode, size, u, ino, uid, gid, mtime, nsec, nlink)
        self._check_inode(nid, raw)
        return raw

    def _check_inode(self, nid: int, raw: _Inode) -> None:
        kind = file_type(raw.mode)
        layouts = (CHUNK_BASED,) if stat.S_ISREG(raw.mode) else (FLAT_PLAIN, FLAT_INLINE)
        if kind == 0 or raw.layout not in layouts:
            raise self._image.error(
                f"inode {nid} has mode {raw.mode:o} and layout {raw.layout}", raw.offset
            )
        if raw.size > SIZE_MAX or raw.mtime_nsec > NSEC_MAX:
            raise self._image.error(
                f"inode {nid} has size {raw.size}, nanoseconds {raw.mtime_nsec}", raw.offset
            )
        if raw.end > self._image.size:
            raise self._image.error(f"inode {nid} reaches past the end", raw.offset)
        if stat.S_ISREG(raw.mode):
            # Also where the kernel needs fewer of them: builders always write them all.
            entries = -(-raw.size // min(self.chunk_size, 1 << self._chunk_bits(raw)))
            self._image.check(
                _align(raw.end, CHUNK_INDEX_SIZE), entries * CHUNK_INDEX_SIZE, "chunk indexes"
            )

    def _chunk_bits(self, raw: _Inode) -> int:
        """log2 of the chunk size that the chunk indexes of this file stand for."""
        if raw.u & ~CHUNK_BITS_MASK != CHUNK_INDEXES:
            raise self._image.error(f"chunk format {raw.u:#x} is not supported", raw.offset)
        return self._block_bits + (raw.u & CHUNK_BITS_MASK)

    def _directory(self, nid: int) -> _Inode:
        raw = self._read_inode(nid)
        if not stat.S_ISDIR(raw.mode):
            raise self._image.error(f"inode {nid} is no directory", raw.offset)
        if raw.size > self._image.size:
            raise self._image.error(f"directory {nid} of {raw.size} bytes", raw.offset)
        return raw

    def _block_count(self, raw: _Inode) -> int:
        return -(-raw.size >> self._block_bits)

    def _block(self, directory: _Inode, number: int) -> DirBlock:
        return DirBlock(
            self._flat_block(directory, number),
            f"{self.name}: block {number} of the directory at byte {directory.offset}",
        )

    def _flat_block(self, raw: _Inode, number: int) -> memoryview:
        """Block `number` of a directory or link; the last one may lie behind the inode."""
        start = number << self._block_bits
        length = min(self.block_size, raw.size - start)
        if raw.layout == FLAT_PLAIN or start + length < raw.size:
            return self._image.slice((raw.u << self._block_bits) + start, length, "data block")
        if raw.end % self.block_size + length > self.block_size:
            raise self._image.error("inline data crosses a block boundary", raw.offset)
        return self._image.slice(raw.end, length, "inline data")


def _read_superblock(image: CheckedBuffer) -> Superblock:
    found = unpack_superblock(image.slice(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, "superblock"))
    problem = found.problem()
    if problem:
        raise image.error(problem, SUPERBLOCK_OFFSET)
    return found


def _read_extended(image: CheckedBuffer) -> ExtendedSuperblock:
    found = unpack_extended(image.slice(EXTENDED_OFFSET, EXTENDED_SIZE, "extended superblock"))
    problem = found.problem()
    if problem:
        raise image.error(problem, EXTENDED_OFFSET)
    return found


def _algorithms(image: CheckedBuffer, extended: ExtendedSuperblock) -> tuple[Compressor, Digester]:
    found = algorithms(extended.flags)
    if found is None:
        raise image.error(
            f"flags {extended.flags:#x} do not name one compressor and one digester",
            EXTENDED_OFFSET,
        )
    return found


def _read_blobs(
    image: CheckedBuffer, superblock: Superblock, extended: ExtendedSuperblock
) -> list[BlobRecord]:
    """The blob table; every entry has its device slot."""
    count = extended.blob_table_size // BLOB_SIZE
    if count != superblock.extra_devices:
        raise image.error(f"{count} blobs but {superblock.extra_devices} device slots")
    image.check(DEVICE_SLOTS_OFFSET, count * DEVICE_SLOT_SIZE, "device slots")
    table = image.slice(extended.blob_table_offset, extended.blob_table_size, "blob table")
    blobs = []
    for index in range(count):
        blob = unpack_blob(table[index * BLOB_SIZE : (index + 1) * BLOB_SIZE], image.name)
        if blob.index != index or blob.chunk_size != extended.chunk_size:
            raise image.error(
                f"blob {index} says index {blob.index}, chunk size {blob.chunk_size}",
                extended.blob_table_offset + index * BLOB_SIZE,
            )
        blobs.append(blob)
    return blobs


def _align(offset: int, unit: int) -> int:
    return offset + -offset % unit
