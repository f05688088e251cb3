"""The cache files of nydusd are ours, and ours are nydusd's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio

from fs.backend.directory import DirectoryBackend
from fs.cache.fetch import Fetcher
from fs.cache.store import CacheStore
from fs.image.tree import map_bootstrap
from tests.cache.engine import Counting
from tests.interop.test_nydus import created, nydusd, tree
from tests.parts.trees import scan

__all__ = ["tree"]

pytestmark = [pytest.mark.nydusd, pytest.mark.root, pytest.mark.fuse]


def _read_all(bootstrap_file: Path, blobs: Path, directory: Path) -> tuple[dict[int, bytes], int]:
    """The blob's chunks by offset, read through a cache in `directory`; requests made for it."""
    backend = Counting(DirectoryBackend(str(blobs)))

    async def main() -> dict[int, bytes]:
        bootstrap = map_bootstrap(str(bootstrap_file))
        async with trio.open_nursery() as nursery:
            store = CacheStore(str(directory), nursery)
            cache = await store.open(
                bootstrap.blobs[0],
                bootstrap.digester,
                lambda: bootstrap.chunk_table(0),
                Fetcher(backend),
            )
            chunks = {}
            for row in range(len(cache.table)):
                offset = cache.table.uncompressed_offsets[row]
                size = cache.table.uncompressed_sizes[row]
                chunks[offset] = bytes(await cache.read(offset, size))
            nursery.cancel_scope.cancel()
        store.close()
        return chunks

    chunks = trio.run(main)
    backend.inner.close()
    return chunks, len(backend.ranges)


def test_we_read_what_nydusd_cached(tree: Path, tmp_path: Path) -> None:
    bootstrap, blobs = created(tree, tmp_path, "6", "zstd")
    with nydusd(bootstrap, blobs, tmp_path / "theirs") as mountpoint:
        scan(mountpoint)
    shutil.copytree(tmp_path / "theirs/cache", tmp_path / "cache", symlinks=True)
    (tmp_path / "cache").chmod(0o700)
    fetched, _ = _read_all(bootstrap, blobs, tmp_path / "fresh")
    assert _read_all(bootstrap, blobs, tmp_path / "cache") == (fetched, 0)


def test_nydusd_reads_what_we_cached(tree: Path, tmp_path: Path) -> None:
    bootstrap, blobs = created(tree, tmp_path, "6", "zstd")
    _read_all(bootstrap, blobs, tmp_path / "ours/cache")
    for blob in blobs.iterdir():  # only its tables are to be read
        size = blob.stat().st_size
        record = map_bootstrap(str(bootstrap)).blobs[0]
        tables = blob.read_bytes()[record.ci_offset :]
        blob.write_bytes(b"\xff" * (size - len(tables)) + tables)
    with nydusd(bootstrap, blobs, tmp_path / "ours") as mountpoint:
        found = scan(mountpoint)
    source = scan(tree)
    assert {path: entry.content for path, entry in found.items()} == {
        path: entry.content for path, entry in source.items()
    }
