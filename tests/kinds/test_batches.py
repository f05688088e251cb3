"""Blobs with batches: served, verified chunk by chunk, fetched batch by batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from fs.format import blobmeta
from fs.format.blobtable import BlobFeature, Compressor
from fs.format.errors import FormatError, VerifyError
from tests.image.build import BuiltImage, build_image
from tests.kinds.engine import opened
from tests.kinds.mounted import DRIVERS, served
from tests.parts.trees import differences, scan


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    out = tmp_path_factory.mktemp("batched")
    made = build_image(tree, out, chunk_size=256 << 10, batch_size=64 << 10)
    assert made.record.features & BlobFeature.BATCH
    return made


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.parametrize("driver", DRIVERS)
def test_both_transports_show_the_tree(
    driver: str, tree: Path, image: BuiltImage, tmp_path: Path
) -> None:
    with served(image.bootstrap, image.blobs, tmp_path, driver) as place:
        for _ in range(2):  # cold, warm
            assert differences(scan(tree), scan(place)) == []


@pytest.mark.parametrize("compressor", list(Compressor))
def test_all_chunks_of_a_batch_come_by_one_request(tmp_path: Path, compressor: Compressor) -> None:
    source = tmp_path / "source"
    source.mkdir()
    contents = {f"{number:03}": b"%d\n" % number * (50 + number) for number in range(200)}
    for name, content in contents.items():
        (source / name).write_bytes(content)
    image = build_image(source, tmp_path / "out", batch_size=32 << 10, compressor=compressor)
    batches = len({chunk.context for chunk in image.chunks})
    assert 1 < batches < 10

    async def main() -> None:
        async with opened(image.bootstrap, image.blobs, tmp_path / "cache") as engine:
            first = await engine.content(b"000")
            before = len(engine.backend.ranges)
            mates = [c.position for c in image.chunks if c.context == image.chunks[0].context]
            for position in mates:
                name = f"{position:03}"
                assert await engine.content(name.encode()) == contents[name]
            assert len(engine.backend.ranges) == before
            assert first == contents["000"]
            for name, data in contents.items():
                assert await engine.content(name.encode()) == data
            fetched = engine.backend.ranges[before - 1 :]
            assert len(fetched) == batches == len(set(fetched))

    trio.run(main)


def test_one_wrong_chunk_of_a_batch_takes_no_other_with_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(20):
        (source / f"{number:02}").write_bytes(bytes([number]) * 1000)
    made = build_image(source, tmp_path / "out", batch_size=1 << 20, compressor=Compressor.NONE)
    content = bytearray(made.blob.read_bytes())
    content[7500] ^= 1
    made.blob.write_bytes(content)

    async def main() -> None:
        async with opened(made.bootstrap, made.blobs, tmp_path / "cache") as engine:
            for number in range(20):
                name = f"{number:02}".encode()
                if number == 7:
                    with pytest.raises(VerifyError, match="digest"):
                        await engine.content(name)
                else:
                    assert await engine.content(name) == bytes([number]) * 1000

    trio.run(main)


def test_chunk_information_is_proven_by_the_table_of_contents(
    image: BuiltImage, tmp_path: Path
) -> None:
    content = bytearray(image.blob.read_bytes())
    content[image.record.ci_offset + image.record.ci_compressed_size + 100] ^= 1  # reserved
    changed = tmp_path / "blobs"
    changed.mkdir()
    (changed / image.record.blob_id).write_bytes(content)

    async def main() -> None:
        async with opened(image.bootstrap, changed, tmp_path / "cache") as engine:
            with pytest.raises(VerifyError, match=r"blob\.meta\.header"):
                await engine.content(b"hello")
        async with opened(image.bootstrap, image.blobs, tmp_path / "cache") as engine:
            assert await engine.content(b"hello") == b"hello world\n"
            assert list((tmp_path / "cache").glob("*.meta"))
        async with opened(image.bootstrap, changed, tmp_path / "cache") as engine:
            before = len(engine.backend.ranges)
            assert await engine.content(b"suid") == b"#!/bin/sh\n"  # the kept one is used
            assert not [r for r in engine.backend.ranges[before:] if r[0] >= image.record.ci_offset]

    trio.run(main)


def test_a_table_of_contents_is_as_long_as_the_bootstrap_says(
    image: BuiltImage, tmp_path: Path
) -> None:
    """A tail that begins earlier ends in the same table, which has its digest."""
    bootstrap = tmp_path / "image.boot"
    content = image.bootstrap.read_bytes()
    longer = replace(image.record, toc_size=image.record.toc_size + 128)
    assert content.count(image.record.pack()) == 1
    bootstrap.write_bytes(content.replace(image.record.pack(), longer.pack()))

    async def main() -> None:
        async with opened(bootstrap, image.blobs, tmp_path / "cache") as engine:
            with pytest.raises(VerifyError, match=f"not {longer.toc_size}"):
                await engine.content(b"hello")

    trio.run(main)


def put_beside(bootstrap: Path, image: BuiltImage, source: BuiltImage) -> None:
    """The chunk information of `source` as if a bootstrap layer had brought it for `image`."""
    start, length = blobmeta.chunk_info_range(source.record)
    stored = source.blob.read_bytes()[start : start + length]
    header, array = blobmeta.read_chunk_info(stored, source.record)
    path = bootstrap.with_name(f"{image.record.blob_id}.blob.meta")
    path.write_bytes(blobmeta.write_blob_meta(array, header))


def test_chunk_information_beside_the_bootstrap_needs_no_request(
    image: BuiltImage, tmp_path: Path
) -> None:
    bootstrap = tmp_path / "image.boot"
    bootstrap.write_bytes(image.bootstrap.read_bytes())
    put_beside(bootstrap, image, image)

    async def main() -> None:
        async with opened(bootstrap, image.blobs, tmp_path / "cache") as engine:
            assert await engine.content(b"hello") == b"hello world\n"
            assert all(offset < image.record.ci_offset for offset, _ in engine.backend.ranges)

    trio.run(main)


def test_chunk_information_of_another_blob_is_refused(image: BuiltImage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "other").write_bytes(b"other" * 100)
    other = build_image(source, tmp_path / "other", batch_size=1 << 20)
    bootstrap = tmp_path / "image.boot"
    bootstrap.write_bytes(image.bootstrap.read_bytes())
    put_beside(bootstrap, image, other)

    async def main() -> None:
        async with opened(bootstrap, image.blobs, tmp_path / "cache") as engine:
            with pytest.raises(FormatError, match="expected"):
                await engine.content(b"hello")

    trio.run(main)
