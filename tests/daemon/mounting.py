"""Mounts for tests: by the real commands, gone afterwards whatever happened."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs.daemon import launch
from fs.daemon.launch import MountOptions
from tests.image.build import BuiltImage
from tests.parts import leaks
from tests.parts.waiting import PATIENCE

BIN = Path(sys.executable).parent


@dataclass
class Place:
    """Where a test mounts; nothing outside of its own directory is touched."""

    root: Path

    @property
    def mountpoint(self) -> Path:
        return self.root / "mnt"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def options(self) -> MountOptions:
        return MountOptions(
            cache_dir=str(self.root / "cache"),
            state_root=str(self.state),
            outage_deadline=1.0,
            driver="fuse",  # tests/drivers has those of the other
        )

    def mount(self, image: BuiltImage, **changes: Any) -> launch.Mounted:  # noqa: ANN401
        """Mount by a detached daemon, blobs from the image's own directory unless told."""
        if "backend_url" not in changes:
            changes.setdefault("blob_dir", str(image.blobs))
        options = self.options._replace(**changes)
        return launch.mount(str(image.bootstrap), str(self.mountpoint), options)

    def unmount(self) -> None:
        launch.unmount(str(self.mountpoint), state_root=str(self.state))

    def status(self) -> dict[str, Any]:
        return launch.status(str(self.mountpoint), state_root=str(self.state))

    def files(self, name: str) -> list[Path]:
        """The files of this name of every daemon of this place."""
        found = [self.state / name, *self.state.glob(f"{'[0-9a-f]' * 16}/{name}")]
        return [path for path in found if path.exists()]

    def log(self) -> str:
        return "".join(path.read_text() for path in self.files("daemon.log"))


@contextlib.contextmanager
def place(root: Path) -> Iterator[Place]:
    """A place that is clean when the test ends: no mount, no process."""
    made = Place(root)
    made.mountpoint.mkdir(parents=True)
    try:
        yield made
    finally:
        _clean(made)


def _clean(made: Place) -> None:
    for lock in made.files("lock"):
        for pid in _holders(lock):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    leaks.detach(leaks.mounts_below(made.root))


def _holders(lock: Path) -> list[int]:
    """The processes that have `lock` open: those of one daemon."""
    found = []
    for fds in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            if any(os.path.samefile(fd, lock) for fd in fds.iterdir() if os.path.exists(fd)):
                found.append(int(fds.parent.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def nydus_fs(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as users call it."""
    return subprocess.run(
        [str(BIN / "nydus-fs"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
