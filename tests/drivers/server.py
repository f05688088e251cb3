"""A worker process for tests: serves images over a FUSE connection that it was given.

    python -m tests.drivers.server FD INIT GENERATION CONFIG

CONFIG is JSON: `mnt`, `cache`, and `images`, each with `bootstrap` and
`blobs` (a directory or an http URL). Commands come on standard input, one JSON
document a line, answers go to standard output.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import trio

from fs import mounts
from fs.backend.directory import DirectoryBackend
from fs.backend.http import HttpBackend
from fs.cache.fetch import Fetcher
from fs.cache.store import CacheStore
from fs.daemon.metrics import OPERATIONS
from fs.daemon.session import Session
from fs.drivers.erofs import ErofsDriver
from fs.drivers.flat import FlatFiles
from fs.drivers.instances import BLOBS, Instance, Instances
from fs.format.bootstrap import Inode
from fs.format.errors import Failure, NotFoundError
from fs.image.tree import Image, map_bootstrap


class Options(NamedTuple):
    nosuid: bool = False


class CountingFlat(FlatFiles):
    """Knows how many reads there were."""

    reads = 0
    probes = 0

    async def read(self, nid: int, offset: int, length: int) -> Any:  # noqa: ANN401
        if nid == 2:
            self.probes += 1
        else:
            self.reads += 1
        return await super().read(nid, offset, length)

    def read_now(self, nid: int, offset: int, length: int, buffer: memoryview) -> Any:  # noqa: ANN401
        data = super().read_now(nid, offset, length, buffer)
        if data is not None:
            self.probes += nid == 2
            self.reads += nid != 2
        return data

    def inode(self, nid: int) -> Inode:
        return super().inode(nid)


class Server:
    def __init__(self, config: dict[str, Any], nursery: trio.Nursery) -> None:
        self.store = CacheStore(config["cache"], nursery, amplify=config.get("amplify", 0))
        self.fetchers: list[Fetcher] = []
        self.instances = Instances()
        self.mounted: dict[int, Instance] = {}
        for number, described in enumerate(config["images"], 1):
            image = self._image(described)
            self.mounted[number] = Instance(number, "test", "", Options(), image)
            self.instances.add_tree(number, b"%d" % number, image)
        self.flat = CountingFlat(self._image_of)
        self.instances.add_tree(BLOBS, b"blobs", self.flat)
        self.forgotten: list[int] = []
        self.session = Session(self.instances, self.forgotten.append, lambda number: None)
        self.driver = ErofsDriver(config["mnt"], self.session)

    def _image(self, described: dict[str, str]) -> Image:
        place = described["blobs"]
        backend = HttpBackend(place) if place.startswith("http") else DirectoryBackend(place)
        fetcher = Fetcher(backend, outage_deadline=1.0)
        self.fetchers.append(fetcher)
        return Image(map_bootstrap(described["bootstrap"]), self.store, fetcher)

    def _image_of(self, number: int) -> Image:
        if number not in self.mounted:
            raise NotFoundError(f"instance {number}")
        return self.mounted[number].image

    async def choose(self, number: int, wanted: str) -> list[str]:
        return list(await self.driver.choose(self.mounted[number], wanted))

    async def attach(self, number: int, target: str) -> None:
        """Mount instance `number` on `target`."""
        descriptor = await self.driver.attach(self.mounted[number])
        await trio.to_thread.run_sync(_move, descriptor, target)

    async def detach(self, number: int) -> None:
        await self.driver.detach(self.mounted[number])

    async def asked(self, number: int) -> dict[str, int]:
        """Requests of the kernel about an instance, by kind."""
        return dict(zip(OPERATIONS, self.session.traffic.of(number).hits, strict=True))

    async def add(self, number: int, like: int) -> None:
        self.instances.add_tree(number, b"%d" % number, self.mounted[like].image)

    async def remove(self, number: int) -> None:
        self.instances.remove_tree(number)

    async def counts(self) -> dict[str, Any]:
        return {
            "reads": self.flat.reads,
            "probes": self.flat.probes,
            "requests": sum(fetcher.requests for fetcher in self.fetchers),
            "bytes": sum(fetcher.bytes_fetched for fetcher in self.fetchers),
            "forgotten": self.forgotten,
            "in_use": [n for n, i in self.mounted.items() if await self.driver.in_use(i)],
        }


def _move(descriptor: int, target: str) -> None:
    place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mounts.move_mount(descriptor, place)
    finally:
        os.close(place)
        os.close(descriptor)


async def _obey(server: Server, scope: trio.CancelScope) -> None:
    verbs: dict[str, Callable[..., Awaitable[Any]]] = {
        "choose": server.choose,
        "attach": server.attach,
        "detach": server.detach,
        "counts": server.counts,
        "asked": server.asked,
        "add": server.add,
        "remove": server.remove,
    }
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        verb, *arguments = json.loads(line)
        try:
            answer = {"ok": await verbs[verb](*arguments)}
        except (Failure, OSError) as error:
            answer = {"failure": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    scope.cancel()


async def main(descriptor: int, init: bytes, generation: int, config: dict[str, Any]) -> None:
    """Serve until standard input or the connection ends."""
    async with trio.open_nursery() as nursery:
        server = Server(config, nursery)
        session = server.session
        await nursery.start(session.serve, descriptor, init, generation > 0)
        nursery.start_soon(_obey, server, nursery.cancel_scope)
        print(json.dumps({"ok": None}), flush=True)
        await session.ended.wait()
        nursery.cancel_scope.cancel()
    server.store.close()


if __name__ == "__main__":
    sys.setswitchinterval(0.0005)
    trio.run(
        main,
        int(sys.argv[1]),
        bytes.fromhex(sys.argv[2]),
        int(sys.argv[3]),
        json.loads(sys.argv[4]),
    )
