"""Plain headers, read at once, are what the whole reader makes of them, or are left to it."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st

from fs.format.errors import FormatError
from fs.tar.entry import Entry
from fs.tar.plain import PlainHeaders
from fs.tar.reader import TarReader
from fs.tar.stream import LayerStream
from tests.parts.layers import BLOCK, header, pax, with_checksum

#: A global record makes the reader look closely at all entries after it, and changes none.
GLOBAL = pax({b"comment": b"none"}, b"g")

headers = st.builds(
    header,
    st.binary(max_size=100),
    st.sampled_from([b"0", b"1", b"2", b"5", b"\0", b"7", b"3"]),
    st.integers(0, 1 << 40),
    target=st.binary(max_size=100),
    mode=st.integers(0, 0o7777777),
    uid=st.integers(-2, 1 << 33),
    gid=st.integers(0, 1 << 21),
    mtime=st.integers(-5, 1 << 40),
    magic=st.sampled_from([b"ustar\x0000", b"ustar  \0", b""]),
    prefix=st.binary(max_size=155),
    tail=st.sampled_from([b"", b"tar\0"]),
)
changes = st.lists(st.tuples(st.integers(0, BLOCK - 1), st.integers(0, 255)), max_size=3)


def looked_at_closely(block: bytes) -> Entry | None:
    with ThreadPoolExecutor(1) as pool:
        stream = LayerStream(io.BytesIO(GLOBAL + block), "test layer", pool)
        try:
            return next(iter(TarReader(stream)), None)
        finally:
            stream.stop()


@given(headers, changes, st.booleans())
@example(header(b"a" * 100, prefix=b"b" * 155), [], False)
@example(header(b"l", b"2", target=b"t" * 100), [], False)
@example(header(b"f", size=1000), [(130, ord(" "))], True)
@example(header(b"f", size=1000), [(100, ord("9"))], True)
def test_what_is_read_at_once_is_no_other(
    block: bytes, changed: list[tuple[int, int]], mended: bool
) -> None:
    raw = bytearray(block)
    for at, byte in changed:
        raw[at] = byte
    block = with_checksum(bytes(raw)) if mended else bytes(raw)
    entry = PlainHeaders().entry(block, 0)
    if entry is not None:
        assert entry == looked_at_closely(block)
    else:
        with suppress(FormatError):
            looked_at_closely(block)


def test_most_headers_are_plain() -> None:
    headers = PlainHeaders()
    for flag in (b"0", b"1", b"2", b"5"):
        assert headers.entry(header(b"name", flag, target=b"t"), 0) is not None, flag
    for other in (
        header(b"name", b"x"),
        header(b"name", uid=1 << 30),
        header(b"name", size=1 << 40),
        header(b"name")[:-1] + b"x",
        bytes(BLOCK),
    ):
        assert headers.entry(other, 0) is None
