"""Who mounts image layers: the store knows only the protocol.

An image layer is a directory that somebody else fills, read-only and lazily.
The store keeps its source, a text, and asks for it to be mounted when a
snapshot above is used and it is not there, and unmounted when it is removed.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Protocol

from fs import mounts
from fs.daemon import launch
from fs.format.errors import MountError, NotFoundError


class ImageMounter(Protocol):
    def mount(self, source: str, mountpoint: str) -> dict[str, Any] | None:
        """Mount, and return the image's configuration if the source has one.

        Raises a Failure; PlainImageError where only unpacking would help.
        """

    def check(self, mountpoint: str) -> bool:
        """Whether the mount is there and answers."""

    def unmount(self, mountpoint: str) -> None:
        """Unmount and wait until it is gone; nothing to do is no error. MountError when in use."""


class NydusImages:
    """Nydus images by the file system daemon. A source is what `nydus-fs mount` takes.

    `token` is what `launch.expect` returned, if the daemon was told before.
    """

    def __init__(self, options: launch.MountOptions | None = None, token: str = "") -> None:
        self._options = options or launch.MountOptions()
        self._token = token

    def mount(self, source: str, mountpoint: str) -> dict[str, Any] | None:
        return launch.mount(source, mountpoint, self._options, self._token).image_config

    def check(self, mountpoint: str) -> bool:
        if not launch.is_mounted(os.path.realpath(mountpoint)):
            return False
        try:
            os.stat(mountpoint)
        except OSError:  # ENOTCONN: the daemon is gone for good
            return False
        return True

    def unmount(self, mountpoint: str) -> None:
        try:
            launch.unmount(mountpoint, state_root=self._options.state_root)
        except NotFoundError:
            detach(mountpoint)
        except MountError:
            launch.unmount(mountpoint, lazy=True, state_root=self._options.state_root)


class DirectoryImages:
    """Plain directories shown read-only where the layer is wanted. A source is a path."""

    def mount(self, source: str, mountpoint: str) -> dict[str, Any] | None:
        if not os.path.isdir(source):
            raise NotFoundError(f"{source}: no such directory")
        try:
            mounts.mount(source, mountpoint, None, mounts.MS_BIND)
            flags = mounts.MS_BIND | mounts.MS_REMOUNT | mounts.MS_RDONLY
            mounts.mount(None, mountpoint, None, flags)
        except OSError as error:
            raise MountError(f"{mountpoint}: {error.strerror}") from None
        return None

    def check(self, mountpoint: str) -> bool:
        return launch.is_mounted(os.path.realpath(mountpoint))

    def unmount(self, mountpoint: str) -> None:
        detach(mountpoint)


def detach(mountpoint: str) -> None:
    """Take away whatever is mounted at `mountpoint`, in use or not."""
    try:
        mounts.umount(mountpoint, mounts.MNT_DETACH | mounts.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise MountError(f"{mountpoint}: {error.strerror}") from None
