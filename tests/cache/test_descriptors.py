"""A cache whose files cannot be opened serves from memory, until they can."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from fs.format.blobtable import Digester
from tests.cache.engine import engine
from tests.image.build import BuiltImage
from tests.parts.waiting import PATIENCE


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_files_are_tried_again(
    image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fs.cache.store._FIRST_PAUSE", 0.05)
    content = (image.bootstrap.parent.parent / "source" / "big").read_bytes()

    async def main() -> None:
        async with engine(image, tmp_path) as here:
            table = here.cache.table
            with no_descriptor_left():
                cache = await here.store.open(
                    here.cache.blob, Digester.BLAKE3, lambda: table, here.fetcher
                )
            size = table.uncompressed_sizes[0]
            assert bytes(await cache.read(0, size)) == content[:size]
            assert cache.counts()["cached"] == 0
            with trio.fail_after(PATIENCE):
                while not cache.is_whole():
                    for row in map(table.row, range(len(table))):
                        await cache.read(row.uncompressed_offset, row.uncompressed_size)
                    await trio.sleep(0.02)
            requests = len(here.backend.ranges)
            assert bytes(await cache.read(0, len(content))) == content
            assert len(here.backend.ranges) == requests

    trio.run(main)
