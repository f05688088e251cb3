"""Pieces of a blob that hold several chunks: batches, and slices of a gzip file.

A chunk of such a piece says in its chunk information which piece it is of and at what
offset in the decoded piece it lies. The pieces' own records, 40 bytes each, follow
the entries in the chunk information array; behind zran's come the dictionaries.
See docs/format.md, "Contexts".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import NamedTuple, TypeVar, overload

from fs.format.blobmeta import CONTEXT_SIZE, BlobMetaHeader
from fs.format.buffer import Buffer
from fs.format.errors import FormatError

_BATCH = Struct("<2I32x")
_ZRAN = Struct("<3Q3I2B2x")
assert _ZRAN.size == _BATCH.size == CONTEXT_SIZE

#: What one piece may decode to; Nydus's daemon takes no more.
MAX_PIECE = 16 << 20
#: As far back as deflate can refer.
DICTIONARY_SIZE = 32 << 10

_Context = TypeVar("_Context")


class BatchContext(NamedTuple):
    """Small chunks that were compressed as one, one behind the other without padding.

    It begins where each of its chunks says that it is stored. Equal sizes: stored as it is.
    """

    compressed_size: int
    uncompressed_size: int

    def pack(self) -> bytes:
        return _BATCH.pack(*self)


class ZranContext(NamedTuple):
    """Where a gzip file can be entered, and a slice from there on.

    `in_*` locate the slice in the gzip file, `out_*` in its content, `dict_*` its
    dictionary (the content before it) among all dictionaries. The slice begins with the
    `bits` highest bits of `byte`, which is the last one before `in_offset`; without `bits`
    it begins with a whole byte.
    """

    in_offset: int
    out_offset: int
    dict_offset: int
    in_length: int
    out_length: int
    dict_size: int
    byte: int
    bits: int

    def pack(self) -> bytes:
        return _ZRAN.pack(*self)


def pack_batches(contexts: Iterable[BatchContext]) -> bytes:
    """What follows the entries of a blob with batches."""
    return b"".join([context.pack() for context in contexts])


def pack_slices(contexts: Sequence[ZranContext], dictionaries: Iterable[bytes]) -> bytes:
    """What follows the entries of a blob that refers into a gzip file.

    `dictionaries` are one for each context, and give it its `dict_offset` and `dict_size`.
    """
    records, content = bytearray(), bytearray()
    for context, dictionary in zip(contexts, dictionaries, strict=True):
        located = context._replace(dict_offset=len(content), dict_size=len(dictionary))
        records += located.pack()
        content += dictionary
    return bytes(records + content)


class _Contexts(Sequence[_Context]):
    """The contexts in an array, each unpacked when it is asked for: there may be millions."""

    def __init__(
        self, make: Callable[..., _Context], record: Struct, array: Buffer, header: BlobMetaHeader,
        where: str,
    ) -> None:  # fmt: skip
        start, count = header.contexts_offset, header.contexts_count
        end = start + count * record.size
        if end > len(array) or count * record.size > header.contexts_size:
            raise FormatError(f"{count} contexts reach past the end", where)
        self._make = make
        self._record = record
        self._view = memoryview(array)[start:end]

    def __len__(self) -> int:
        return len(self._view) // self._record.size

    @overload
    def __getitem__(self, index: int) -> _Context: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[_Context]: ...

    def __getitem__(self, index: int | slice) -> _Context | Sequence[_Context]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._make(*self._record.unpack_from(self._view, place * self._record.size))


def batch_contexts(array: Buffer, header: BlobMetaHeader, where: str) -> Sequence[BatchContext]:
    """The batches of a blob, from its uncompressed chunk information array, which must stay."""
    return _Contexts(BatchContext, _BATCH, array, header, where)


def zran_contexts(array: Buffer, header: BlobMetaHeader, where: str) -> Sequence[ZranContext]:
    """The slices of a blob that refers into a gzip file."""
    return _Contexts(ZranContext, _ZRAN, array, header, where)


def dictionaries(array: Buffer, header: BlobMetaHeader) -> memoryview:
    """All dictionaries; `dict_offset` counts from its start."""
    start = header.contexts_offset + header.contexts_count * CONTEXT_SIZE
    return memoryview(array)[start : header.contexts_offset + header.contexts_size]
