"""The tar reader: every dialect that real tools write, and none of the lies."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fs.format.errors import FormatError
from fs.tar.entry import HARD_LINK, Entry, pieces
from fs.tar.reader import TarReader
from fs.tar.stream import LayerStream
from tests.parts.layers import BLOCK, LayerTar, header, padded, pax, with_checksum

END = bytes(2 * BLOCK)
_ABSURD = 1 << 30  # a hole may well be longer, but not in these tests


def read_all(data: bytes) -> list[tuple[Entry, bytes]]:
    """All entries with their contents, holes filled in."""
    with ThreadPoolExecutor(1) as pool:
        stream = LayerStream(io.BytesIO(data), "test layer", pool)
        try:
            reader = TarReader(stream)
            found = []
            for entry in reader:
                parts = pieces(entry, reader.read, 1 << 16)
                is_file = entry.kind == stat.S_IFREG and entry.size < _ABSURD
                content = [bytes(p) if isinstance(p, int) else p for p in parts if is_file]
                found.append((entry, b"".join(content)))
            stream.drain()
        finally:
            stream.stop()
    return found


def read_one(data: bytes) -> tuple[Entry, bytes]:
    (only,) = read_all(data + END)
    return only


# --- dialects ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "format_options",
    [
        ("--format=gnu",),
        ("--format=pax", "--sparse-version=0.0"),
        ("--format=pax", "--sparse-version=0.1"),
        ("--format=pax", "--sparse-version=1.0"),
    ],
    ids=lambda options: "-".join(options).replace("--", ""),
)
@pytest.mark.parametrize("holes", [0, 1, 3, 60])
def test_sparse_files_of_gnu_tar(
    format_options: tuple[str, ...], holes: int, tmp_path: Path
) -> None:
    name = "s" * 120
    with (tmp_path / name).open("wb") as file:
        for number in range(holes):
            file.seek(number * 100_000 + 8192)
            file.write(b"%04d" % number * 1024)
        file.truncate(holes * 100_000 + 300_000)
    command = ["tar", "-C", str(tmp_path), "--sparse", *format_options, "-cf", "-", name]
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    ((entry, content),) = read_all(packed)
    assert entry.path == name.encode()
    assert content == (tmp_path / name).read_bytes()
    assert len(packed) < 100_000 + holes * 9000


@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_the_standard_library(dialect: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=dialect) as archive:
        member = tarfile.TarInfo("long/" * 60 + "näme")
        member.linkname, member.type = "t" * 300, tarfile.SYMTYPE
        member.uid, member.gid = 3_000_000, 4_000_000_000
        archive.addfile(member)
    ((entry, _),) = read_all(out.getvalue())
    assert entry.path == member.name.encode()
    assert entry.target == b"t" * 300
    assert (entry.uid, entry.gid) == (3_000_000, 4_000_000_000)


def test_ustar_prefix_and_star_prefix() -> None:
    assert read_one(header(b"name", prefix=b"p" * 155))[0].path == b"p" * 155 + b"/name"
    star = header(b"name", prefix=b"p" * 131 + b"1234567890", tail=b"tar\0")
    assert read_one(star)[0].path == b"p" * 131 + b"/name"
    assert read_one(header(b"n", prefix=b"times", magic=b"ustar  \0"))[0].path == b"n"


def test_old_directories_end_in_a_slash() -> None:
    assert read_one(header(b"d/", b"\0"))[0].kind == stat.S_IFDIR
    assert read_one(header(b"d/", b"0"))[0].kind == stat.S_IFREG


def test_only_files_have_content() -> None:
    """A size in the header of a link or a directory says nothing about what follows."""
    for flag, kind in ((b"1", HARD_LINK), (b"5", stat.S_IFDIR), (b"2", stat.S_IFLNK)):
        links = read_all(header(b"x", flag, 4096, target=b"y") + header(b"next") + END)
        assert (links[0][0].kind, links[0][0].size) == (kind, 0)
        assert links[1][0].path == b"next"


def test_signed_checksums() -> None:
    block = header(b"\xff\xfe")
    signed = sum(
        byte - 256 if byte > 127 else byte for byte in block[:148] + b" " * 8 + block[156:]
    )
    assert read_one(block[:148] + b"%06o\0 " % signed + block[156:])[0].path == b"\xff\xfe"


def test_pax_records() -> None:
    own = {
        b"path": b"p\xff", b"uid": b"5000000", b"mtime": b"12.5", b"comment": b"=\n=",
        b"SCHILY.xattr.user.a": b"\0=\n", b"SCHILY.xattr.trusted.overlay.opaque": b"y",
        b"SCHILY.xattr.security.capability": b"c", b"SCHILY.xattr.user.empty": b"",
    }  # fmt: skip
    entry, _ = read_one(pax(own) + header(b"short"))
    assert (entry.path, entry.uid, entry.mtime, entry.mtime_nsec) == (
        b"p\xff",
        5_000_000,
        12,
        500_000_000,
    )
    assert entry.xattrs == {b"user.a": b"\0=\n", b"security.capability": b"c", b"user.empty": b""}


def test_global_pax_records() -> None:
    tar = pax({b"mtime": b"7", b"uid": b"8"}, b"g") + header(b"a") + pax({b"mtime": b"9"})
    found = read_all(tar + header(b"b") + pax({b"mtime": b""}, b"x") + header(b"c") + END)
    assert [(entry.mtime, entry.uid) for entry, _ in found] == [(7, 8), (9, 8), (7, 8)]


@pytest.mark.parametrize(
    ("mtime", "expected"),
    [(b"-1.5", (0, 0)), (b"1.123456789999", (1, 123_456_789)), (b"9" * 15, (0, 0)), (b"3", (3, 0))],
)
def test_pax_times(mtime: bytes, expected: tuple[int, int]) -> None:
    entry, _ = read_one(pax({b"mtime": mtime}) + header(b"a"))
    assert (entry.mtime, entry.mtime_nsec) == expected


def test_time_before_1970_in_the_header() -> None:
    assert read_one(header(b"a", mtime=-5))[0].mtime == 0


def test_size_above_8_gib_in_base_256() -> None:
    with pytest.raises(FormatError, match="middle of an entry"):
        read_all(header(b"a", size=9 << 30) + b"little" + END)


@pytest.mark.parametrize("encode", [bytes, gzip.compress, zstandard.compress])
def test_end_of_archive(encode: type[bytes]) -> None:
    assert len(read_all(encode(header(b"a") + END + b"junk after the end" * 100))) == 1
    assert len(read_all(encode(header(b"a")))) == 1
    assert read_all(encode(b"")) == []


# --- lies ----------------------------------------------------------------------------------------


def sparse(segments: list[tuple[int, int]], size: int, packed: int) -> bytes:
    text = b"".join(b"%d\n" % n for n in [len(segments), *[n for pair in segments for n in pair]])
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0",
               b"GNU.sparse.name": b"s", b"GNU.sparse.realsize": b"%d" % size}  # fmt: skip
    body = padded(text) + bytes(packed)
    return pax(records) + header(b"s", size=len(body)) + padded(body)


LIES = {
    "checksum": header(b"a")[:-1] + b"x",
    "kind": header(b"a", b"D"),
    "negative size": header(b"a", size=-1),
    "letters in a number": with_checksum(header(b"a")[:124] + b"12z45\0" + header(b"a")[130:]),
    "content cut short": header(b"a", size=1000)[:512] + b"x" * 488,
    "header cut short": header(b"a")[:500],
    "one zero block": bytes(BLOCK) + header(b"a"),
    "extension of nothing": pax({b"path": b"x"}),
    "huge extension": header(b"x", b"x", 2 << 20) + bytes(2 << 20),
    "huge long name": header(b"x", b"L", 1 << 40),
    "record without length": header(b"x", b"x", 8) + padded(b"path=xx\n"),
    "record too long": header(b"x", b"x", 9) + padded(b"99 a=bcd\n") + header(b"a"),
    "record of no length": header(b"x", b"x", 8) + padded(b"0 a=bcd\n") + header(b"a"),
    "NUL in a name": pax({b"path": b"a\0b"}) + header(b"a"),
    "owner": pax({b"uid": b"4294967295"}) + header(b"a"),
    "negative owner": header(b"a", uid=-1),
    "device": header(b"a", b"3", device=(1 << 12, 0)),
    "time": pax({b"mtime": b"soon"}) + header(b"a"),
    "global path": pax({b"path": b"x"}, b"g") + header(b"a"),
    "sparse overlap": sparse([(0, 600), (500, 100)], 1000, 700),
    "sparse beyond the end": sparse([(0, 600)], 500, 600),
    "sparse with too little": sparse([(0, 600)], 600, 500),
    "sparse of half a map": pax({b"GNU.sparse.size": b"5", b"GNU.sparse.map": b"0"}) + header(b"a"),
    "sparse of many": pax({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"5"})
    + header(b"a", size=512) + padded(b"9999999999\n"),
    "sparse without lines": pax({b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"5"})
    + header(b"a", size=1024) + b"1" * 1024,
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_lies(name: str) -> None:
    with pytest.raises(FormatError, match=r"test layer, (entry at )?offset \d+: "):
        read_all(LIES[name] + END if "short" not in name else LIES[name])


def test_huge_zstd_window() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=30)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compressor.compress(b"x" * 1000) + compressor.flush()
    with pytest.raises(FormatError, match="does not decompress"):
        read_all(data)


GOOD = (
    LayerTar().directory("d").add("d/" + "n" * 120, data=b"x" * 700, xattrs={b"user.a": b"1"})
    .link("l", "d").add("dev", b"3", device=(1, 2)).raw(sparse([(0, 10), (600, 20)], 2000, 30))
    .tar()
)  # fmt: skip


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4),
    st.booleans(),
    st.integers(0, len(GOOD)),
)
def test_any_bytes(changes: list[tuple[int, int]], repaired: bool, end: int) -> None:
    """Entries or a FormatError, never anything else; with right checksums to get far."""
    data = bytearray(GOOD[: end or None])
    for position, value in changes:
        if position < len(data):
            data[position] = value
            start = position - position % BLOCK
            if repaired and len(data) >= start + BLOCK:
                data[start : start + BLOCK] = with_checksum(bytes(data[start : start + BLOCK]))
    with contextlib.suppress(FormatError):
        read_all(bytes(data))


def test_real_layer(samples: Path) -> None:
    """Names, sizes and contents as the standard library has them."""
    data = (samples / "alpine.estargz.tar.gz").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = []
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            expected.append((os.fsencode(member.name), content.read() if content else b""))
    assert [(entry.path.rstrip(b"/"), content) for entry, content in read_all(data)] == expected
