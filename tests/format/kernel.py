"""Our bootstraps under the kernel's own EROFS."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fs.format.buffer import Buffer
from fs.mounts import MNT_DETACH, MS_RDONLY, mount, umount


def write_files(
    directory: Path, bootstrap: Buffer, decoded: Sequence[Buffer]
) -> tuple[Path, list[Path]]:
    """The bootstrap and its decoded blobs as files in `directory`."""
    boot = directory / "image.boot"
    boot.write_bytes(bootstrap)
    devices = [directory / f"blob{index}" for index in range(len(decoded))]
    for path, data in zip(devices, decoded, strict=True):
        path.write_bytes(data)
    return boot, devices


@contextmanager
def mounted(directory: Path, bootstrap: Buffer, decoded: Sequence[Buffer]) -> Iterator[Path]:
    """The image mounted on a directory, from plain files."""
    boot, devices = write_files(directory, bootstrap, decoded)
    target = directory / "mnt"
    target.mkdir(exist_ok=True)
    options = ",".join(f"device={path}" for path in devices)
    mount(boot, target, "erofs", MS_RDONLY, options or None)
    try:
        yield target
    finally:
        umount(target, MNT_DETACH)


def tool(name: str, *arguments: str, boot: Path, devices: Sequence[Path]) -> str:
    """All output of an erofs-utils program, which must succeed."""
    given = [f"--device={path}" for path in devices]
    done = subprocess.run(
        [name, *arguments, *given, str(boot)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
