"""The files of one cached blob: decoded data, chunk map, and how far both can be trusted.

    <id>.blob.data             decoded, sparse; a chunk lies at its decoded offset
    <id>.blob.data.chunk_map   one bit a chunk: its bytes are all in .blob.data
    <id>.blob.state            whose chunks these are, and whether the last user ended well

The first two have nydusd's own shape. Invariant: a bit is set only after the
bytes of its chunk were verified and written. So processes may share a blob
without asking each other: they write the same bytes to the same places, and a
bit that two of them race for is at worst lost, which costs a second fetch.

What a dead process wrote stays true, for the page cache outlives it. What a
dead machine wrote may be torn; so the state names the boot, and after another
boot without a clean end every chunk is `suspect` until its digest is checked again.
A blob's files belong to one chunk table: another image that describes the same
blob otherwise has files of its own, so no image can put bytes under another.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fs.format import chunkmap
from fs.format.blobtable import BlobRecord
from fs.format.chunktable import ChunkTable
from fs.format.errors import FormatError, StorageError

#: A disk that will not take more; the chunk is then served from memory.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def fingerprint(table: ChunkTable, digester: int) -> str:
    """What makes two descriptions of a blob's decoded bytes the same."""
    state = hashlib.sha256(bytes([digester]))
    for column in (table.positions, table.uncompressed_offsets, table.uncompressed_sizes):
        state.update(column)
    state.update(table.digests)
    return state.hexdigest()


