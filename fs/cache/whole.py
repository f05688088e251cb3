"""Decoded blobs that are all on local disk, known without reading a chunk table.

Mounting must not cost what an image has in chunks. So once a blob's file was
found to hold all that an image's table says, the file itself says so, in an
extended attribute named for the image. The attribute is set after the bytes
were synced, and is gone with the file; a file that lost bytes is never left
under its name (see `BlobCache.whole_file`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from contextlib import suppress

from fs.format import chunkmap, codec
from fs.format.blobtable import BlobRecord, Digester
from fs.format.errors import FormatError

_ATTRIBUTE = "user.nydus-fs.whole."


def bootstrap_key(bootstrap: str) -> str:
    """The name of an image in the mark, of a bootstrap about which nothing is known: its digest.

    It costs a pass over the file.
    """
    with open(bootstrap, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise FormatError("empty file", bootstrap)
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with content, memoryview(content) as view:
        return "file-" + codec.digest(Digester.BLAKE3, view)[:20].hex()


def layer_key(digest: str) -> str:
    """The same for the bootstrap that was taken from the layer with this sha256, and verified."""
    return "layer-" + digest[:40]


def mark(path: str, image: str, blob: BlobRecord) -> None:
    """Note that the file holds the whole of the image's blob. Not every file system can."""
    with suppress(OSError):
        os.setxattr(path, f"{_ATTRIBUTE}{image}.{blob.index}", b"1", follow_symlinks=False)


def open_marked(path: str, image: str, blob: BlobRecord) -> int | None:
    """The opened file if it is marked as the whole of the image's blob, else None.

    It is locked as a user's, so as long as it is open nobody takes it for unused.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        found = os.fstat(descriptor)
        os.getxattr(descriptor, f"{_ATTRIBUTE}{image}.{blob.index}")
        if stat.S_ISREG(found.st_mode) and found.st_size >= blob.uncompressed_size:
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def may_be_whole(path: str, blob: BlobRecord) -> bool:
    """Whether the chunk map beside the file has all bits, so that a closer look is worth it."""
    return count_here(path, blob) >= blob.chunk_count


def count_here(path: str, blob: BlobRecord) -> int:
    """Chunks of a blob that the map beside the file says are here; none without a good map."""
    try:
        with open(path + ".chunk_map", "rb") as file:
            content = file.read(chunkmap.file_size(blob.chunk_count))
        chunkmap.unpack_header(content, blob.chunk_count, path)
    except (OSError, FormatError):
        return 0
    return chunkmap.count_ready(content)
