"""Content digests: their one grammar, and streams that check what they deliver.

A digest reaches a file name or a URL only after `check_digest`, so it can hold
nothing but an algorithm we know and lower-case hex: no separator, no dot, no
way out of a directory.
"""

from __future__ import annotations

import hashlib
import io
import re
from typing import BinaryIO

from fs.format.errors import FormatError, StorageError, VerifyError

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def check_digest(text: object, where: str) -> str:
    """`text` if it is a sha256 or sha512 digest in canonical form, else FormatError."""
    if isinstance(text, str) and is_digest(text):
        return text
    shown = f"{text[:80]!r}" if isinstance(text, str) else f"a {type(text).__name__}"
    raise FormatError(f"{shown} is not a sha256 or sha512 digest", where)


def split_digest(digest: str) -> tuple[str, str]:
    """Algorithm and hex of a digest; FormatError if it is none."""
    algorithm, _, encoded = check_digest(digest, "digest").partition(":")
    return algorithm, encoded


def digest_of(data: bytes | memoryview, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def check_bytes(data: bytes, digest: str, size: int, where: str) -> None:
    """VerifyError unless `data` has exactly this digest and size."""
    if len(data) != size:
        raise VerifyError(f"{where}: {digest} has {len(data)} bytes, {size} were promised")
    found = digest_of(data, split_digest(digest)[0])
    if found != digest:
        raise VerifyError(f"{where}: {digest} was promised, the bytes have {found}")


class VerifiedStream(io.RawIOBase):
    """A source's bytes, checked against `digest` and `size` on the way through.

    The check happens before the last piece is handed out: who has read `size`
    bytes, or the end, has read verified bytes. Who stops earlier has not.
    Closes the source with itself if it `owns` it.
    """

    def __init__(
        self, source: BinaryIO, digest: str, size: int, where: str, *, owns: bool = True
    ) -> None:
        self._source = source
        self._owns = owns
        self._digest = digest
        self._size = size
        self._where = where
        self._seen = 0
        self._hash = hashlib.new(split_digest(digest)[0])
        self._verified = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Fill `buffer`; VerifyError as soon as the bytes cannot be the promised ones."""
        if self._verified or not len(buffer):
            return 0
        piece = self._pull(min(len(buffer), self._size - self._seen))
        self._seen += len(piece)
        self._hash.update(piece)
        if self._seen == self._size:
            self._check_end()
        elif not piece:
            raise VerifyError(
                f"{self._where}: {self._digest} ends after {self._seen} of {self._size} bytes"
            )
        buffer[: len(piece)] = piece
        return len(piece)

    def _pull(self, length: int) -> bytes:
        try:
            return self._source.read(length)
        except OSError as error:
            raise StorageError(f"{self._where}: {self._digest}: {error.strerror}") from error

    def _check_end(self) -> None:
        if self._pull(1):
            raise VerifyError(f"{self._where}: {self._digest} is longer than {self._size} bytes")
        algorithm = self._digest.partition(":")[0]
        found = f"{algorithm}:{self._hash.hexdigest()}"
        if found != self._digest:
            raise VerifyError(f"{self._where}: {self._digest} was promised, the bytes have {found}")
        self._verified = True

    def close(self) -> None:
        if self._owns and not self.closed:
            self._source.close()
        super().close()


def verified(source: BinaryIO, digest: str, size: int, where: str) -> io.BufferedReader:
    """`source` behind a `VerifiedStream`, with the usual file methods."""
    return io.BufferedReader(VerifiedStream(source, digest, size, where), 128 << 10)
