"""Which files a recorded run has read: a trace's touches as paths of its image."""

from __future__ import annotations

import os

from fs.format.bootstrap import Bootstrap
from fs.format.errors import UsageError
from fs.image.trace import Paths, read_trace


def touched_files(bootstrap: Bootstrap, trace: str) -> set[bytes]:
    """Paths (the first name of each inode, as walk finds it) without a leading slash.

    UsageError if the trace is of another image. Where the kernel read a whole blob's file,
    every file that has some of the bytes counts.
    """
    heading, touches = read_trace(trace)
    if heading.blobs != [blob.blob_id for blob in bootstrap.blobs]:
        raise UsageError(f"{trace}: is a trace of another image ({heading.source})")
    paths = Paths(bootstrap)
    return {os.fsencode(name).lstrip(b"/") for touch in touches for name in paths.of(touch)}
