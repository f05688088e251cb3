"""Files that appear under their name when they are whole, and not before."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fs.format.errors import UsageError, local_errors


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to read and write, which takes the place of `path` if nothing is raised inside.

    UsageError if something else than a file is there: a rename would replace even /dev/null.
    """
    with local_errors(path):
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: is there, and no regular file")
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with local_errors(path), open(descriptor, "r+b", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        with local_errors(path):
            os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
