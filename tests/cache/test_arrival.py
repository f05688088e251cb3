"""Chunks are served as soon as they are here, while the rest of their request is coming."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from fs.backend.directory import DirectoryBackend
from fs.cache.fetch import Fetcher
from fs.cache.prefetch import Prefetch
from fs.cache.store import CacheStore
from fs.format.errors import UnreachableError
from fs.image.tree import Image, map_bootstrap
from tests.cache.engine import Counting
from tests.image.build import BuiltImage, build_image
from tests.parts.waiting import PATIENCE

_SIZE = 64 << 10
_FILES = 16


@dataclass
class Dripping(Counting):
    """Sends `first` bytes, waits for `rest`, and breaks off `broken` times."""

    first: int = 4 * _SIZE
    rest: threading.Event = field(default_factory=threading.Event)
    broken: int = 0

    def pieces(self, blob: str, offset: int, length: int) -> Iterator[bytes]:
        body = self.read(blob, offset, length)
        yield body[: self.first]
        if self.broken:
            self.broken -= 1
            raise UnreachableError("broken off")
        assert self.rest.wait(PATIENCE)
        yield body[self.first :]


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """16 files of one chunk each, all of them listed, so that one request brings them."""
    root = tmp_path_factory.mktemp("arriving")
    source = root / "source"
    source.mkdir()
    for number in range(_FILES):
        (source / f"file-{number:02}").write_bytes(_content(number))
    names = tuple(f"file-{number:02}".encode() for number in range(_FILES))
    return build_image(source, root / "image", chunk_size=_SIZE, prefetch=names)


def _content(number: int) -> bytes:
    return random.Random(number).randbytes(_SIZE)


@pytest.mark.parametrize("broken", [0, 1])
def test_the_first_is_read_while_the_last_is_on_its_way(
    listed: BuiltImage, tmp_path: Path, broken: int
) -> None:
    async def main() -> None:
        backend = Dripping(DirectoryBackend(str(listed.blobs)), broken=broken)
        async with trio.open_nursery() as nursery:
            store = CacheStore(str(tmp_path), nursery, amplify=0)
            bootstrap = map_bootstrap(str(listed.bootstrap))
            image = Image(bootstrap, store, Fetcher(backend))

            async def read(number: int) -> bytes:
                nid = image.lookup(image.root, f"file-{number:02}".encode())
                assert nid is not None
                return bytes(await image.read(nid, 0, _SIZE))

            prefetch = Prefetch(image, "table")
            nursery.start_soon(prefetch.run)
            while not backend.ranges:  # noqa: ASYNC110 (it tells nobody)
                await trio.sleep(0.005)
            with trio.fail_after(PATIENCE):
                assert [await read(number) for number in range(4)] == [*map(_content, range(4))]
            with trio.move_on_after(0.05) as scope:
                await read(_FILES - 1)
            assert scope.cancelled_caught
            backend.rest.set()
            with trio.fail_after(PATIENCE):
                assert await read(_FILES - 1) == _content(_FILES - 1)
            assert len(backend.ranges) == 1 + broken
            nursery.cancel_scope.cancel()
        store.close()
        backend.inner.close()

    trio.run(main)
