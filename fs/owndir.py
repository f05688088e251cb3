"""Directories whose files are believed without further checks, so nobody else may write there."""

from __future__ import annotations

import os
import stat

from fs.format.errors import AccessError, NotFoundError, local_errors


def make_own(path: str) -> None:
    """Make the directory `path` if it is missing, for this user alone.

    AccessError if it was there and another user owns it or can write in it.
    """
    with local_errors(path):
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
        except FileExistsError:
            raise NotFoundError(f"{path}: not a directory") from None
        found = os.stat(path)
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise AccessError(f"{path}: other users can write there, so it is not used")
