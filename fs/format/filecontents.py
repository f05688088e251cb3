"""Where regular files have their contents: chunk indexes, while the inodes are written.

Along the way it is noted which chunks files have, and where: the chunk table comes of that.
See docs/format.md, "Inodes" and "Chunk table".
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import repeat

from fs.format import erofs
from fs.format.blobtable import BlobFeature, BlobRecord
from fs.format.chunkcolumns import FileChunks, LayerChunks
from fs.format.chunkrecords import ChunkRecords, SortedRecords, UsedRows
from fs.format.errors import FormatError
from fs.format.tree import HOLE, Chunk, Node

_MAX_POSITION = 0xFFFFFF
_MAX_BLOCK = 0xFFFFFFFE
#: Chunks of a file that are held all at once.
_FEW = 1024
_HOLE_INDEX = erofs.NULL_ADDRESS << 32


class FileContents:
    """Chunk indexes come as numbers of 64 bits. FormatErrors do not name the file."""

    def __init__(self, blobs: Sequence[BlobRecord], chunk_size: int, block_bits: int) -> None:
        self._blobs = blobs
        self._chunk_size = chunk_size
        self._block_bits = block_bits
        self._usual_bits = chunk_size.bit_length() - 1 - block_bits
        repeating = [bool(blob.features & BlobFeature.TARFS) for blob in blobs]
        self._records = ChunkRecords(repeating)
        self._rows: dict[int, UsedRows | None] = {}
        self._rows_of_blob: dict[int, UsedRows] = {}
        self._last: LayerChunks | None = None
        self._last_rows: UsedRows | None = None
        #: i_u of a file with one chunk.
        self.single_format = erofs.CHUNK_INDEXES | self._usual_bits

    def single(self, node: Node) -> int:
        """The chunk index of a file with a single chunk, the usual case.

        0 if it is another case, or anything is wrong: `indexes` is for all of them.
        """
        content = node.chunks
        if not isinstance(content, FileChunks) or content.length != 1:
            return 0
        table, number = content.table, content.first
        if number in table.elsewhere:
            table, number = table.elsewhere[number]
        rows = self._last_rows if table is self._last else self._turn_to(table)
        if rows is None or rows.sizes[number] != node.size:
            return 0
        rows.places[number] = 1
        return (
            number & 0xFFFF
            | rows.device
            | number >> 16 << 24
            | rows.offsets[number] >> self._block_bits << 32
        )

    def indexes(self, node: Node) -> tuple[int, array[int]]:
        """i_u of a file, and its chunk indexes."""
        # Some contents make their chunks anew each time that they are looked at.
        chunks = list(node.chunks) if len(node.chunks) <= _FEW else node.chunks
        self._check_sizes(node, chunks)
        found = array("Q")
        for place, (chunk, rows) in enumerate(
            zip(chunks, self._rows_of(node.chunks), strict=False)
        ):
            found.append(self._index(chunk, rows, place))
        return erofs.CHUNK_INDEXES | self._claimed_bits(node, chunks), found

    def table(self) -> SortedRecords:
        """The chunk table, after the last file."""
        used = [rows for rows in self._rows.values() if rows]
        for rows in used[:]:
            if self._records.has_blob(rows.table.blob_index):  # files have it in both forms
                rows.move_to(self._records)
                used.remove(rows)
        return SortedRecords(self._records, used)

    def _rows_of(self, content: Sequence[Chunk]) -> Iterable[UsedRows | None]:
        """For each chunk the table that has it as a row, None if it has to be noted as it is."""
        if not isinstance(content, FileChunks):
            return repeat(None)
        table, others = content.table, content.table.elsewhere
        return (
            self._turn_to(others[number][0] if number in others else table)
            for number in content.numbers
        )

    def _turn_to(self, table: LayerChunks) -> UsedRows | None:
        if table is not self._last:
            if id(table) not in self._rows:
                rows = self._rows[id(table)] = self._new_rows(table)
                if rows:
                    self._rows_of_blob[table.blob_index] = rows
            self._last, self._last_rows = table, self._rows[id(table)]
        return self._last_rows

    def _new_rows(self, table: LayerChunks) -> UsedRows | None:
        """None where rows have to be looked at one by one."""
        if table.__class__ is not LayerChunks or not 0 <= table.blob_index < len(self._blobs):
            return None
        blob = self._blobs[table.blob_index]
        others = [rows.device for rows in self._rows.values() if rows]
        rows = UsedRows(table, self._chunk_size)
        fit = rows.fit(1 << self._block_bits, blob.uncompressed_size)
        if blob.features & BlobFeature.TARFS or rows.device in others or not fit:
            return None
        return rows

    def _check_sizes(self, node: Node, chunks: Sequence[Chunk]) -> None:
        left = node.size
        for chunk in chunks:
            if left <= 0 or chunk.uncompressed_size != min(left, self._chunk_size):
                raise FormatError(f"chunk of {chunk.uncompressed_size} bytes, {left} bytes left")
            left -= chunk.uncompressed_size
        if left:
            raise FormatError(f"{left} of {node.size} bytes have no chunk")

    def _claimed_bits(self, node: Node, chunks: Sequence[Chunk]) -> int:
        """log2 of the blocks of a chunk that the inode claims.

        A file whose chunks follow each other in one blob claims a single chunk: then the
        kernel shares page cache between its copies.
        """
        if node.size <= self._chunk_size or chunks[0].blob_index == HOLE:
            return self._usual_bits
        blob_index, expected = chunks[0].blob_index, chunks[0].uncompressed_offset
        for chunk in chunks:
            if (chunk.blob_index, chunk.uncompressed_offset) != (blob_index, expected):
                return self._usual_bits
            expected += self._chunk_size
        whole = (node.size - 1).bit_length() - self._block_bits
        return whole if whole <= erofs.CHUNK_BITS_MASK else self._usual_bits

    def _index(self, chunk: Chunk, rows: UsedRows | None, place: int) -> int:
        if chunk.blob_index == HOLE:
            return _HOLE_INDEX
        self._check_chunk(chunk)
        if rows is None:
            self._records.add(chunk, place * self._chunk_size)
            if (same := self._rows_of_blob.get(chunk.blob_index)) and same.has(chunk.position):
                same.places[chunk.position] = place + 1  # the last file counts, in either form
        else:
            rows.places[chunk.position] = place + 1
        low = chunk.position & 0xFFFF | chunk.blob_index + 1 << 16 | chunk.position >> 16 << 24
        return low | chunk.uncompressed_offset >> self._block_bits << 32

    def _check_chunk(self, chunk: Chunk) -> None:
        if not 0 <= chunk.blob_index < len(self._blobs):
            raise FormatError(f"chunk in blob {chunk.blob_index} of {len(self._blobs)}")
        if chunk.uncompressed_offset & (1 << self._block_bits) - 1:
            raise FormatError(f"chunk at {chunk.uncompressed_offset} does not start a block")
        end = chunk.uncompressed_offset + chunk.uncompressed_size
        if (
            not 0 <= chunk.position <= _MAX_POSITION
            or chunk.uncompressed_offset >> self._block_bits > _MAX_BLOCK
            or end > self._blobs[chunk.blob_index].uncompressed_size
            or len(chunk.digest) != 32
        ):
            raise FormatError(f"chunk {chunk.position} lies outside of blob {chunk.blob_index}")
