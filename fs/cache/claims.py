"""Whose bytes may lie where in a blob's files: `<id>.blob.chunks`.

For each chunk position it keeps the offset, size and digest under which the
chunk entered or will enter, and when it was last read. Images of one blob share
its files if they agree: every chunk that both have is the same in both, and no
chunk of one overlaps another of the other. So a bit of the chunk map means the
same to all of them, and no image can put bytes under another's chunk. Agreement
is settled once, when a blob is opened, and costs a read nothing.

    header   4096 bytes: magic, version, digest algorithm, chunk count (24 bytes);
             at 64 the stamp (u64); at 72 whether the file is frozen (u64)
    columns  of chunk count entries: last use (u32, seconds), offset (u64), size (u32), digest (32)

The file is sparse: blocks are there for what images have in chunks, whatever count a
bootstrap claims. The stamp is odd while chunks are taken back, and another one afterwards: who
reads it before and after a read knows that the bytes were there throughout.
Columns are written before the first bit that rests on them. A claim without
its chunk binds only as long as somebody has the blob open. A frozen file is one that the
kernel may have open beyond the life of any process: it loses no chunk, takes no
new claim, and goes only as a whole, by unlinking.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from array import array
from collections.abc import Iterable, Iterator
from itertools import compress
from struct import Struct

from fs.cache.locks import open_file
from fs.format import chunkmap
from fs.format.buffer import Buffer
from fs.format.chunkrow import DIGEST_SIZE
from fs.format.chunktable import ChunkTable
from fs.format.errors import StorageError

HEADER_SIZE = 4096
_HEADER = Struct("<8s2IQ")
_MAGIC = b"RAFSCHNK"
_VERSION = 1
_STAMP = 64
_FROZEN = 72
#: As many as a blob's chunk information can have; caps what is allocated.
_MAX_CHUNKS = 1 << 24
#: A file for so few chunks, or for so many times those of a table, gets all its blocks at once.
_FEW = 1 << 16
_SPARSE = 16
#: Positions so near are written and allocated together.
_NEAR = 64
#: Bytes of a column that are compared at once.
_PORTION = 1 << 20
_CLAIM_SIZE = 8 + 4 + DIGEST_SIZE
#: Stands for the digest algorithm of pieces that only the sha256 of the whole blob proves;
#: they are claimed under that digest.
AS_A_WHOLE = 0xFF


class Columns:
    """By position, as they stand in the file; what is changed here is not changed there.

    A size of 0: nobody's. OSError if the file is cut short.
    """

    def __init__(self, descriptor: int, count: int) -> None:
        try:
            mapped = mmap.mmap(
                descriptor, _size(count), mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
            )
        except ValueError:
            raise OSError(errno.EIO, "chunk columns are cut short") from None
        view = memoryview(mapped)
        offsets, sizes, digests = _starts(count)
        self.offsets = view[offsets:sizes].cast("Q")
        self.sizes = view[sizes:digests].cast("I")
        self.digests = view[digests:]

    def digest(self, position: int) -> bytes:
        return bytes(self.digests[position * DIGEST_SIZE : (position + 1) * DIGEST_SIZE])


class Claims:
    """One open .blob.chunks. `fresh`: it was made just now, nothing is known of older chunks."""

    def __init__(self, descriptor: int, chunk_count: int, digester: int, *, fresh: bool) -> None:
        self.descriptor = descriptor
        self.digester = digester
        self.chunk_count = chunk_count
        self.fresh = fresh
        self._map = mmap.mmap(descriptor, HEADER_SIZE + 4 * chunk_count)
        self._view = memoryview(self._map)
        self._stamps = self._view[_STAMP : _STAMP + 8].cast("Q")
        self._frozen = self._view[_FROZEN : _FROZEN + 8].cast("Q")
        #: When each chunk was last read, in seconds since 1970. For any thread.
        self.used = self._view[HEADER_SIZE:].cast("I")

    @classmethod
    def open(
        cls, path: str, chunk_count: int, digester: int, table: ChunkTable, *, sole: bool
    ) -> Claims | None:
        """None when the file is of another digest algorithm or chunk count.

        One that is missing or damaged is made, with room for `table`, if nobody else (`sole`)
        uses the blob.
        """
        if chunk_count > _MAX_CHUNKS:
            raise StorageError(f"{path}: {chunk_count} chunks are too many to be kept")
        descriptor = open_file(path)
        try:
            header = _header(descriptor)
            if header is None:
                if not sole:
                    raise OSError(errno.EBUSY, "the chunk columns of a blob in use are damaged")
                _make(descriptor, chunk_count, digester, table)
            elif header != (digester, chunk_count):
                os.close(descriptor)
                return None
            return cls(descriptor, chunk_count, digester, fresh=header is None)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def open_existing(cls, path: str) -> Claims | None:
        """The file as it is, for who keeps the cache; None without a sound one."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        header = _header(descriptor)
        if header is None:
            os.close(descriptor)
            return None
        digester, chunk_count = header
        return cls(descriptor, chunk_count, digester, fresh=False)

    def close(self) -> None:
        self._stamps.release()
        self._frozen.release()
        self.used.release()
        self._view.release()
        self._map.close()
        os.close(self.descriptor)

    def sync(self) -> None:
        os.fdatasync(self.descriptor)

    def stamp(self) -> int:
        return self._stamps[0]

    def begin_taking_back(self) -> None:
        self._stamps[0] |= 1

    def end_taking_back(self) -> None:
        """Also for one who died at it: whoever holds the changing lock may say so."""
        stamp = self._stamps[0]
        if stamp & 1:
            self._stamps[0] = stamp + 1

    def use(self, position: int) -> None:
        self.used[position] = int(time.time())

    def freeze(self) -> None:
        self._frozen[0] = 1

    def is_frozen(self) -> bool:
        return self._frozen[0] != 0

    def columns(self) -> Columns:
        """Hold the changing lock for what must not change meanwhile."""
        return Columns(self.descriptor, self.chunk_count)

    def claimed(self, columns: Columns) -> array[int]:
        """The positions that are somebody's, ascending."""
        _, start, end = _starts(self.chunk_count)
        found = array("I")
        for first, last in _data_between(self.descriptor, start, end):
            places = range((first - start) // 4, min(self.chunk_count, -(-(last - start) // 4)))
            sizes = columns.sizes[places.start : places.stop]
            found.extend(compress(places, sizes))
        return found

    def last_use(self) -> int:
        """When any chunk was last read."""
        start, end = HEADER_SIZE, HEADER_SIZE + 4 * self.chunk_count
        times = [
            max(self.used[(first - start) // 4 : -(-(last - start) // 4)], default=0)
            for first, last in _data_between(self.descriptor, start, end)
        ]
        return max(times, default=0)

    def agree(self, table: ChunkTable, bits: Buffer, *, sole: bool) -> bool:
        """Claim the chunks of `table`; False, and nothing claimed, if it contradicts what binds.

        `bits` is the chunk map. Hold the changing lock for taking back. StorageError
        when the table contradicts itself.
        """
        _allocate(self.descriptor, self.chunk_count, table)
        whole = self._is_whole(table)
        if whole and self._is_same(table):
            return True
        columns = self.columns()
        claimed = self.claimed(columns)
        if whole and not claimed and not self.is_frozen():
            self._write_whole(table)
            return True
        frozen = self.is_frozen()
        dropped = _drop_unkept(columns, claimed, bits) if sole and not frozen else []
        fresh = _fresh_rows(table, columns)
        if fresh is None or (fresh and frozen):
            return False
        entered = array("I", map(table.positions.__getitem__, fresh))
        if fresh:
            _enter(table, fresh, columns)
            if claimed and _overlaps(columns, {*claimed, *entered}):
                return False
        if fresh or dropped:
            self._write(columns, {*dropped, *entered} if dropped else entered)
        return True

    def _is_whole(self, table: ChunkTable) -> bool:
        """Whether row n is chunk n, of all chunks."""
        count = self.chunk_count
        return len(table) == count and table.positions == array("I", range(count))

    def _is_same(self, table: ChunkTable) -> bool:
        """Whether all is claimed already, by one who had the same whole table: the usual case."""
        for start, column in self._columns_of(table):
            for at in range(0, len(column), _PORTION):
                portion = column[at : at + _PORTION]
                if os.pread(self.descriptor, len(portion), start + at) != portion:
                    return False
        return True

    def _write_whole(self, table: ChunkTable) -> None:
        """Claim what a table of all chunks has, where nobody has claimed anything."""
        for start, column in self._columns_of(table):
            os.pwrite(self.descriptor, column, start)

    def _columns_of(self, table: ChunkTable) -> Iterator[tuple[int, memoryview]]:
        """Of a table of all chunks: where each column is in the file, and its bytes."""
        offsets, sizes, digests = _starts(self.chunk_count)
        yield offsets, memoryview(table.uncompressed_offsets).cast("B")
        yield sizes, memoryview(table.uncompressed_sizes).cast("B")
        yield digests, memoryview(table.digests)

    def _write(self, columns: Columns, positions: Iterable[int]) -> None:
        offsets, sizes, digests = _starts(self.chunk_count)
        for first, end in _runs(sorted(positions), _NEAR):
            os.pwrite(self.descriptor, columns.offsets[first:end], offsets + 8 * first)
            os.pwrite(self.descriptor, columns.sizes[first:end], sizes + 4 * first)
            digest = slice(first * DIGEST_SIZE, end * DIGEST_SIZE)
            os.pwrite(self.descriptor, columns.digests[digest], digests + digest.start)


def _header(descriptor: int) -> tuple[int, int] | None:
    """Digest algorithm and chunk count; None if it is no whole file of ours."""
    data = os.pread(descriptor, _HEADER.size, 0)
    if len(data) != _HEADER.size:
        return None
    magic, version, digester, chunk_count = _HEADER.unpack(data)
    if (magic, version) != (_MAGIC, _VERSION) or chunk_count > _MAX_CHUNKS:
        return None
    return (digester, chunk_count) if os.fstat(descriptor).st_size == _size(chunk_count) else None


def _size(chunk_count: int) -> int:
    return HEADER_SIZE + (4 + _CLAIM_SIZE) * chunk_count


def _starts(chunk_count: int) -> tuple[int, int, int]:
    """Where the columns of offsets, sizes and digests begin."""
    offsets = HEADER_SIZE + 4 * chunk_count
    return offsets, offsets + 8 * chunk_count, offsets + 12 * chunk_count


def _make(descriptor: int, chunk_count: int, digester: int, table: ChunkTable) -> None:
    os.ftruncate(descriptor, 0)
    os.ftruncate(descriptor, _size(chunk_count))
    os.posix_fallocate(descriptor, 0, HEADER_SIZE)
    _allocate(descriptor, chunk_count, table)
    os.pwrite(descriptor, _HEADER.pack(_MAGIC, _VERSION, digester, chunk_count), 0)


def _allocate(descriptor: int, chunk_count: int, table: ChunkTable) -> None:
    """Blocks for all that `table` has in the file.

    Without blocks of its own, a full disk would turn a store to the map into SIGBUS.
    """
    runs: Iterable[tuple[int, int]] = [(0, chunk_count)]
    if chunk_count > _FEW and chunk_count > _SPARSE * len(table):
        runs = _runs(sorted(table.positions), _NEAR)
    columns = [(HEADER_SIZE, 4), *zip(_starts(chunk_count), (8, 4, DIGEST_SIZE), strict=True)]
    for first, end in runs:
        for start, width in columns if end else ():
            os.posix_fallocate(descriptor, start + width * first, width * (end - first))


def _runs(positions: Iterable[int], gap: int) -> Iterator[tuple[int, int]]:
    """First and end of each run of ascending positions, `gap` or fewer apart."""
    first = end = -1
    for position in positions:
        if first < 0 or position - end > gap:
            if first >= 0:
                yield first, end
            first = position
        end = position + 1
    if first >= 0:
        yield first, end


def _data_between(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a file from `start` to `end` that are no holes, in whole multiples of 4."""
    at = start
    while at < end:
        try:
            at = max(at, os.lseek(descriptor, at, os.SEEK_DATA))
            hole = os.lseek(descriptor, at, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no more data
                return
            raise
        if at < end:
            yield at - (at - start) % 4, min(hole, end)
        at = hole


def _drop_unkept(columns: Columns, claimed: Iterable[int], bits: Buffer) -> list[int]:
    dropped = []
    for position in claimed:
        byte, mask = chunkmap.bit(position)
        if not bits[byte] & mask:
            columns.sizes[position] = 0
            dropped.append(position)
    return dropped


def _fresh_rows(table: ChunkTable, columns: Columns) -> array[int] | None:
    """The rows that nobody has claimed yet; None if one is claimed otherwise."""
    fresh = array("I")
    offsets, sizes = columns.offsets, columns.sizes
    for row, position in enumerate(table.positions):
        if not sizes[position]:
            fresh.append(row)
        elif (
            sizes[position] != table.uncompressed_sizes[row]
            or offsets[position] != table.uncompressed_offsets[row]
            or columns.digest(position)
            != table.digests[row * DIGEST_SIZE : (row + 1) * DIGEST_SIZE]
        ):
            return None
    return fresh


def _enter(table: ChunkTable, rows: Iterable[int], columns: Columns) -> None:
    for row in rows:
        position = table.positions[row]
        if columns.sizes[position]:
            raise StorageError(f"two chunks are number {position}")
        columns.sizes[position] = table.uncompressed_sizes[row]
        columns.offsets[position] = table.uncompressed_offsets[row]
        columns.digests[position * DIGEST_SIZE : (position + 1) * DIGEST_SIZE] = table.digests[
            row * DIGEST_SIZE : (row + 1) * DIGEST_SIZE
        ]


def _overlaps(columns: Columns, claimed: Iterable[int]) -> bool:
    held = [position for position in claimed if columns.sizes[position]]
    held.sort(key=columns.offsets.__getitem__)
    end = 0
    for position in held:
        if columns.offsets[position] < end:
            return True
        end = columns.offsets[position] + columns.sizes[position]
    return False
