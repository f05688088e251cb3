"""Tar files as blobs: served only after all of one was proven, on both transports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from fs.cache.inventory import verify
from fs.cache.tarball import record_of, table_of
from fs.format.blobtable import BlobFeature, BlobRecord
from fs.format.errors import FormatError, StorageError, VerifyError
from fs.image.tree import map_bootstrap
from tests.kinds.engine import Opened, opened
from tests.kinds.mounted import DRIVERS, served
from tests.kinds.tars import image_of_tar, tarred
from tests.parts.trees import Entry, differences, scan


@pytest.fixture(scope="module")
def tar(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tarred(tree, tmp_path_factory.mktemp("tar") / "layer.tar")


@pytest.fixture(scope="module")
def image(tar: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return image_of_tar(tar, tmp_path_factory.mktemp("tarfs"))


def in_a_tar(scanned: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """What these archives keep: whole seconds, no extended attributes."""
    return {
        path: entry._replace(mtime_ns=entry.mtime_ns // 10**9, xattrs=())
        for path, entry in scanned.items()
    }


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.parametrize("driver", DRIVERS)
def test_both_transports_show_the_tree(
    driver: str, tree: Path, image: tuple[Path, Path], tmp_path: Path
) -> None:
    expected = in_a_tar(scan(tree))
    for _ in range(2):  # of the second mount the whole file is local
        with served(*image, tmp_path, driver) as place:
            assert differences(expected, in_a_tar(scan(place))) == []
    assert not list((tmp_path / "cache/blobs").glob("*.part"))


def test_nothing_is_served_of_a_file_that_is_not_what_its_name_says(
    image: tuple[Path, Path], tmp_path: Path
) -> None:
    bootstrap, blobs = image
    (name,) = [path.name for path in blobs.iterdir()]
    content = bytearray((blobs / name).read_bytes())
    content[-1] ^= 1  # padding behind the archive's end
    (tmp_path / name).write_bytes(content)

    async def main() -> None:
        async with opened(bootstrap, tmp_path, tmp_path / "cache") as engine:
            for _ in range(2):
                with pytest.raises(VerifyError, match="digest"):
                    await engine.content(b"hello")
        async with opened(bootstrap, blobs, tmp_path / "cache") as engine:
            assert await engine.content(b"hello") == b"hello world\n"

    trio.run(main)


def test_a_file_of_absurd_size_is_refused_before_its_pieces_are_counted() -> None:
    blob = BlobRecord(
        "0" * 64, features=BlobFeature.TARFS, compressed_size=1 << 39, uncompressed_size=1 << 43
    )
    with pytest.raises(FormatError, match="at most"):
        table_of(record_of(blob))


def test_readers_wait_for_one_fetch_of_the_whole(image: tuple[Path, Path], tmp_path: Path) -> None:
    bootstrap, blobs = image
    (size,) = [path.stat().st_size for path in blobs.iterdir()]

    async def main() -> None:
        async with opened(bootstrap, blobs, tmp_path / "cache") as engine:
            async with trio.open_nursery() as nursery:
                for number in range(1, 100):
                    nursery.start_soon(engine.content, b"dir", b"file-%03d" % number)
            assert sum(length for _, length in engine.backend.ranges) == size
            cache = await engine.image.blob(0)
            assert cache.is_whole()
            assert await trio.to_thread.run_sync(cache.whole_file)

    trio.run(main)


def test_a_fetch_that_broke_off_is_continued(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096 * 40  # 40 MiB
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(content)
    bootstrap, blobs = image_of_tar(tarred(source, tmp_path / "tar"), tmp_path / "out")
    cache = tmp_path / "cache"

    def broken(engine: Opened) -> Callable[[], None]:
        def fail() -> None:
            if len(engine.backend.ranges) > 7:
                raise StorageError("the cable was cut")

        return fail

    async def main() -> None:
        async with opened(bootstrap, blobs, cache) as engine:
            engine.backend.before = broken(engine)
            with pytest.raises(StorageError, match="cable"):
                await engine.content(b"file")
        (part,) = cache.glob("*.part")
        there = part.stat().st_size
        assert 16 << 20 <= there < 32 << 20  # what came before the fault, in order
        async with opened(bootstrap, blobs, cache) as engine:
            assert await engine.content(b"file") == content
            assert min(offset for offset, _ in engine.backend.ranges) == there

    trio.run(main)


def test_two_mounts_fetch_it_once(image: tuple[Path, Path], tmp_path: Path) -> None:
    bootstrap, blobs = image
    (size,) = [path.stat().st_size for path in blobs.iterdir()]
    fetched = []

    async def one() -> None:
        async with opened(bootstrap, blobs, tmp_path / "cache") as engine:
            assert await engine.content(b"hello") == b"hello world\n"
            fetched.extend(engine.backend.ranges)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)

    trio.run(main)
    assert sum(length for _, length in fetched) == size
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_wrong_beginning_is_fetched_anew(image: tuple[Path, Path], tmp_path: Path) -> None:
    bootstrap, blobs = image
    (blob,) = blobs.iterdir()
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    (cache / f"{blob.name}.blob.part").write_bytes(bytes(1000))

    async def main() -> None:
        async with opened(bootstrap, blobs, cache) as engine:
            assert await engine.content(b"hello") == b"hello world\n"
            fetched = sum(length for _, length in engine.backend.ranges)
            assert fetched == 2 * blob.stat().st_size - 1000

    trio.run(main)


def test_what_was_taken_back_costs_the_whole_again(
    image: tuple[Path, Path], tmp_path: Path
) -> None:
    bootstrap, blobs = image
    cache = tmp_path / "cache"

    async def main() -> None:
        async with opened(bootstrap, blobs, cache) as engine:
            assert await engine.content(b"hello") == b"hello world\n"
        (data,) = cache.glob("*.blob.data")
        assert [verdict.wrong for verdict in verify(str(cache))] == [0]
        with data.open("r+b") as file:
            file.write(b"wrong")
        (verdict,) = verify(str(cache))
        assert verdict.wrong == verdict.checked > 0
        async with opened(bootstrap, blobs, cache) as engine:
            assert await engine.content(b"hello") == b"hello world\n"
            assert engine.backend.ranges
        assert [verdict.wrong for verdict in verify(str(cache))] == [0]

    trio.run(main)


def test_without_a_place_on_disk_it_is_refused(image: tuple[Path, Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)

    async def main() -> None:
        async with opened(*image, cache) as engine:
            with pytest.raises(StorageError, match="no room"):
                await engine.content(b"hello")

    trio.run(main)


def test_a_tar_file_is_divided_into_pieces(image: tuple[Path, Path], tar: Path) -> None:
    record = record_of(map_bootstrap(str(image[0])).blobs[0])
    assert record.chunk_count == -(-tar.stat().st_size // (1 << 20))
