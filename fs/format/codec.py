"""Compression and digests of single chunks.

Decompression never allocates in proportion to what the data claims, only to
the size that the caller expects; anything but exactly that size is an error.
All functions may be called from many threads at once.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Iterator
from typing import NamedTuple, cast

import lz4.block
import zstandard
from blake3 import blake3
from isal import isal_zlib

from fs.format.blobtable import Compressor, Digester
from fs.format.errors import FormatError

Data = bytes | bytearray | memoryview

_DEFAULT_ZSTD_LEVEL = 3
_DEFAULT_GZIP_LEVEL = 6
_GZIP_WINDOW_BITS = 31
_PIECE = 1 << 20
#: The largest window that a chunk may ask for: no chunk is longer than 16 MiB.
_MAX_ZSTD_WINDOW = 16 << 20
#: The same of a layer's frames, which others made: podman's ask for 32 MiB. No more of it is
#: touched than a frame decodes to.
_MAX_LAYER_WINDOW = 128 << 20


#: Its type information calls it an instance.
GZIP_ERROR = cast(type[Exception], isal_zlib.IsalError)


class ZstdSearch(NamedTuple):
    """How zstd looks for matches, where none of its levels will do. The names are its own."""

    strategy: int
    window_log: int
    hash_log: int
    chain_log: int
    search_log: int
    min_match: int
    target_length: int


#: A level of zstd, or a search of one's own.
ZstdEffort = int | ZstdSearch

#: "btopt", as level 16 has it, but with matches of three bytes, which machine code is full of,
#: and looking for them in tables that stay in a core's cache: most of what level 18 brings
#: in a third of its time.
SHORT_SEARCH = ZstdSearch(
    strategy=7,
    window_log=24,
    hash_log=17,
    chain_log=18,
    search_log=1,
    min_match=3,
    target_length=16,
)


class _ThreadState(threading.local):
    """zstd contexts, one per thread: they are costly to make and not thread-safe."""

    def __init__(self) -> None:
        self.compressors: dict[ZstdEffort, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
        self.of_layers = zstandard.ZstdDecompressor(max_window_size=_MAX_LAYER_WINDOW)


_state = _ThreadState()


def compress(compressor: int, data: Data, level: int | None = None) -> bytes:
    """`data` as one self-contained frame (gzip, zstd) or block (lz4); deterministic."""
    if compressor == Compressor.ZSTD:
        return compress_zstd(data, _DEFAULT_ZSTD_LEVEL if level is None else level)
    if compressor == Compressor.LZ4_BLOCK:
        return bytes(lz4.block.compress(data, store_size=False))
    if compressor == Compressor.GZIP:
        stream = zlib.compressobj(
            _DEFAULT_GZIP_LEVEL if level is None else level, zlib.DEFLATED, _GZIP_WINDOW_BITS
        )
        return stream.compress(data) + stream.flush()
    if compressor == Compressor.NONE:
        return bytes(data)
    raise FormatError(f"unknown compressor {compressor}")


def compress_zstd(data: Data, how: ZstdEffort) -> bytes:
    """`data` as one frame, at a level or with a search of the caller's."""
    found = _state.compressors.get(how)
    if found is None:
        found = _state.compressors[how] = _zstd_compressor(how)
    return found.compress(data)


def decompress(compressor: int, data: Data, size: int, where: str = "") -> bytes:
    """The `size` bytes that `data` holds; FormatError, at `where`, if it holds anything else."""
    if compressor == Compressor.ZSTD:
        result = _decompress_zstd(data, size, where)
    elif compressor == Compressor.LZ4_BLOCK:
        result = _decompress_lz4(data, size, where)
    elif compressor == Compressor.GZIP:
        result = _decompress_gzip(data, size, where)
    elif compressor == Compressor.NONE:
        result = bytes(data)
    else:
        raise FormatError(f"unknown compressor {compressor}", where)
    if len(result) != size:
        raise FormatError(f"compressed data holds {len(result)} bytes, expected {size}", where)
    return result


