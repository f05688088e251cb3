"""A converted layer: its tree with marks, its chunks and its blob; kept in a file and read back.

It stands alone: no other layer of an image goes into it. So it may be kept under the
layer's digest and `LayerOptions.key`, and merged into any image later. The blob itself is
not in the record: whoever keeps a record keeps `<blob id>` beside it, or knows a registry
that has it.

Chunks of a dictionary are only named, so a record with such chunks is read with that
dictionary at hand (its digest is part of the key).

The record is a zstd frame with a sequence of msgpack objects:

  1. a map: "version" 1, "name", "shared", "shared_size", "repacked", "startup" (paths), "blob":
     null or [blob table entry (256 bytes), content of its .blob.meta], "chunks" (columns), "known":
     ids of blobs that the chunk dictionary brought, "elsewhere": two columns of 4 bytes, places
     in "known" and positions, for the chunks after the blob's own
  2. for each node, parents first and the root first, an array: number of the parent (null for
     a hard link to a lower layer whose name is taken by now), name, number of the node if it
     was told before (a hard link; nothing follows then) or null, marks (1 implied, 2 listed
     late, 4 opaque), whiteouts (names), mode, uid, gid, mtime, nanoseconds, size, rdev, nlink,
     link target, extended attributes (map), chunk numbers: null, [first, count] or all of them
     as a column of 8 bytes
  3. for each hard link to a lower layer, an array: target (names), what messages call the
     link, number of the node

Columns are the fields of LayerChunks, little-endian, 32 bytes of digest and fields of 4 or
8 bytes a chunk. Readers trust nothing: a record that is not whole and consistent is a
FormatError, and no field makes them allocate more than the record's own size.
"""

from __future__ import annotations

import stat
import sys
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import zstandard

from fs.format.blobtable import BLOB_SIZE, BlobRecord, unpack_blob
from fs.format.chunkcolumns import FileChunks, LayerChunks, file_chunks
from fs.format.errors import FormatError
from fs.format.tree import Node
from fs.tar.paths import NAME_MAX
from nydusify.blobs.chunk_dictionary import ChunkDictionary
from nydusify.blobs.layer_blob import Blob
from nydusify.layers.layer import ForeignLink, Layer

_VERSION = 1
_LEVEL = 3
_MAX_WINDOW = 8 << 20
_COLUMNS = {
    "sizes": "I",
    "compressed_offsets": "Q",
    "compressed_sizes": "I",
    "uncompressed_offsets": "Q",
    "contexts": "I",
    "withins": "I",
}
_IMPLIED, _LISTED_LATE, _OPAQUE = 1, 2, 4
#: Of a record, decoded (bytes): some millions of nodes, which take ten times as much in memory.
_MAX_DECODED = 256 << 20
#: Of a list; msgpack makes room for as many as are announced.
_MAX_ELEMENTS = 1 << 20
_Unexpected = (
    StopIteration,
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
)


@dataclass(frozen=True)
class ConvertedLayer:
    """`layer` is finished, and not merged yet. `chunks` are what its files' contents refer to.

    `shared` additions of `shared_size` bytes found their chunk already there. `repacked` bytes,
    decoded, were packed a second time.
    """

    layer: Layer
    chunks: LayerChunks
    blob: Blob | None
    shared: int = 0
    shared_size: int = 0
    startup: list[bytes] = field(default_factory=list)
    repacked: int = 0


def write_converted_layer(
    converted: ConvertedLayer, out: BinaryIO, dictionary: ChunkDictionary | None = None
) -> None:
    """The record; the same layer gives the same bytes. `dictionary` as in the conversion."""
    packer = msgpack.Packer(use_bin_type=True)
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    with compressor.stream_writer(out, closefd=False) as stream:
        stream.write(packer.pack(_head(converted, dictionary)))
        numbers: dict[int, int] = {}
        for node in _nodes(converted.layer, numbers):
            stream.write(packer.pack(node))
        for link in converted.layer.foreign_links.values():
            stream.write(packer.pack([link.target, link.where, numbers[id(link.node)]]))


def read_converted_layer(
    source: BinaryIO, blob: Path, name: str, dictionary: ChunkDictionary | None = None
) -> ConvertedLayer:
    """The layer in a record; `blob` is where its blob's file is, `name` for messages."""
    unpacker = msgpack.Unpacker(
        _Decoded(source),
        raw=False,
        max_buffer_size=_MAX_DECODED,
        max_array_len=_MAX_ELEMENTS,
        max_map_len=_MAX_ELEMENTS,
    )
    try:
        return _Reading(unpacker, name, dictionary).layer(blob)
    except (*_Unexpected, zstandard.ZstdError, msgpack.UnpackException) as error:
        raise FormatError(f"is no converted layer ({error})", name) from error


