"""An image of a directory by the real commands, by either driver, bare or below an overlay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fs import mounts
from fs.daemon import launch
from nydusify.cli import main as nydusify

DRIVERS = ("erofs", "fuse")
_CACHES = Path("/proc/sys/vm/drop_caches")


def convert(tree: Path, work: Path, chunk_size: int = 1 << 20) -> str:
    """The source of an image of `tree`, in a layout below `work`."""
    target = f"oci:{work}/layout:t"
    words = ["--source", f"dir:{tree}", "--target", target, "--chunk-size", hex(chunk_size)]
    assert nydusify(["convert", *words]) == 0
    return target


@contextmanager
def mounted(image: str, work: Path, driver: str) -> Iterator[Path]:
    """The image, with a cache and a daemon of its own below `work`."""
    point = work / "mnt"
    point.mkdir(parents=True)
    options = launch.MountOptions(
        cache_dir=str(work / "cache"),
        state_root=str(work / "state"),
        driver=driver,
        prefetch="none",
    )
    launch.mount(image, str(point), options)
    try:
        assert launch.status(str(point), state_root=options.state_root)["transport"] == driver
        yield point
    finally:
        launch.unmount(str(point), state_root=options.state_root)


@contextmanager
def overlaid(lower: Path, work: Path) -> Iterator[Path]:
    """A writable overlay on a mounted image, as a container has it."""
    for name in ("upper", "work", "merged"):
        (work / "overlay" / name).mkdir(parents=True)
    place = work / "overlay"
    options = f"lowerdir={lower},upperdir={place}/upper,workdir={place}/work"
    mounts.mount("overlay", place / "merged", "overlay", 0, options)
    try:
        yield place / "merged"
    finally:
        mounts.umount(place / "merged")


def drop_caches() -> None:
    """Everything that the kernel keeps of files."""
    _CACHES.write_text("3\n")
