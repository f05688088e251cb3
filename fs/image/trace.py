"""What an image's users touched first, in order: the recipe of an image that starts faster.

A msgpack stream: one map (`Heading`), then an array for each first touch,

    [microseconds since the heading, blob index, decoded offset, length, nid]

where nid is 0 when the kernel read a whole blob's file and the file is not known.
Blocks of 4 KiB count, each once. A file that ends anywhere is good up to there, so
a killed worker costs the last moment only; its successor continues the same file.

A read pays for one dictionary lookup and a search for a zero byte; all else is
done when records are written, a moment later, in a thread.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, Protocol

import msgpack
import trio

from fs.format.bootstrap import Bootstrap
from fs.format.errors import Failure, FormatError, NotFoundError, StorageError
from fs.format.tree import HOLE
from fs.format.walk import paths

log = logging.getLogger(__name__)

FORMAT = "nydus-fs trace 1"
_BLOCK = 4096
_PART = 4096
#: Touches not yet written; more are dropped and counted.
_WAITING = 1 << 16
#: Touches of one trace.
_MOST = 4 << 20
#: How long touches gather before they are written (seconds).
_GATHER = 0.5
#: Largest file that is read back.
_LIMIT = 1 << 30
_FIELDS = 5
_FARTHEST = 1 << 62
_LONGEST = 64 << 20


class _Seen:
    """Which blocks of which files were met. Memory grows with what is met, not with sizes."""

    def __init__(self) -> None:
        self._parts: dict[tuple[int, int], bytearray] = {}

    def add(self, key: int, offset: int, length: int) -> bool:
        """Whether a block of the range is met for the first time; then all of it is."""
        block, end = offset // _BLOCK, -(-(offset + length) // _BLOCK)
        new = False
        while block < end:
            part, low = divmod(block, _PART)
            high = min(_PART, low + end - block)
            new = self._add(part, key, low, high) or new
            block += high - low
        return new

    def _add(self, part: int, key: int, low: int, high: int) -> bool:
        seen = self._parts.get((key, part))
        if seen is None:
            seen = self._parts[key, part] = bytearray()
        if high > len(seen):
            seen.extend(bytes(high - len(seen)))
        elif seen.find(0, low, high) < 0:
            return False
        seen[low:high] = b"\1" * (high - low)
        return True


class Heading(NamedTuple):
    """Of which image, and since when (seconds since 1970)."""

    source: str
    bootstrap: str
    manifest_digest: str | None
    blobs: list[str]
    started: float


class Touch(NamedTuple):
    """`at` in microseconds since the start; `nid` is 0 when the file is not known."""

    at: int
    blob_index: int
    offset: int
    length: int
    nid: int


class Traced(Protocol):
    """The part of an image that is used here."""

    bootstrap: Bootstrap


class Trace:
    """A trace being recorded. `touch` and `touch_flat` belong to one thread."""

    def __init__(self, file: BinaryIO, image: Traced, heading: Heading) -> None:
        self.path = file.name
        self.written = self.dropped = 0
        self.error: str | None = None
        self._file = file
        self._bootstrap = image.bootstrap
        self._started = time.monotonic() - max(0.0, time.time() - heading.started)
        self._seen = _Seen()
        self._waiting: list[tuple[float, int, int, int]] = []
        self._some = trio.Event()

    @classmethod
    def begin(
        cls, path: str, image: Traced, source: str, bootstrap: str, manifest_digest: str | None
    ) -> Trace:
        """Make `path`, or continue it if it is this image's. Blocking; StorageError."""
        blobs = [blob.blob_id for blob in image.bootstrap.blobs]
        heading = Heading(source, bootstrap, manifest_digest, blobs, time.time())
        try:
            file = open(path, "a+b", buffering=0, opener=_private)  # noqa: SIM115
            try:
                return cls._on(file, image, heading)
            except BaseException:
                file.close()
                raise
        except OSError as error:
            raise StorageError(f"trace {path}: {error.strerror}") from error

    @classmethod
    def _on(cls, file: io.FileIO, image: Traced, heading: Heading) -> Trace:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FormatError("not a regular file", str(file.name))
        file.seek(0)
        found = file.read(_LIMIT)
        if not found:
            file.write(msgpack.packb({"format": FORMAT} | heading._asdict()))
            return cls(file, image, heading)
        before, touches, whole = _read(found, str(file.name))
        if (before.source, before.blobs) != (heading.source, heading.blobs):
            raise FormatError("is a trace of another image", str(file.name))
        file.truncate(whole)
        trace = cls(file, image, before)
        trace.written = len(touches)
        return trace

    def touch(self, nid: int, offset: int, length: int) -> None:
        """A read of a file."""
        if self._seen.add(nid, offset, length):
            self._note(nid, offset, length)

    def touch_flat(self, blob_index: int, offset: int, length: int) -> None:
        """A read of a blob's own file."""
        if self._seen.add(-1 - blob_index, offset, length):
            self._note(-1 - blob_index, offset, length)

    def _note(self, key: int, offset: int, length: int) -> None:
        if len(self._waiting) >= _WAITING or self.written >= _MOST:
            self.dropped += 1
            return
        self._waiting.append((time.monotonic(), key, offset, length))
        self._some.set()

    async def run(self) -> None:
        """Write what gathers; sleeps for ever when nothing is touched. Ends by cancellation."""
        while True:
            await self._some.wait()
            self._some = trio.Event()
            await trio.sleep(_GATHER)
            waiting, self._waiting = self._waiting, []
            with trio.CancelScope(shield=True):  # what was taken must be written
                await trio.to_thread.run_sync(self._write, waiting)

    def close(self) -> None:
        """Write the rest. `run` must have ended."""
        if not self._file.closed:
            self._write(self._waiting)
            self._waiting = []
            self._file.close()

    def status(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "touches": self.written + len(self._waiting),
            "dropped": self.dropped,
            "error": self.error,
        }

    def _write(self, waiting: list[tuple[float, int, int, int]]) -> None:
        """A disk that takes no more ends the trace, not the reads."""
        if self.error is not None:
            return
        touches = [touch for each in waiting for touch in self._touches(*each)]
        packer = msgpack.Packer()
        data = memoryview(b"".join([packer.pack(list(touch)) for touch in touches]))
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            self.error = str(error.strerror)
            log.warning("trace %s ends: %s", self.path, self.error)
            return
        self.written += len(touches)

    def _touches(self, when: float, key: int, offset: int, length: int) -> Iterator[Touch]:
        at = max(0, int((when - self._started) * 1e6))
        if key < 0:
            yield Touch(at, -1 - key, offset, length, 0)
            return
        try:
            extents = self._bootstrap.extents(key, offset, length)
        except Failure:
            return  # the reader has heard of it
        for extent in extents:
            if extent.blob_index != HOLE:
                yield Touch(at, extent.blob_index, extent.blob_offset, extent.length, key)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def read_trace(path: str) -> tuple[Heading, list[Touch]]:
    """A trace file as far as it is whole, each block once however many workers recorded it.

    NotFoundError, FormatError, StorageError.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_LIMIT)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    heading, touches, _ = _read(content, path)
    seen: dict[int, _Seen] = {}
    first = [
        touch
        for touch in touches
        if seen.setdefault(touch.nid, _Seen()).add(touch.blob_index, touch.offset, touch.length)
    ]
    return heading, first


def _read(content: bytes, where: str) -> tuple[Heading, list[Touch], int]:
    """Heading, touches, and how many bytes of `content` those are."""
    unpacker = msgpack.Unpacker(strict_map_key=True, max_buffer_size=_LIMIT)
    unpacker.feed(content)
    touches = []
    try:
        heading = _heading(next(unpacker, None), where)
        whole = unpacker.tell()
        for fields in unpacker:
            touches.append(_touch(fields, len(heading.blobs), where))
            whole = unpacker.tell()
    except (ValueError, msgpack.UnpackException) as error:
        raise FormatError(f"not a trace: {type(error).__name__}", where) from error
    return heading, touches, whole


def _heading(fields: object, where: str) -> Heading:
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise FormatError("not a trace", where)
    try:
        heading = Heading(*(fields[name] for name in Heading._fields))
    except KeyError as error:
        raise FormatError(f"no {error} in its heading", where) from None
    if not isinstance(heading.blobs, list) or not isinstance(heading.started, float):
        raise FormatError("a heading of other types", where)
    return heading


def _touch(fields: object, blobs: int, where: str) -> Touch:
    if (
        not isinstance(fields, list)
        or len(fields) != _FIELDS
        or not all(isinstance(field, int) and field >= 0 for field in fields)
        or fields[1] >= blobs
        or fields[2] > _FARTHEST
        or fields[3] > _LONGEST
    ):
        raise FormatError(f"not a touch: {fields!r:.60}", where)
    return Touch(*fields)


class Paths:
    """Which files lie where in an image, to name what was touched."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        """Visits the whole tree."""
        self._files: dict[int, bytes] = {}
        self._starts: list[tuple[int, int, int, int]] = []
        for path, inode in paths(bootstrap):
            if not stat.S_ISDIR(inode.mode) and inode.nid not in self._files:
                self._files[inode.nid] = b"/" + path
                self._place(bootstrap, inode.nid, inode.mode, inode.size)
        self._starts.sort()

    def _place(self, bootstrap: Bootstrap, nid: int, mode: int, size: int) -> None:
        if not stat.S_ISREG(mode):
            return
        for extent in bootstrap.extents(nid, 0, size):
            if extent.blob_index != HOLE:
                end = extent.blob_offset + extent.length
                self._starts.append((extent.blob_index, extent.blob_offset, end, nid))

    def of(self, touch: Touch) -> list[str]:
        """The file of a touch, or all that share its bytes when the kernel read the blob."""
        if touch.nid:
            nids = [touch.nid]
        else:
            nids = self._in(touch.blob_index, touch.offset, touch.offset + touch.length)
        return [os.fsdecode(self._files[nid]) for nid in nids if nid in self._files]

    def _in(self, blob_index: int, start: int, end: int) -> list[int]:
        from bisect import bisect_left

        last = bisect_left(self._starts, (blob_index, end, 0, 0))
        found = []
        for index in range(last - 1, -1, -1):
            blob, _, stop, nid = self._starts[index]
            if blob != blob_index or stop <= start:
                break
            found.append(nid)
        return found[::-1]
