"""What layers have in common is found without an object for each chunk of an image."""

from __future__ import annotations

import random
import stat
import tracemalloc

import pytest

from fs.format.chunkcolumns import FileChunks, LayerChunks
from fs.format.tree import Node
from nydusify.blobs.sharing import News, Shared, Sharing

_CHUNKS, _SIZE = 30_000, 7


def _table(seed: int, *, known: bytes = b"") -> LayerChunks:
    """Chunks of their own, after those with the digests in `known`."""
    table = LayerChunks()
    digests = known + random.Random(seed).randbytes(32 * _CHUNKS - len(known))
    for start in range(0, len(digests), 32):
        table.append(digests[start : start + 32], _SIZE)
    return table


def _tree(tables: list[LayerChunks]) -> Node:
    root = Node(stat.S_IFDIR)
    for number, table in enumerate(tables):
        content = FileChunks(table, 0, len(table))
        root.children[b"%d" % number] = Node(stat.S_IFREG, nlink=1, chunks=content)
    return root


@pytest.fixture(scope="module")
def tables() -> list[LayerChunks]:
    """The last has 100 chunks of the first."""
    first = _table(0)
    return [first, _table(1), _table(2), _table(3, known=bytes(first.digests[:3200]))]


def test_layers_share_chunks(tables: list[LayerChunks]) -> None:
    root = _tree(tables)
    tracemalloc.start()
    try:
        sharing = Sharing(root, tables, [])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sharing.shared == [Shared(0, 0)] * 3 + [Shared(100, 100 * _SIZE)]
    assert tables[3].elsewhere == {n: (tables[0], n) for n in range(100)}
    assert sharing.used == tables
    assert peak < 50 * len(tables) * _CHUNKS


def test_news_of_layers(tables: list[LayerChunks]) -> None:
    news = News(len(tables) + 2)
    tracemalloc.start()
    try:
        assert all(news.has(table) for table in tables)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not news.has(tables[2])
    assert not news.has(LayerChunks())
    assert held < 16 * len(tables) * _CHUNKS
