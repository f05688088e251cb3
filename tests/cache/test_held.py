"""Chunks that only memory has: how much of it they take, and for how long."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from fs import mounts
from fs.cache.held import Held, Room
from tests.cache.engine import engine
from tests.image.build import BuiltImage

_CHUNK = 64 << 10


def test_all_blobs_share_one_room() -> None:
    room = Room(100)
    blobs = [Held(room) for _ in range(50)]
    for number, blob in enumerate(blobs):
        blob.keep(0, bytes([number]) * 30)
    held = [blob.of([0]).get(0) for blob in blobs]
    assert held == [None] * 47 + [bytes([number]) * 30 for number in (47, 48, 49)]
    blobs[48].clear()  # it is closed
    blobs[0].keep(7, bytes(40))
    assert blobs[47].of([0])
    blobs[0].keep(8, bytes(30))
    assert not blobs[47]
    assert list(blobs[0].of([7, 8, 9])) == [7, 8]


def test_chunk_counts_once_and_one_that_is_too_large_is_not_kept() -> None:
    room = Room(100)
    one, other = Held(room), Held(room)
    for _ in range(10):
        one.keep(0, bytes(40))
    other.keep(0, bytes(60))
    assert one
    other.keep(1, bytes(101))
    assert not one
    assert not other
    one.keep(3, bytes(100))
    assert one


@pytest.mark.root
def test_reading_ahead_goes_on_when_the_disk_takes_chunks_again(
    image: BuiltImage, tmp_path: Path
) -> None:
    mounts.mount("tmpfs", tmp_path, "tmpfs", 0, "size=300k,mode=700")
    try:

        async def main() -> None:
            async with engine(image, tmp_path) as made:

                async def asked_ahead() -> bool:
                    before = len(made.backend.ranges)
                    made.cache.ahead(0, 20 * _CHUNK)
                    await made.cache.idle()
                    return len(made.backend.ranges) > before

                await made.cache.read(0, 15 * _CHUNK)
                assert not await asked_ahead()
                mounts.mount("tmpfs", tmp_path, "tmpfs", mounts.MS_REMOUNT, "size=8m")
                await made.cache.read(15 * _CHUNK, _CHUNK)
                assert await asked_ahead()
                assert made.cache.counts()["cached"] == 20

        trio.run(main)
    finally:
        mounts.umount(tmp_path)
