"""The image of a container as a committed snapshot: mounted lazily, or pulled in full."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from fs.daemon.launch import MountOptions
from fs.format.errors import PlainImageError
from snapshotter.images import DirectoryImages, NydusImages
from snapshotter.store import Store

ROOTFS = "rootfs:"


class RunnerImages:
    """Image layers of containers: Nydus images, and directories given by "rootfs:PATH"."""

    def __init__(self, options: MountOptions, token: str = "") -> None:
        self._nydus = NydusImages(options, token)
        self._directories = DirectoryImages()

    def mount(self, source: str, mountpoint: str) -> dict[str, Any] | None:
        if source.startswith(ROOTFS):
            return self._directories.mount(source.removeprefix(ROOTFS), mountpoint)
        return self._nydus.mount(source, mountpoint)

    def check(self, mountpoint: str) -> bool:
        return self._nydus.check(mountpoint)

    def unmount(self, mountpoint: str) -> None:
        self._nydus.unmount(mountpoint)


def prepare_image(
    store: Store, key: str, source: str, options: MountOptions
) -> tuple[str, Mapping[str, Any] | None]:
    """The committed snapshot of the image `source`, and the image's configuration.

    It is `key` for what is mounted lazily; a plain image has its own names,
    by content, and stays in the store.
    """
    try:
        return key, store.attach(key, source)
    except PlainImageError:
        return _pull(store, source, options)


def _pull(store: Store, source: str, options: MountOptions) -> tuple[str, Mapping[str, Any] | None]:
    from pathlib import Path

    from fs.registry.hosts import hosts_dirs
    from fs.registry.platform import parse_platform
    from fs.registry.store import StoreOptions, open_reader
    from snapshotter.pull import pull

    access = StoreOptions(
        plain_http=options.plain_http,
        insecure=options.insecure,
        auth_file=Path(options.auth_file) if options.auth_file else None,
        ca_file=Path(options.ca_file) if options.ca_file else None,
        hosts_dirs=hosts_dirs(options.hosts_dir),
        environment=os.environ,
    )
    reader = open_reader(source, access)
    try:
        platform = parse_platform(options.platform) if options.platform else None
        return pull(store, reader, platform, say)
    finally:
        reader.close()


def say(message: str) -> None:
    print(f"lazyrun: {message}", file=sys.stderr, flush=True)
