"""The gzip stream of several threads: what every reader takes for the content."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nydusify.outputs.parallel_gzip import ParallelGzip
from tests.parts.examples import examples


def packed(pieces: list[bytes], threads: int) -> bytes:
    sink = io.BytesIO()
    stream = ParallelGzip(sink, threads)
    for piece in pieces:
        stream.write(piece)
    stream.close()
    return sink.getvalue()


def text(size: int) -> bytes:
    words = (hashlib.sha256(b"%d" % (n % 700)).hexdigest().encode() for n in range(size // 64 + 1))
    return b"".join(words)[:size]


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5_000_000])
def test_readers_agree(size: int) -> None:
    content = text(size)
    stored = packed([content], 3)
    assert gzip.decompress(stored) == content
    done = subprocess.run(["gzip", "-dc"], input=stored, capture_output=True, check=True)
    assert done.stdout == content
    if size > 1000:
        assert len(stored) < 1.02 * len(gzip.compress(content, 6))


@settings(max_examples=examples(10))
@given(st.lists(st.integers(0, 1_500_000), max_size=3), st.integers(1, 4))
def test_the_same_whatever_the_threads_and_pieces(sizes: list[int], threads: int) -> None:
    pieces = [text(size) for size in sizes]
    assert packed(pieces, threads) == packed([b"".join(pieces)], 1)


def test_what_fails_midway_has_no_end() -> None:
    sink = io.BytesIO()

    def pieces() -> Iterator[bytes]:
        yield text(5_000_000)
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError), ParallelGzip(sink, 2) as stream:
        deque(map(stream.write, pieces()), 0)
    with pytest.raises(EOFError):
        gzip.decompress(sink.getvalue())