class BlobFiles:
    """Open files of one blob. Methods are for one thread, but `write` and `read` for any."""

    def __init__(self, directory: str, name: str, blob: BlobRecord, owner: str) -> None:
        """Open or make the files under `directory`; StorageError when that cannot be.

        `name` is the blob id as a file name, `owner` the chunk table's fingerprint.
        """
        self._directory = directory
        self._owner = owner
        self._boot = _boot_id()
        self._chunk_count = blob.chunk_count
        self._suspects: bytearray | None = None
        try:
            with _alone(directory) as place:
                self._prefix = self._place(place, name)
                self._open(blob)
        except OSError as error:
            raise StorageError(f"cache {directory}: {error.strerror}") from error

    def _place(self, directory: str, name: str) -> str:
        prefix = os.path.join(directory, name + ".blob")
        state = _read_state(prefix)
        if state is None or state.get("owner") == self._owner:
            return prefix
        other = os.path.join(directory, self._owner[:32])
        os.makedirs(other, mode=0o700, exist_ok=True)
        return os.path.join(other, name + ".blob")

    def _open(self, blob: BlobRecord) -> None:
        self._data = _open_file(self._prefix + ".data")
        try:
            sole = _try_lock(self._data)
            self._map = self._open_map(blob.chunk_count, sole)
            if sole:
                self._recover()
                self._write_state(clean=False)
            if os.fstat(self._data).st_size < blob.uncompressed_size:
                os.ftruncate(self._data, blob.uncompressed_size)
            fcntl.flock(self._data, fcntl.LOCK_SH)
        except BaseException:
            os.close(self._data)
            raise

    def _open_map(self, chunk_count: int, sole: bool) -> mmap.mmap:
        descriptor = _open_file(self._prefix + ".data.chunk_map")
        try:
            size = chunkmap.file_size(chunk_count)
            content = os.pread(descriptor, size + 1, 0)
            if not _is_map(content, chunk_count):
                if not sole:
                    raise OSError(errno.EBUSY, "a chunk map in use has another size")
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, chunkmap.new_map(chunk_count), 0)
            # Without blocks of its own, a full disk would turn setting a bit into SIGBUS.
            os.posix_fallocate(descriptor, 0, size)
            return mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def _recover(self) -> None:
        """Decide what to believe of files that nobody else has open."""
        state = _read_state(self._prefix)
        if state is not None and (state.get("clean") or state.get("boot") == self._boot):
            return
        if chunkmap.count_ready(self._map):
            self._suspects = bytearray(self._map)
            self._map[:] = bytes(chunkmap.new_map(self._chunk_count))

    def has(self, position: int) -> bool:
        """Whether chunk `position` can be read from here."""
        byte, mask = chunkmap.bit(position)
        return self._map[byte] & mask != 0

    def is_suspect(self, position: int) -> bool:
        """Whether chunk `position` may be here, but must be verified before it is served."""
        if self._suspects is None:
            return False
        byte, mask = chunkmap.bit(position)
        return self._suspects[byte] & mask != 0

    def mark(self, position: int, *, here: bool) -> None:
        """Note that the verified chunk is here, or that it is not (and no suspect any more)."""
        byte, mask = chunkmap.bit(position)
        if here:
            self._map[byte] |= mask
        else:
            self._map[byte] &= ~mask & 0xFF
        if self._suspects is not None:
            self._suspects[byte] &= ~mask & 0xFF

    def count(self) -> int:
        """How many chunks are here."""
        return chunkmap.count_ready(self._map)

    def write(self, offset: int, data: bytes) -> bool:
        """Put decoded bytes in their place; False when the disk does not take them."""
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._data, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise StorageError(f"{self._prefix}.data: {error.strerror}") from error
        return True

    def read_now(self, offset: int, length: int) -> bytearray | None:
        """The bytes if memory has them all; None when the disk would have to be asked."""
        buffer = bytearray(length)
        try:
            got = os.preadv(self._data, [buffer], offset, os.RWF_NOWAIT)
        except OSError:
            return None
        return buffer if got == length else None

    def read(self, offset: int, length: int) -> bytes | None:
        """The bytes, from disk if need be; None when the disk does not give them all."""
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

    def sync(self) -> None:
        """Have all decoded bytes on disk; StorageError when it does not take them."""
        try:
            os.fdatasync(self._data)
        except OSError as error:
            raise StorageError(f"{self._prefix}.data: {error.strerror}") from error

    def close(self) -> None:
        """Write everything back and, as the last user, say so in the state."""
        try:
            os.fdatasync(self._data)
            with _alone(self._directory):
                if _try_lock(self._data):
                    self._finish()
        except OSError as error:
            raise StorageError(f"{self._prefix}.data: {error.strerror}") from error
        finally:
            self._map.close()
            os.close(self._data)

    def settle(self) -> None:
        """When every chunk is here: make it last, and say so. Any thread; StorageError."""
        try:
            with _alone(self._directory):
                if self.count() == self._chunk_count:
                    self._finish()
        except OSError as error:
            raise StorageError(f"{self._prefix}.data: {error.strerror}") from error

    def _finish(self) -> None:
        os.fdatasync(self._data)
        if self.count() == self._chunk_count:
            header = chunkmap.ChunkMapHeader(all_ready=True).pack()
            self._map[: len(header)] = header
        self._map.flush()
        self._write_state(clean=True)

    def _write_state(self, *, clean: bool) -> None:
        state = {"owner": self._owner, "boot": self._boot, "clean": clean}
        temporary = self._prefix + ".state.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, json.dumps(state).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, self._prefix + ".state")
        _sync_directory(os.path.dirname(self._prefix))


@contextmanager
def _alone(directory: str) -> Iterator[str]:
    """Hold the directory's lock, for the short time in which files are opened or closed."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(descriptor)


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Whether no other process has the file open: users hold a shared lock on it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_file(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _is_map(content: bytes, chunk_count: int) -> bool:
    try:
        chunkmap.unpack_header(content, chunk_count, "")
    except FormatError:
        return False
    return True


def _read_state(prefix: str) -> dict[str, Any] | None:
    try:
        with open(prefix + ".state", "rb") as file:
            state = json.load(file)
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _boot_id() -> str:
    with open(_BOOT_ID) as file:
        return file.read().strip()
