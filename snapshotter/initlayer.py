"""The Init layer: what a container needs to find and its image may lack.

It lies between the image and the writable layer, as a committed snapshot of
its own, and holds mount points and empty files only, so that the writable
layer has nothing but what the container wrote.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from fs import mounts, rootdir
from fs.format.errors import FormatError
from snapshotter.overlay import mount_layers
from snapshotter.store import Store


def make_init_layer(
    store: Store,
    name: str,
    parent: str,
    scratch: str,
    directories: Iterable[str],
    files: Iterable[str],
) -> None:
    """Commit the snapshot `name` on `parent` with these paths added where they are missing.

    `scratch` is an empty directory to mount on meanwhile. Paths are resolved
    inside the image, through its links. FormatError where the image is in the way.
    """
    key = f"{name}/new"
    store.prepare(key, parent)
    try:
        mount_layers(store.layers(key), scratch, nodev=True)
        try:
            _add(scratch, directories, files)
        finally:
            mounts.umount(scratch)
        store.commit(name, key)
    except BaseException:
        store.remove(key)
        raise


def _add(top: str, directories: Iterable[str], files: Iterable[str]) -> None:
    root = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in directories:
            os.close(rootdir.make_directory(root, path))
        for path in files:
            os.close(rootdir.make_file(root, path))
    except OSError as error:
        raise FormatError(f"cannot be made: {error.strerror}", f"{error.filename}") from None
    finally:
        os.close(root)
