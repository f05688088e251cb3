"""Layers and how the kernel is asked to stack them.

`Layers` says what a snapshot consists of, `describe` puts it in the words of
containerd's mounts, and `mount_layers` mounts it here. The option string of
mount(2) ends at one page, some 120 layers; more go to the kernel one by one,
which it takes from Linux 6.8 on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from fs import mounts
from fs.format.errors import MountError, StorageError

OPAQUE = "trusted.overlay.opaque"
_PAGE = 4096


class Mount(NamedTuple):
    """containerd's description of a mount."""

    type: str
    source: str
    options: tuple[str, ...]


class Layers(NamedTuple):
    """Directories, `lowers` from top to bottom. Without `upper` nothing can be written.

    With an upper and no lowers it is that directory; a single lower without an
    upper is that directory read-only.
    """

    lowers: tuple[str, ...]
    upper: str | None = None
    work: str | None = None


def describe(layers: Layers) -> list[Mount]:
    """The mounts that show `layers`, as containerd takes them."""
    if layers.upper is not None and not layers.lowers:
        return [Mount("bind", layers.upper, ("rw", "rbind"))]
    if layers.upper is None and len(layers.lowers) == 1:
        return [Mount("bind", layers.lowers[0], ("ro", "rbind"))]
    return [Mount("overlay", "overlay", _options(layers))]


def _options(layers: Layers) -> tuple[str, ...]:
    options = ["index=off"]
    if layers.upper is not None and layers.work is not None:
        options += [f"workdir={_escape(layers.work)}", f"upperdir={_escape(layers.upper)}"]
    options.append("lowerdir=" + ":".join(_escape(path, ":") for path in layers.lowers))
    return tuple(options)


def _escape(path: str, also: str = "") -> str:
    for special in "\\," + also:
        path = path.replace(special, "\\" + special)
    return path


def mount_layers(
    layers: Layers, target: str, *, nodev: bool = False, volatile: bool = False
) -> None:
    """Mount at the directory `target`; `volatile` forgoes syncing, for what nobody will keep.

    Raises MountError; StorageError where the disk is the reason.
    """
    (description,) = describe(layers)
    try:
        if description.type == "bind":
            _mount_bind(description, target, nodev)
        else:
            _mount_overlay(layers, description.options, target, nodev, volatile)
    except OSError as error:
        kind = StorageError if error.errno in (errno.ENOSPC, errno.EROFS) else MountError
        raise kind(f"{target}: {error.strerror}") from None


@contextmanager
def opened_layers(layers: Layers, scratch: str) -> Iterator[int]:
    """The layers as an O_PATH descriptor of their root, mounted nowhere.

    `scratch` is an empty directory in which they are for a moment.
    """
    mount_layers(layers, scratch, nodev=True)
    try:
        root = os.open(scratch, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        mounts.umount(scratch, mounts.MNT_DETACH)
    try:
        yield root
    finally:
        os.close(root)


def _mount_bind(description: Mount, target: str, nodev: bool) -> None:
    attributes = mounts.MOUNT_ATTR_RDONLY if "ro" in description.options else 0
    attributes |= mounts.MOUNT_ATTR_NODEV if nodev else 0
    _attach(mounts.open_tree(description.source), attributes, target)


def _mount_overlay(
    layers: Layers, options: tuple[str, ...], target: str, nodev: bool, volatile: bool
) -> None:
    options += ("volatile",) if volatile and layers.upper is not None else ()
    data = ",".join(options)
    if len(os.fsencode(data)) < _PAGE:
        mounts.mount("overlay", target, "overlay", mounts.MS_NODEV if nodev else 0, data)
        return
    pairs = [
        (key, value or None)
        for key, _, value in (option.partition("=") for option in options)
        if key not in ("lowerdir", "upperdir", "workdir")
    ]
    pairs += [("lowerdir+", path) for path in layers.lowers]
    if layers.upper is not None:
        pairs += [("upperdir", layers.upper), ("workdir", layers.work)]
    _attach(mounts.new_mount("overlay", pairs), mounts.MOUNT_ATTR_NODEV if nodev else 0, target)


def _attach(mount: int, attributes: int, target: str) -> None:
    try:
        if attributes:
            mounts.set_mount_attributes(mount, attributes)
        directory = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mounts.move_mount(mount, directory)
        finally:
            os.close(directory)
    finally:
        os.close(mount)
