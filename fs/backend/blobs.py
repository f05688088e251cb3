"""What a blob backend is: ranges of compressed blobs by name, and how it fails.

Bytes from a backend are not trusted: whoever reads verifies chunks by digest.
"""

from __future__ import annotations

import re
from typing import Protocol

from fs.format.errors import FormatError

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}\Z")
_HEX = re.compile(r"[0-9a-f]{64}\Z")


class BlobBackend(Protocol):
    """Blocking and thread-safe.

    `read` returns exactly `length` bytes or raises: NotFoundError (no such
    blob), AccessError (refused), VerifyError (the blob is shorter than that),
    UnreachableError (an outage: asking again later may help), StorageError.
    """

    def read(self, blob: str, offset: int, length: int) -> bytes: ...

    def close(self) -> None: ...


def checked_name(blob: str) -> str:
    """`blob` if it is fit to be a file name or a part of a URL; blob ids come from bootstraps."""
    if not _NAME.match(blob):
        raise FormatError("not a blob name that can be looked up", repr(blob))
    return blob


def checked_digest(blob: str) -> str:
    """`blob`, a sha256 in hex, as a digest of the registry."""
    if not _HEX.match(blob):
        raise FormatError("not a sha256 blob id", repr(blob))
    return f"sha256:{blob}"
