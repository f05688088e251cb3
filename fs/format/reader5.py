"""Reads RAFS v5 bootstraps, the format before EROFS.

A table maps inode numbers, from 1, to records; every name has a record, and the names of one file
share the number of the first. That number is its nid here. See
docs/format.md, "RAFS v5", and `bootstrap.Bootstrap` for the promises.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fs.format import rafs5
from fs.format.blobtable import MAX_CHUNK_SIZE, MIN_CHUNK_SIZE, BlobRecord, is_safe_blob_id
from fs.format.bootstrap import DirEntry, Extent, Inode, join_extent
from fs.format.buffer import CheckedBuffer
from fs.format.chunkinfo import CHUNK_INFO_SIZE, ChunkFlag, ChunkInfo, iter_chunk_infos
from fs.format.chunkrow import ChunkRow
from fs.format.chunktable import ChunkTable
from fs.format.dirents import is_allowed_name
from fs.format.erofs import NSEC_MAX, SIZE_MAX, SYMLINK_MAX, file_type
from fs.format.rafs6 import KNOWN_FLAGS, SuperFlag, algorithms
from fs.format.tree import HOLE

_ROOT = 1
_DOTS = (b".", b"..")
_MAX_BLOBS = 0xFFFF


class _Record(NamedTuple):
    """An inode record; `chunks` is where its chunk infos would start."""

    offset: int
    name: bytes
    target_offset: int
    target_size: int
    xattrs_offset: int
    chunks: int
    parent: int
    ino: int
    uid: int
    gid: int
    mode: int
    size: int
    flags: int
    nlink: int
    child_index: int
    child_count: int
    rdev: int
    mtime_nsec: int
    mtime: int


def is_v5(image: CheckedBuffer) -> bool:
    return bytes(image.view[:4]) == rafs5.MAGIC


class BootstrapV5:
    """A v5 bootstrap over `image`; see `bootstrap.Bootstrap`."""

    version = 5
    root = _ROOT
    block_size = 4096

    def __init__(self, image: CheckedBuffer) -> None:
        self._image = image
        self.name = image.name
        self.path = ""
        self.size = image.size
        superblock = _read_superblock(image)
        self.flags = superblock.flags
        self.sealed = False
        found = algorithms(superblock.flags)
        if found is None or superblock.flags & ~KNOWN_FLAGS:
            raise image.error(f"flags {superblock.flags:#x} are not supported")
        self.compressor, self.digester = found
        self.has_xattrs = bool(superblock.flags & SuperFlag.HAS_XATTR)
        self.chunk_size = superblock.chunk_size
        self.inode_count = superblock.inodes
        self._superblock = superblock
        self.blobs: Sequence[BlobRecord] = self._read_blobs()
        self._chunk_tables: list[ChunkTable] | None = None
        self._directory(_ROOT)

    def close(self) -> None:
        """See `bootstrap.Bootstrap`."""
        self._image.close()

    @property
    def prefetch(self) -> Sequence[int]:
        """See `bootstrap.Bootstrap`. A 0 ends the table."""
        superblock = self._superblock
        size = superblock.prefetch_entries * rafs5.ENTRY.size
        table = self._image.slice(superblock.prefetch_offset, size, "prefetch table")
        nids = [nid for (nid,) in rafs5.ENTRY.iter_unpack(table)]
        return nids[: nids.index(0)] if 0 in nids else nids

    def inode(self, nid: int) -> Inode:
        """See `bootstrap.Bootstrap`."""
        record = self._record(nid)
        is_device = stat.S_ISCHR(record.mode) or stat.S_ISBLK(record.mode)
        return Inode(
            nid,
            record.ino,
            record.mode,
            record.nlink,
            record.uid,
            record.gid,
            record.rdev if is_device else 0,
            record.size,
            record.mtime,
            record.mtime_nsec,
            bool(record.flags & rafs5.INODE_HAS_XATTRS),
        )

    def lookup(self, nid: int, name: bytes) -> int | None:
        """See `bootstrap.Bootstrap`."""
        directory = self._directory(nid)
        if name == b".":
            return nid
        if name == b"..":
            return directory.parent or _ROOT
        low, high = 0, directory.child_count
        while low < high:
            middle = (low + high) // 2
            child = directory.child_index + middle
            found = self._record(child)
            if found.name == name:
                return self._canonical(child, found)
            if found.name < name:
                low = middle + 1
            else:
                high = middle
        return None

    def entries(self, nid: int, start: int = 0) -> Iterator[DirEntry]:
        """See `bootstrap.Bootstrap`. A cookie is the number of entries up to and with this."""
        directory = self._directory(nid)
        previous = b""
        for number in range(max(start, 0), directory.child_count):
            child = directory.child_index + number
            record = self._record(child)
            if record.name <= previous:
                raise self._image.error(f"{record.name!r} is out of order", record.offset)
            previous = record.name
            yield DirEntry(
                record.name, self._canonical(child, record), file_type(record.mode), number + 1
            )

    def readlink(self, nid: int) -> bytes:
        """See `bootstrap.Bootstrap`."""
        record = self._record(nid)
        if not stat.S_ISLNK(record.mode):
            raise self._image.error(f"inode {nid} is no symbolic link", record.offset)
        target = bytes(self._image.slice(record.target_offset, record.target_size, "link target"))
        if not 0 < len(target) <= SYMLINK_MAX or b"\0" in target:
            raise self._image.error(f"link target {target[:40]!r} is not allowed", record.offset)
        return target

    def xattrs(self, nid: int) -> dict[bytes, bytes]:
        """See `bootstrap.Bootstrap`."""
        record = self._record(nid)
        found: dict[bytes, bytes] = {}
        if not record.flags & rafs5.INODE_HAS_XATTRS:
            return found
        at = record.xattrs_offset + rafs5.XATTRS_SIZE.size
        while at < record.chunks:
            (size,) = self._image.unpack(rafs5.XATTR_SIZE, at, "extended attribute")
            at += rafs5.XATTR_SIZE.size
            if size == 0 or at + size > record.chunks:
                # What is left pads the attributes to 8 bytes.
                break
            pair = bytes(self._image.slice(at, size, "extended attribute"))
            at += size
            name, _, value = pair.partition(b"\0")
            if not name or name in found:
                raise self._image.error(f"extended attribute {name!r}", record.offset)
            found[name] = value
        return found

    def extents(self, nid: int, offset: int, length: int) -> list[Extent]:
        """See `bootstrap.Bootstrap`."""
        record = self._record(nid)
        if not stat.S_ISREG(record.mode):
            raise self._image.error(f"inode {nid} is no regular file", record.offset)
        end = min(offset + length, record.size)
        if offset < 0 or offset >= end:
            return []
        first, last = offset // self.chunk_size, (end - 1) // self.chunk_size
        table = self._image.slice(
            record.chunks + first * CHUNK_INFO_SIZE,
            (last - first + 1) * CHUNK_INFO_SIZE,
            "chunk infos",
        )
        found: list[Extent] = []
        for number, info in enumerate(iter_chunk_infos(table), first):
            begin = number * self.chunk_size
            self._check_chunk(record, info, begin)
            start = max(offset, begin)
            piece = min(end, begin + self.chunk_size) - start
            if info.flags & ChunkFlag.HOLE:
                join_extent(found, Extent(start, piece, HOLE, 0))
            else:
                place = info.uncompressed_offset + start - begin
                join_extent(found, Extent(start, piece, info.blob_index, place))
        return found

    def chunk_table(self, blob_index: int) -> ChunkTable:
        """See `bootstrap.Bootstrap`. One pass over all inodes makes all tables, once."""
        if not 0 <= blob_index < len(self.blobs):
            raise self._image.error(f"no blob {blob_index}")
        if self._chunk_tables is None:
            self._chunk_tables = self._read_chunk_tables()
        return self._chunk_tables[blob_index]

    def _read_chunk_tables(self) -> list[ChunkTable]:
        rows: list[set[ChunkRow]] = [set() for _ in self.blobs]
        left = self._image.size
        for nid in range(_ROOT, self._superblock.inode_table_entries + _ROOT):
            record = self._record(nid)
            if not stat.S_ISREG(record.mode):
                continue
            left -= record.child_count * CHUNK_INFO_SIZE
            if left < 0:
                raise self._image.error("chunk infos of files overlap")
            table = self._image.slice(
                record.chunks, record.child_count * CHUNK_INFO_SIZE, "chunk infos"
            )
            for number, info in enumerate(iter_chunk_infos(table)):
                self._check_chunk(record, info, number * self.chunk_size)
                if not info.flags & ChunkFlag.HOLE:
                    rows[info.blob_index].add(ChunkRow.of(info))
        where = f"{self.name}: chunk infos"
        return [ChunkTable(rows[blob.index], blob, where) for blob in self.blobs]

    def _check_chunk(self, record: _Record, info: ChunkInfo, begin: int) -> None:
        length = min(self.chunk_size, record.size - begin)
        if info.file_offset != begin or info.uncompressed_size != length:
            raise self._image.error(
                f"chunk of {info.uncompressed_size} bytes at {info.file_offset} of a file, "
                f"expected {length} at {begin}",
                record.offset,
            )
        if info.flags & ChunkFlag.HOLE:
            return
        if info.blob_index >= len(self.blobs):
            raise self._image.error(
                f"chunk in blob {info.blob_index} of {len(self.blobs)}", record.offset
            )
        if info.uncompressed_offset + length > self.blobs[info.blob_index].uncompressed_size:
            raise self._image.error(f"chunk lies outside of blob {info.blob_index}", record.offset)

    def _canonical(self, number: int, record: _Record) -> int:
        """The nid for the record in place `number`: all names of a file have one."""
        if record.ino == number:
            return number
        first = self._record(record.ino)
        same_kind = stat.S_IFMT(first.mode) == stat.S_IFMT(record.mode)
        if first.ino != record.ino or not same_kind or stat.S_ISDIR(record.mode):
            raise self._image.error(
                f"inode {number} says it is a name of {record.ino}", record.offset
            )
        return record.ino

    def _directory(self, nid: int) -> _Record:
        record = self._record(nid)
        if not stat.S_ISDIR(record.mode):
            raise self._image.error(f"inode {nid} is no directory", record.offset)
        last = record.child_index + record.child_count - 1
        if record.child_count and not (
            record.child_index > _ROOT and last <= self._superblock.inode_table_entries
        ):
            raise self._image.error(f"children of inode {nid} up to {last}", record.offset)
        return record

    def _record(self, nid: int) -> _Record:
        superblock = self._superblock
        if not _ROOT <= nid <= superblock.inode_table_entries:
            raise self._image.error(f"no inode {nid}")
        entry = superblock.inode_table_offset + (nid - _ROOT) * rafs5.ENTRY.size
        (place,) = self._image.unpack(rafs5.ENTRY, entry, "inode table")
        record = self._parse(place * rafs5.INODE_ALIGNMENT, nid)
        problem = self._problem(record, nid)
        if problem:
            raise self._image.error(f"inode {nid}: {problem}", record.offset)
        return record

    def _parse(self, offset: int, nid: int) -> _Record:
        parent, ino, uid, gid, _projid, mode, size, _blocks, flags, nlink, *rest = (
            self._image.unpack(rafs5.INODE, offset, f"inode {nid}")
        )
        child_index, child_count, name_size, target_size, rdev, mtime_nsec, mtime = rest
        name_offset = offset + rafs5.INODE_SIZE
        target_offset = name_offset + _padded(name_size)
        xattrs_offset = target_offset + _padded(target_size)
        chunks = xattrs_offset
        if flags & rafs5.INODE_HAS_XATTRS:
            (xattrs_size,) = self._image.unpack(rafs5.XATTRS_SIZE, xattrs_offset, "attributes")
            chunks += rafs5.XATTRS_SIZE.size + _padded(xattrs_size)
        name = bytes(self._image.slice(name_offset, name_size, "name"))
        return _Record(
            offset,
            name,
            target_offset,
            target_size,
            xattrs_offset,
            chunks,
            parent,
            ino,
            uid,
            gid,
            mode,
            size,
            flags,
            nlink,
            child_index,
            child_count,
            rdev,
            mtime_nsec,
            mtime,
        )

    def _problem(self, record: _Record, nid: int) -> str:
        if not file_type(record.mode) or record.mode > 0xFFFF:
            return f"mode {record.mode:o} has no file type"
        if record.size > SIZE_MAX or record.mtime_nsec > NSEC_MAX:
            return f"size {record.size}, nanoseconds {record.mtime_nsec}"
        if nid != _ROOT and (record.name in _DOTS or not is_allowed_name(record.name)):
            return f"name {record.name[:40]!r} is not allowed"
        chunks = 0
        if stat.S_ISREG(record.mode):
            chunks = record.child_count
            if chunks != -(-record.size // self.chunk_size):
                return f"{chunks} chunks for {record.size} bytes"
        if record.chunks + chunks * CHUNK_INFO_SIZE > self._image.size:
            return "it reaches past the end"
        return ""

    def _read_blobs(self) -> list[BlobRecord]:
        """The blob table, whose entries are as long as their ids, and the sizes beside it."""
        superblock = self._superblock
        table = bytes(
            self._image.slice(
                superblock.blob_table_offset, superblock.blob_table_size, "blob table"
            )
        )
        blobs: list[BlobRecord] = []
        at = 0
        while at < len(table):
            start = at + 8  # the range to read ahead, which nobody uses
            end = table.find(b"\0", start)
            end = len(table) if end < 0 else end
            blobs.append(self._read_blob(len(blobs), table[start:end]))
            at = end + 1
        if superblock.extended_entries != len(blobs):
            raise self._image.error(f"{len(blobs)} blobs, sizes of {superblock.extended_entries}")
        return blobs

    def _read_blob(self, index: int, raw_id: bytes) -> BlobRecord:
        blob_id = raw_id.decode("utf-8", "replace")
        if not is_safe_blob_id(blob_id) or index > _MAX_BLOBS:
            raise self._image.error(f"blob {index}: id {blob_id[:80]!r} is not allowed")
        chunk_count, features, usize, csize = self._image.unpack(
            rafs5.EXTENDED_BLOB,
            self._superblock.extended_offset + index * rafs5.EXTENDED_BLOB.size,
            "extended blob table",
        )
        return BlobRecord(
            blob_id=blob_id,
            index=index,
            chunk_size=self.chunk_size,
            chunk_count=chunk_count,
            compressor=self.compressor,
            digester=self.digester,
            features=features,
            compressed_size=csize,
            uncompressed_size=usize,
        )


def _read_superblock(image: CheckedBuffer) -> rafs5.Superblock:
    image.check(0, rafs5.SUPERBLOCK_SIZE, "superblock")
    found = rafs5.Superblock._make(image.unpack(rafs5.SUPERBLOCK, 0, "superblock"))
    if found.version != rafs5.VERSION or found.sb_size != rafs5.SUPERBLOCK_SIZE:
        raise image.error(f"RAFS version {found.version:#x} is not supported")
    size = found.chunk_size
    if size & (size - 1) or not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE:
        raise image.error(f"chunk size {size}")
    image.check(
        found.inode_table_offset, found.inode_table_entries * rafs5.ENTRY.size, "inode table"
    )
    image.check(found.prefetch_offset, found.prefetch_entries * rafs5.ENTRY.size, "prefetch table")
    return found


def _padded(size: int) -> int:
    return size + -size % 8
