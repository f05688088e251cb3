"""Temporary files of a run: one directory, gone when the run ends, however it ends."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fs.format.errors import local_errors

#: /tmp is often kept in memory; what is written here is as large as an image.
_DEFAULT = Path("/var/tmp")


@contextmanager
def workplace(parent: Path | None) -> Iterator[Path]:
    """A new directory in `parent`, else in /var/tmp."""
    base = parent or _DEFAULT
    with local_errors(base):
        base.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix="nydusify-", dir=base, ignore_cleanup_errors=True)
    with made as path:
        yield Path(path)