def _head(converted: ConvertedLayer, dictionary: ChunkDictionary | None) -> dict[str, Any]:
    elsewhere = converted.chunks.elsewhere.values()
    ids: dict[int, str] = {}
    if dictionary is not None:
        ids = {id(table): dictionary.record(table).blob_id for table, _ in elsewhere}
    places = {table: place for place, table in enumerate(ids)}
    blob = converted.blob
    return {
        "version": _VERSION,
        "name": converted.layer.name,
        "shared": converted.shared,
        "shared_size": converted.shared_size,
        "repacked": converted.repacked,
        "startup": converted.startup,
        "blob": [blob.record.pack(), blob.meta] if blob else None,
        "chunks": _packed_columns(converted.chunks),
        "known": list(ids.values()),
        "elsewhere": [
            _little_endian(array("I", [places[id(table)] for table, _ in elsewhere])).tobytes(),
            _little_endian(array("I", [number for _, number in elsewhere])).tobytes(),
        ],
    }


def _packed_columns(chunks: LayerChunks) -> dict[str, bytes]:
    packed = {"digests": bytes(chunks.digests), "flags": bytes(chunks.flags)}
    for column in _COLUMNS:
        packed[column] = _little_endian(getattr(chunks, column)).tobytes()
    return packed


def _nodes(layer: Layer, numbers: dict[int, int]) -> Iterator[list[Any]]:
    """The nodes' arrays; `numbers` gets the numbers of those that are referred to again."""
    linked = {id(link.node) for link in layer.foreign_links.values()}
    count = 0
    pending: list[tuple[int | None, bytes, Node]] = [(0, b"", layer.root)]
    lost = deque(layer.foreign_links.values())
    while pending or lost:
        if not pending:
            link = lost.popleft()
            if id(link.node) not in numbers:
                pending.append((None, b"", link.node))
            continue
        parent, name, node = pending.pop()
        known = numbers.get(id(node))
        if known is not None:
            yield [parent, name, known]
            continue
        number, count = count, count + 1
        if node.nlink != 1 or id(node) in linked:
            numbers[id(node)] = number
        marks = _IMPLIED * (node in layer.implied)
        marks |= _LISTED_LATE * (node in layer.listed_late) | _OPAQUE * (node in layer.opaque)
        yield [
            parent, name, None, marks, sorted(layer.whiteouts.get(node, ())),
            node.mode, node.uid, node.gid, node.mtime, node.mtime_nsec, node.size, node.rdev,
            node.nlink, node.target, dict(sorted(node.xattrs.items())), _packed_numbers(node),
        ]  # fmt: skip
        pending += [(number, name, child) for name, child in sorted(node.children.items())]


def _packed_numbers(node: Node) -> list[int] | bytes | None:
    content = node.chunks
    if not isinstance(content, FileChunks):
        return None
    numbers = content.numbers
    if isinstance(numbers, range):
        return [numbers.start, len(numbers)]
    return _little_endian(array("Q", numbers)).tobytes()


class _Decoded:
    """A record's content. ValueError where there is more than we take."""

    def __init__(self, source: BinaryIO) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        self._stream = decompressor.stream_reader(source, closefd=False)
        self._left = _MAX_DECODED

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"decodes to more than {_MAX_DECODED >> 20} MiB")
        return data


