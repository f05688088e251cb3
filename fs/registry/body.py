"""What a writer is given as a blob's content, read as verified pieces."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fs.format.errors import UnreachableError, local_errors
from fs.registry.descriptor import Descriptor
from fs.registry.digest import VerifiedStream
from fs.registry.places import Body, Progress

PIECE = 1 << 20


class BlobBody:
    """A blob's content, once from its start or, where it can seek, as often as needed."""

    def __init__(self, body: Body, descriptor: Descriptor, where: str) -> None:
        self._body = body
        self._descriptor = descriptor
        self._where = where
        self._start = -1
        self._used = False
        if not isinstance(body, bytes | Path) and not callable(body) and body.seekable():
            self._start = body.tell()

    def pieces(self, progress: Progress | None = None) -> Iterator[bytes]:
        """The content; VerifyError instead of its last piece if it is not the promised one.

        UnreachableError if it has to be read again and cannot: what needs it again is a
        broken link.
        """
        with self._stream() as stream:
            while piece := stream.read(PIECE):
                yield piece
                if progress:
                    progress(len(piece))

    def _stream(self) -> VerifiedStream:
        source, owns = self._open()
        return VerifiedStream(
            source, self._descriptor.digest, self._descriptor.size, self._where, owns=owns
        )

    def _open(self) -> tuple[BinaryIO, bool]:
        body, again = self._body, self._used
        self._used = True
        if isinstance(body, bytes):
            return io.BytesIO(body), True
        if isinstance(body, Path):
            with local_errors(str(body)):
                return body.open("rb"), True
        if callable(body):
            return body(), True
        if again and self._start < 0:
            raise UnreachableError(
                f"{self._where}: sending {self._descriptor.digest} broke off, "
                "and its source cannot be read again"
            )
        if again:
            with local_errors(self._where):
                body.seek(self._start)
        return body, False