def decompress_gzip_start(data: Data, size: int, where: str = "") -> bytes:
    """The first `size` bytes of a gzip member, whatever follows them.

    Chunks of eStargz layers, as Nydus refers to them, reach to the next chunk: behind the
    content are padding and tar headers.
    """
    stream = isal_zlib.decompressobj(wbits=_GZIP_WINDOW_BITS)
    try:
        result = bytes(stream.decompress(data, size)) if size else b""
    except GZIP_ERROR as error:
        raise FormatError(f"gzip data does not decode: {error}", where) from error
    if len(result) != size:
        raise FormatError(f"gzip data holds {len(result)} bytes, expected {size}", where)
    return result


def decompress_frames(data: Data, size: int, where: str = "") -> bytes:
    """The first `size` bytes of zstd frames that follow each other, some of them skippable."""
    if size == 0:
        return b""
    try:
        stream = _state.of_layers.stream_reader(data, read_across_frames=True)
        result = stream.read(size)
    except zstandard.ZstdError as error:
        raise FormatError(f"zstd data does not decode: {error}", where) from error
    if len(result) != size:
        raise FormatError(f"zstd frames hold {len(result)} bytes, expected {size}", where)
    return result


def decompress_zstd_pieces(data: Data, size: int, where: str = "") -> Iterator[bytes]:
    """As `decompress`, for one zstd frame that may be large: a piece at a time."""
    left = size
    try:
        stream = _state.decompressor.stream_reader(data)
        while piece := stream.read(min(_PIECE, left + 1)):
            left -= len(piece)
            if left < 0:
                break
            yield piece
    except zstandard.ZstdError as error:
        raise FormatError(f"zstd data does not decode: {error}", where) from error
    if left:
        raise FormatError(f"zstd frame holds other than the {size} bytes expected", where)


def digest(digester: int, data: Data) -> bytes:
    """The 32-byte digest of uncompressed chunk data."""
    if digester == Digester.BLAKE3:
        return bytes(blake3(data).digest())
    if digester == Digester.SHA256:
        return hashlib.sha256(data).digest()
    raise FormatError(f"unknown digest algorithm {digester}")


def _zstd_compressor(how: ZstdEffort) -> zstandard.ZstdCompressor:
    if isinstance(how, int):
        return zstandard.ZstdCompressor(how, write_content_size=True, write_checksum=False)
    parameters = zstandard.ZstdCompressionParameters(
        **how._asdict(), write_content_size=True, write_checksum=False
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def _decompress_zstd(data: Data, size: int, where: str) -> bytes:
    try:
        # The library allocates what the frame header claims, so that is looked at first.
        claimed = zstandard.frame_content_size(data)
        if claimed not in (size, -1):
            raise FormatError(f"zstd frame claims {claimed} bytes, expected {size}", where)
        if size == 0:
            return b""
        return _state.decompressor.decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"zstd data does not decode: {error}", where) from error


def _decompress_lz4(data: Data, size: int, where: str) -> bytes:
    try:
        return bytes(lz4.block.decompress(data, uncompressed_size=size))
    except lz4.block.LZ4BlockError as error:
        raise FormatError(f"lz4 data does not decode: {error}", where) from error


def _decompress_gzip(data: Data, size: int, where: str) -> bytes:
    stream = isal_zlib.decompressobj(wbits=_GZIP_WINDOW_BITS)
    try:
        # One byte more than expected shows data that is too long, at no cost.
        result = bytes(stream.decompress(data, size + 1))
    except GZIP_ERROR as error:
        raise FormatError(f"gzip data does not decode: {error}", where) from error
    if len(result) <= size and not stream.eof:
        raise FormatError("gzip data is cut short", where)
    if stream.unused_data:
        raise FormatError("gzip data is followed by something else", where)
    return result