class _Reading:
    """One record being read."""

    def __init__(
        self,
        unpacker: Iterator[Any],
        name: str,
        dictionary: ChunkDictionary | None,
    ) -> None:
        self._unpacker = unpacker
        self._name = name
        self._dictionary = dictionary

    def layer(self, blob_path: Path) -> ConvertedLayer:
        head = next(self._unpacker)
        if head["version"] != _VERSION:
            raise FormatError(f"version {head['version']!r} of a converted layer", self._name)
        record = self._record(head["blob"][0]) if head["blob"] else None
        chunks = self._columns(head["chunks"], record.chunk_count if record else 0)
        tables = [self._known_table(_text(blob_id)) for blob_id in head["known"]]
        places, positions = (_column("I", each) for each in head["elsewhere"])
        pairs = zip(places, positions, strict=True)
        for number, (place, position) in enumerate(pairs, len(chunks)):
            chunks.elsewhere[number] = tables[place], range(len(tables[place]))[position]
        layer = self._tree(Layer(_text(head["name"])), chunks)
        blob = Blob(blob_path, record, _bytes(head["blob"][1])) if record else None
        shared, shared_size = _number(head["shared"]), _number(head["shared_size"])
        startup = [_bytes(path) for path in head["startup"]]
        repacked = _number(head.get("repacked", 0))
        return ConvertedLayer(layer, chunks, blob, shared, shared_size, startup, repacked)

    def _known_table(self, blob_id: str) -> LayerChunks:
        table = self._dictionary.table(blob_id) if self._dictionary else None
        if table is None:
            raise FormatError(f"needs blob {blob_id[:64]} of a chunk dictionary", self._name)
        return table

    def _record(self, entry: bytes) -> BlobRecord:
        if len(_bytes(entry)) != BLOB_SIZE:
            raise FormatError("blob table entry of a wrong size", self._name)
        return unpack_blob(entry, self._name)

    def _columns(self, packed: dict[str, bytes], count: int) -> LayerChunks:
        chunks = LayerChunks()
        chunks.digests, chunks.flags = bytearray(packed["digests"]), bytearray(packed["flags"])
        lengths = {len(chunks.digests) / 32, len(chunks.flags)}
        for column, kind in _COLUMNS.items():
            values = _column(kind, packed[column])
            setattr(chunks, column, values)
            lengths.add(len(values))
        if lengths != {count}:
            raise FormatError("columns of different lengths", self._name)
        return chunks

    def _tree(self, layer: Layer, chunks: LayerChunks) -> Layer:
        layer.implied.clear()
        nodes: list[Node] = []
        for fields in self._unpacker:
            if isinstance(fields[0], list):
                target, where, number = fields
                names = [_name(each) for each in target]
                link = ForeignLink(nodes[_number(number)], names, _text(where))
                layer.foreign_links[tuple(names)] = link
                continue
            parent, name, known, *rest = fields
            if known is None:
                node = _node(rest, chunks, layer)
                nodes.append(node)
            else:
                node = nodes[_number(known)]
                if stat.S_ISDIR(node.mode):
                    raise ValueError(f"directory {name!r:.40} has two names")
            if len(nodes) == 1:
                layer.root = node
            elif parent is not None:
                nodes[_number(parent)].children[_name(name)] = node
        if not nodes:
            raise FormatError("ends before its tree", self._name)
        return layer


def _node(fields: list[Any], chunks: LayerChunks, layer: Layer) -> Node:
    marks, whiteouts, *numbers, target, xattrs, content = fields
    mode, uid, gid, mtime, nanoseconds, size, rdev, nlink = map(_number, numbers)
    node = Node(mode, uid, gid, mtime, nanoseconds, size, rdev, nlink, _bytes(target))
    if xattrs:
        node.xattrs = {_bytes(name): _bytes(value) for name, value in xattrs.items()}
    if content is not None:
        node.chunks = _content(content, chunks)
    if marks & _IMPLIED:
        layer.implied.add(node)
    if marks & _LISTED_LATE:
        layer.listed_late.add(node)
    if marks & _OPAQUE:
        layer.opaque.add(node)
    if whiteouts:
        layer.whiteouts[node] = {_name(each) for each in whiteouts}
    return node


def _content(packed: list[int] | bytes, chunks: LayerChunks) -> FileChunks:
    end = len(chunks) + len(chunks.elsewhere)
    if isinstance(packed, list):
        first, count = map(_number, packed)
        if not 0 < count <= end - first:
            raise ValueError(f"chunks {first} to {first + count} of {end}")
        return FileChunks(chunks, first, count)
    numbers = _column("Q", packed)
    if not numbers or max(numbers) >= end:
        raise ValueError(f"chunk numbers of a file, of {end}")
    return file_chunks(chunks, numbers)


def _column(kind: str, packed: bytes) -> array[int]:
    values = array(kind)
    values.frombytes(packed)
    return _little_endian(values)


def _little_endian(values: array[int]) -> array[int]:
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r:.40} is no number")
    return value


def _bytes(value: object) -> bytes:
    if type(value) is not bytes:
        raise TypeError(f"{value!r:.40} is no byte string")
    return value


def _name(value: object) -> bytes:
    name = _bytes(value)
    if not 0 < len(name) <= NAME_MAX or b"/" in name or name in (b".", b".."):
        raise ValueError(f"{name!r:.40} is no name")
    return name


def _text(value: object) -> str:
    if type(value) is not str:
        raise TypeError(f"{value!r:.40} is no text")
    return value
