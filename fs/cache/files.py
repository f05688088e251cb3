"""The files of one cached blob: decoded data, chunk map, and how far both can be trusted.

    <id>.blob.data             decoded, sparse; a chunk lies at its decoded offset
    <id>.blob.data.chunk_map   one bit a chunk: its bytes are all in .blob.data
    <id>.chunk_map             the same file, by the name that older releases of nydusd use
    <id>.blob.chunks           whose bytes each bit stands for (claims.py)
    <id>.blob.state            whether the last user ended well (state.py)

The first three have nydusd's own shape. Invariant: a bit is set only after the
bytes of its chunk were verified and written, and cleared before they are taken
back; bytes and bits are added under a shared lock and taken back under an
exclusive one. So processes may share a blob without asking each other: they
write the same bytes to the same places, and a bit that two of them race for is
at worst lost, which costs a second fetch.

After a machine's death every chunk is `suspect` until its digest is checked again.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress

from fs.cache.claims import Claims
from fs.cache.locks import alone, changing, open_file, try_lock
from fs.cache.state import read_state, write_state
from fs.format import chunkmap
from fs.format.blobtable import BlobRecord
from fs.format.chunktable import ChunkTable
from fs.format.errors import FormatError, StorageError

#: A disk that will not take more; the chunk is then served from memory.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
#: So many descriptions of one blob that contradict each other are shared.
_DESCRIPTIONS = 8
#: Bytes of the disk (or a sixteenth of a small one) that a cache leaves to others.
_LEFT_FREE = 16 << 20


class BlobFiles:
    """Open files of one blob. Methods are for the trio thread, unless they say otherwise."""

    def __init__(
        self, directory: str, name: str, blob: BlobRecord, table: ChunkTable, digester: int
    ) -> None:
        """Open or make the files under `directory`; StorageError when that cannot be.

        `name` is the blob id as a file name. An image that contradicts those that
        have chunks here gets the files of the first subdirectory that it agrees with.
        """
        self._directory = directory
        self._chunk_count = blob.chunk_count
        self._claimed = len(table)
        self._suspects: bytearray | None = None
        self._marking = threading.Lock()
        try:
            with alone(directory):
                for number in range(_DESCRIPTIONS):
                    if self._open(_prefix(directory, name, number), blob, table, digester):
                        return
        except OSError as error:
            raise StorageError(f"cache {directory}: {error.strerror}") from error
        raise StorageError(f"cache {directory}: too many images contradict each other on {name}")

    def _open(self, prefix: str, blob: BlobRecord, table: ChunkTable, digester: int) -> bool:
        """False, and nothing is changed, when these files belong to a contradiction."""
        with ExitStack() as undo:
            data = open_file(prefix + ".data")
            undo.callback(os.close, data)
            sole = try_lock(data)
            claims = Claims.open(prefix + ".chunks", blob.chunk_count, digester, table, sole=sole)
            if claims is None:
                return False
            undo.callback(claims.close)
            with changing(claims.descriptor, back=True):
                if claims.fresh:
                    _link(_other_map(prefix), prefix + ".data.chunk_map")
                bits = _open_map(prefix + ".data.chunk_map", blob.chunk_count, sole=sole)
                undo.callback(bits.close)
                if not claims.agree(table, bits, sole=sole):
                    return False
                self._prefix, self._data, self._claims, self._map = prefix, data, claims, bits
                if sole:
                    self._recover()
                    write_state(prefix, clean=False)
                    _name_twice(prefix)
            if os.fstat(data).st_size < blob.uncompressed_size:
                os.ftruncate(data, blob.uncompressed_size)
            fcntl.flock(data, fcntl.LOCK_SH)
            undo.pop_all()
        return True

    def _recover(self) -> None:
        """Decide what to believe of files that nobody else has open."""
        self._claims.end_taking_back()
        state = read_state(self._prefix)
        known = not self._claims.fresh and os.fstat(self._data).st_size > 0
        if known and state is not None and state.is_trustworthy():
            return
        if chunkmap.count_ready(self._map):
            self._suspects = bytearray(self._map)
            self._map[:] = bytes(chunkmap.new_map(self._chunk_count))

    def has(self, position: int) -> bool:
        """Whether chunk `position` is here; what is read then counts only under one stamp."""
        byte, mask = chunkmap.bit(position)
        return self._map[byte] & mask != 0

    def stamp(self) -> int:
        """To be read before `has`, and given to `read_now`."""
        return self._claims.stamp()

    def use(self, position: int) -> None:
        """Remember that the chunk is being read."""
        self._claims.use(position)

    def is_suspect(self, position: int) -> bool:
        """Whether chunk `position` may be here, but must be verified before it is served."""
        if self._suspects is None:
            return False
        byte, mask = chunkmap.bit(position)
        return self._suspects[byte] & mask != 0

    def count(self) -> int:
        """How many chunks are here, of all images that share these files."""
        return chunkmap.count_ready(self._map)

    def store(self, position: int, offset: int, data: bytes) -> bool:
        """Put a verified chunk in its place; False when the disk does not take it. Any thread."""
        try:
            if _free_after(self._data, len(data)) < 0:
                return False
            with changing(self._claims.descriptor, back=False):
                _write(self._data, offset, data)
                self._set(position)
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise StorageError(f"{self._prefix}.data: {error.strerror}") from error
        return True

    def suspected(self, offset: int, length: int) -> bytes | None:
        """Bytes of a suspect chunk, which its caller verifies. Any thread."""
        return self._pread(offset, length)

    def believe(self, position: int) -> None:
        """The suspect chunk was verified. Any thread."""
        with changing(self._claims.descriptor, back=False):
            self._set(position)

    def _set(self, position: int) -> None:
        byte, mask = chunkmap.bit(position)
        self._claims.use(position)
        with self._marking:
            self._map[byte] |= mask
        self._clear_suspicion(position)

    def drop(self, position: int) -> None:
        """The chunk is not here, and no suspect any more. Any thread."""
        byte, mask = chunkmap.bit(position)
        if self._map[byte] & mask:
            with changing(self._claims.descriptor, back=True):
                unsettle(self._prefix, self._map)
                self._map[byte] &= ~mask & 0xFF
                if self._claims.is_frozen():
                    _unlink(self.data_path)
        self._clear_suspicion(position)

    def _clear_suspicion(self, position: int) -> None:
        if self._suspects is not None:
            byte, mask = chunkmap.bit(position)
            with self._marking:
                self._suspects[byte] &= ~mask & 0xFF

    def read_now(
        self, offset: int, length: int, stamp: int, buffer: memoryview | None
    ) -> memoryview | None:
        """The bytes, in `buffer` if given, if memory has all and nothing was taken back since
        `stamp`.

        None when the disk would have to be asked, or `read` to be waited for.
        """
        target = memoryview(bytearray(length)) if buffer is None else buffer[:length]
        try:
            got = os.preadv(self._data, (target,), offset, os.RWF_NOWAIT)
        except OSError:
            return None
        return target if got == length and stamp == self._claims.stamp() and not stamp & 1 else None

    def read(self, positions: list[int], offset: int, length: int) -> bytes | None:
        """The bytes, from disk if need be, all of them in chunks `positions`. Any thread.

        None when a chunk was taken back, or the disk does not give it: then it is dropped.
        """
        with changing(self._claims.descriptor, back=False):
            self._claims.end_taking_back()
            if not all(self.has(position) for position in positions):
                return None
            data = self._pread(offset, length)
        if data is None:
            for position in positions:
                self.drop(position)
        return data

    def _pread(self, offset: int, length: int) -> bytes | None:
        try:
            data = os.pread(self._data, length, offset)
        except OSError:
            return None
        return data if len(data) == length else None

    @property
    def data_path(self) -> str:
        return self._prefix + ".data"

    def has_data(self, start: int, end: int) -> bool:
        """Whether anything was ever written to [start, end) of the decoded file."""
        try:
            return os.lseek(self._data, start, os.SEEK_DATA) < end
        except OSError as error:
            return error.errno != errno.ENXIO

    def freeze(self, positions: Sequence[int]) -> bool:
        """Make the data lasting and unchanging, if these chunks are here and all that is claimed.

        From then on nothing is evicted but the whole file, by unlinking, and no
        other image can add chunks. Any thread; StorageError.
        """
        try:
            with changing(self._claims.descriptor, back=True):
                claimed = len(self._claims.claimed(self._claims.columns()))
                if claimed != len(positions) or not all(map(self.has, positions)):
                    return False
                os.fdatasync(self._data)
                self._claims.freeze()
                self._claims.sync()
        except OSError as error:
            raise StorageError(f"{self._prefix}.data: {error.strerror}") from error
        return True

    def settle(self) -> None:
        """When every chunk is here: make it last, and say so. Any thread; StorageError."""
        try:
            with alone(self._directory):
                self._finish(whole=True)
        except OSError as error:
            raise StorageError(f"{self._prefix}.data: {error.strerror}") from error

    def close(self, *, lasting: bool = True) -> None:
        """Write everything back, if it is to last, and, as the last user, say so in the state."""
        try:
            if lasting:
                os.fdatasync(self._data)
                with alone(self._directory):
                    if try_lock(self._data):
                        self._finish(whole=False)
        except OSError as error:
            raise StorageError(f"{self._prefix}.data: {error.strerror}") from error
        finally:
            self._map.close()
            self._claims.close()
            os.close(self._data)

    def _finish(self, *, whole: bool) -> None:
        """Say that all was synced; with `whole`, only if nothing can be added."""
        with changing(self._claims.descriptor, back=True):
            if self.count() == self._chunk_count:
                header = chunkmap.ChunkMapHeader(all_ready=True).pack()
                self._map[: len(header)] = header
            elif whole:
                return
            os.fdatasync(self._data)
            self._claims.sync()
            self._map.flush()
            write_state(self._prefix, clean=True)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def unsettle(prefix: str, bits: mmap.mmap) -> None:
    """Before bits are cleared: what comes in their place is not synced yet, nor is all ready."""
    state = read_state(prefix)
    if state is None or state.clean:
        write_state(prefix, clean=False)
    header = chunkmap.ChunkMapHeader().pack()
    bits[: len(header)] = header


def _prefix(directory: str, name: str, number: int) -> str:
    if number:
        directory = os.path.join(directory, f"other-{number}")
        os.makedirs(directory, mode=0o700, exist_ok=True)
    return os.path.join(directory, name + ".blob")


def _write(descriptor: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _free_after(descriptor: int, size: int) -> int:
    """Bytes beyond what is left to others on the disk: a cache must not stop them."""
    disk = os.fstatvfs(descriptor)
    kept = min(_LEFT_FREE, disk.f_blocks * disk.f_frsize // 16)
    return disk.f_bavail * disk.f_frsize - size - kept


def _other_map(prefix: str) -> str:
    return prefix.removesuffix(".blob") + ".chunk_map"


def _name_twice(prefix: str) -> None:
    """Whatever name a release of nydusd knows, it must find the bits that we clear."""
    ours, theirs = prefix + ".data.chunk_map", _other_map(prefix)
    if os.path.exists(theirs) and not os.path.samefile(ours, theirs):
        os.unlink(theirs)
    _link(ours, theirs)


def _link(source: str, target: str) -> None:
    with suppress(OSError):
        os.link(source, target, follow_symlinks=False)


def _open_map(path: str, chunk_count: int, *, sole: bool) -> mmap.mmap:
    descriptor = open_file(path)
    try:
        size = chunkmap.file_size(chunk_count)
        content = os.pread(descriptor, size + 1, 0)
        if not _is_map(content, chunk_count):
            if not sole:
                raise OSError(errno.EBUSY, "a chunk map in use has another size")
            # Never cut short what another process may have mapped.
            os.unlink(path)
            os.close(descriptor)
            descriptor = open_file(path)
            os.pwrite(descriptor, chunkmap.new_map(chunk_count), 0)
        # Without blocks of its own, a full disk would turn setting a bit into SIGBUS.
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def _is_map(content: bytes, chunk_count: int) -> bool:
    try:
        chunkmap.unpack_header(content, chunk_count, "")
    except FormatError:
        return False
    return True
