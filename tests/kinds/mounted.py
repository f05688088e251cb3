"""Mounts of images by the daemon, on both transports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fs.daemon import launch

DRIVERS = ["fuse", pytest.param("erofs", marks=pytest.mark.erofs)]


@contextmanager
def served(
    source: Path | str,
    blobs: Path | None,
    work: Path,
    driver: str,
    **options: Any,  # noqa: ANN401 - as MountOptions has them
) -> Iterator[Path]:
    """The mountpoint of an image; its cache stays in `work`."""
    mountpoint = work / "mnt"
    mountpoint.mkdir(exist_ok=True)
    given = launch.MountOptions(
        blob_dir=None if blobs is None else str(blobs),
        cache_dir=str(work / "cache"),
        state_root=str(work / "run"),
        driver=driver,
        outage_deadline=1.0,
    )._replace(**options)
    launch.mount(str(source), str(mountpoint), given)
    try:
        yield mountpoint
    finally:
        launch.unmount(str(mountpoint), state_root=given.state_root)
