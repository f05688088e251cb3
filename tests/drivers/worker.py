"""A FUSE mount whose worker process a test can kill and replace."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from fs import mounts
from fs.daemon import kernel
from tests.parts.waiting import PATIENCE, eventually

REPOSITORY = Path(__file__).resolve().parents[2]


class HasFiles(Protocol):
    @property
    def bootstrap(self) -> Path: ...
    @property
    def blobs(self) -> Path: ...


class Worker:
    """`mnt` is the served mount; images are instances 1, 2, …, each also at `mnt/NUMBER`."""

    def __init__(self, root: Path, images: Sequence[dict[str, str]]) -> None:
        self.root = root
        self.mnt = root / "mnt"
        self.cache = root / "cache"
        for directory in (self.mnt, self.cache):
            directory.mkdir(parents=True, exist_ok=True)
        self._config = {
            "mnt": str(self.mnt),
            "cache": str(self.cache),
            "images": list(images),
        }
        self._generation = 0
        self._targets: list[Path] = []
        self._mounts = 0
        self._connection = kernel.connect(str(self.mnt), "test", nosuid=False)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start a worker; it takes over from one that has died."""
        descriptor = self._connection.descriptor
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.drivers.server",
                str(descriptor),
                self._connection.init.hex(),
                str(self._generation),
                json.dumps(self._config),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[descriptor],
            cwd=REPOSITORY,
            text=True,
        )
        self._generation += 1
        self._answer()

    @property
    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process is not None
        assert self._process.stdin
        assert self._process.stdout
        return self._process.stdin, self._process.stdout

    def tell(self, verb: str, *arguments: Any) -> Any:  # noqa: ANN401
        print(json.dumps([verb, *arguments]), file=self._pipes[0], flush=True)
        return self._answer()

    def _answer(self) -> Any:  # noqa: ANN401
        answer = json.loads(self._pipes[1].readline())
        if "failure" in answer:
            raise RuntimeError(answer["failure"])
        return answer["ok"]

    def mount(self, number: int = 1) -> Path:
        """Mount an instance by erofs on a new directory."""
        self._mounts += 1
        target = self.root / f"erofs-{self._mounts}"
        target.mkdir()
        self.tell("attach", number, str(target))
        self._targets.append(target)
        return target

    def unmount(self, target: Path, *, lazy: bool = False) -> None:
        mounts.umount(target, mounts.MNT_DETACH if lazy else 0)
        self._targets.remove(target)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._reap()

    def stop(self) -> None:
        """End the worker in good order, and keep the connection."""
        self._pipes[0].close()
        self._reap()

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait(PATIENCE)
        for pipe in self._pipes:
            pipe.close()

    def settled(self) -> dict[str, Any]:
        """Counts, once the kernel needs none of the instances any more."""
        counts: dict[str, Any] = {}

        def unused() -> bool:
            counts.update(self.tell("counts"))
            return not counts["in_use"]

        eventually(unused, "no instance is in use")
        return counts

    def disconnect(self) -> None:
        """What a supervisor does last: readers get errors from now on."""
        os.close(self._connection.descriptor)
        self._connection = self._connection._replace(descriptor=-1)

    def close(self) -> None:
        for target in self._targets:
            mounts.umount(target, mounts.MNT_DETACH)
        mounts.umount(self.mnt, mounts.MNT_DETACH)
        if self._connection.descriptor >= 0:
            self.disconnect()
        if self._process is not None:  # it may have ended by itself, without its connection
            self.kill()


@contextlib.contextmanager
def worker(root: Path, *images: HasFiles, **changes: str) -> Iterator[Worker]:
    """Serve `images`, each from its own directory of blobs unless `blobs` is given."""
    described = [
        {"bootstrap": str(image.bootstrap), "blobs": str(image.blobs), **changes}
        for image in images
    ]
    made = Worker(root, described)
    try:
        made.start()
        kernel.widen_readahead(_device(made.mnt))
        yield made
    finally:
        made.close()


def drop_caches() -> None:
    """Let go of every clean page, name and inode of this machine."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def _device(mountpoint: Path) -> str:
    number = mountpoint.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"
