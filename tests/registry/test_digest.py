"""Streams hand out only what was promised."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fs.format.errors import FormatError, StorageError, VerifyError
from fs.registry.body import BlobBody
from fs.registry.descriptor import describe
from fs.registry.digest import check_digest, digest_of, is_digest, verified
from fs.registry.files import blob_path


class Dribble(io.BytesIO):
    """Gives few bytes a read, as networks do."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 3))


@given(st.binary(max_size=100), st.integers(1, 40))
def test_good_content_passes(data: bytes, step: int) -> None:
    for source in (io.BytesIO(data), Dribble(data)):
        with verified(source, digest_of(data), len(data), "x") as stream:
            pieces = list(iter(lambda s=stream: s.read(step), b""))  # type: ignore[misc]
        assert b"".join(pieces) == data
        assert source.closed


@given(st.binary(min_size=1, max_size=60), st.data())
def test_anything_else_never_delivers_its_last_piece(data: bytes, draw: st.DataObject) -> None:
    other = draw.draw(
        st.sampled_from([data[:-1], data + b"x", bytes([data[0] ^ 1]) + data[1:], b""])
    )
    with verified(io.BytesIO(other), digest_of(data), len(data), "x") as stream:
        got: list[bytes] = []
        with pytest.raises(VerifyError):
            got.extend(iter(lambda: stream.read(7), b""))
        assert sum(map(len, got)) < len(data)


def test_reading_exactly_the_size_is_verified() -> None:
    with (
        verified(io.BytesIO(b"abd"), digest_of(b"abc"), 3, "x") as stream,
        pytest.raises(VerifyError, match=r"x: .*promised, the bytes have"),
    ):
        stream.read(3)


def test_read_errors_are_storage_errors() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with (
        verified(Broken(), digest_of(b"abc"), 3, "x") as stream,
        pytest.raises(StorageError, match="Input/output"),
    ):
        stream.read()


@pytest.mark.parametrize(
    "text",
    [
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 64 + "\n",
        "sha256:../" + "a" * 61,
        "SHA256:" + "a" * 64,
        "sha1:" + "a" * 40,
        "",
        None,
        7,
    ],
)
def test_no_digest(text: object) -> None:
    with pytest.raises(FormatError, match="is not a sha256 or sha512 digest"):
        check_digest(text, "x")
    if isinstance(text, str):
        assert not is_digest(text)
        with pytest.raises(FormatError):
            blob_path(text)


def test_body_from_a_pipe_is_read_once() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    descriptor = describe(b"abc", "t")
    body = BlobBody(Pipe(b"abc"), descriptor, "x")
    assert b"".join(body.pieces()) == b"abc"
    with pytest.raises(Exception, match="cannot be read again"):
        b"".join(body.pieces())


def test_body_with_a_position_is_read_from_there_and_left_open() -> None:
    source = io.BytesIO(b"..abc")
    source.seek(2)
    body = BlobBody(source, describe(b"abc", "t"), "x")
    assert b"".join(body.pieces()) == b"".join(body.pieces()) == b"abc"
    assert not source.closed
