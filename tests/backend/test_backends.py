"""Ranges from directories and HTTP servers, and how each fault is called."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fs.backend.blobs import BlobBackend
from fs.backend.directory import DirectoryBackend
from fs.backend.http import HttpBackend
from fs.backend.image import ImageBackend
from fs.format.errors import (
    AccessError,
    Failure,
    FormatError,
    NotFoundError,
    UnreachableError,
    UsageError,
    VerifyError,
)
from fs.registry.retry import TemporaryFault
from tests.backend.servers import BlobServer, blob_server
from tests.registry.faulty import Reply
from tests.registry.world import BLOB, World, serve

_CONTENT = bytes(range(256)) * 100


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    (tmp_path / "blob").write_bytes(_CONTENT)
    return tmp_path


def _assert_ranges(backend: BlobBackend) -> None:
    for offset, length in ((0, 1), (17, 300), (25000, 600), (0, 25600)):
        assert backend.read("blob", offset, length) == _CONTENT[offset : offset + length]
    with pytest.raises(NotFoundError):
        backend.read("other", 0, 1)
    for offset in (25600, 25500):
        with pytest.raises(VerifyError):
            backend.read("blob", offset, 200)
    for name in ("../blob", "a/b", "", ".hidden", "x" * 200):
        with pytest.raises(FormatError):
            backend.read(name, 0, 1)
    backend.close()


def test_directory(blobs: Path) -> None:
    _assert_ranges(DirectoryBackend(str(blobs)))


def test_http(blobs: Path) -> None:
    with blob_server(blobs) as server:
        _assert_ranges(HttpBackend(server.url + "/"))


def test_http_keeps_its_connection(blobs: Path) -> None:
    with blob_server(blobs) as server:
        backend = HttpBackend(server.url)
        for offset in range(20):
            backend.read("blob", offset, 100)
        assert server.connections == 1
        backend.close()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("404", NotFoundError),
        ("401", AccessError),
        ("403", AccessError),
        ("416", VerifyError),
        ("429", TemporaryFault),
        ("500", TemporaryFault),
        ("503", TemporaryFault),
        ("410", NotFoundError),
        ("418", AccessError),
        ("501", UnreachableError),
        ("short", TemporaryFault),
        ("other", VerifyError),
    ],
)
def test_http_faults(blobs: Path, mode: str, kind: type[Failure]) -> None:
    with blob_server(blobs) as server:
        server.mode = mode
        server.retry_after = "7"
        backend = HttpBackend(server.url)
        with pytest.raises(kind) as caught:
            backend.read("blob", 0, 1000)
        assert type(caught.value) is kind
        if isinstance(caught.value, TemporaryFault) and mode != "short":
            assert caught.value.retry_after == 7
        server.mode = ""
        assert backend.read("blob", 0, 5) == _CONTENT[:5]
        backend.close()


def test_http_server_that_ignores_ranges(blobs: Path) -> None:
    with blob_server(blobs) as server:
        server.mode = "whole"
        _check_whole(server)


def _check_whole(server: BlobServer) -> None:
    backend = HttpBackend(server.url)
    assert backend.read("blob", 300, 1000) == _CONTENT[300:1300]
    with pytest.raises(VerifyError):
        backend.read("blob", 25500, 200)
    backend.close()


def test_http_outage(blobs: Path) -> None:
    with blob_server(blobs) as server:
        backend = HttpBackend(server.url)
        server.down()
        with pytest.raises(UnreachableError):
            backend.read("blob", 0, 1)
        server.up()
        assert backend.read("blob", 0, 5) == _CONTENT[:5]
        backend.close()


@pytest.mark.parametrize("url", ["ftp://host/x", "host/x", "http://", ""])
def test_http_urls(url: str) -> None:
    with pytest.raises(UsageError):
        HttpBackend(url)


def test_http_credentials_are_refused_and_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        HttpBackend("http://user:secret@host/x")
    assert "secret" not in str(caught.value)


def test_image_backend_takes_only_digests() -> None:
    class Reader:
        asked = ""

        def read_range(self, blob: str, offset: int, length: int) -> bytes:
            self.asked = blob
            return b"x" * length

        def close(self) -> None: ...

    reader = Reader()
    backend = ImageBackend(reader)  # type: ignore[arg-type]
    assert backend.read("0" * 64, 0, 3) == b"xxx"
    assert reader.asked == "sha256:" + "0" * 64
    with pytest.raises(FormatError):
        backend.read("0" * 63, 0, 3)


def test_http_redirect_is_kept_until_it_fails(world: World) -> None:
    storage = world.server(serve)
    signatures = itertools.count()
    front = world.server(
        lambda request: Reply(
            307, {"Location": f"http://{storage.host}/{next(signatures)}?signature=s3cret"}
        )
    )
    backend = HttpBackend(f"http://{front.host}/blobs")
    for offset in range(5):
        assert backend.read("blob", offset, 9) == BLOB[offset : offset + 9]
    assert (len(front.requests), len(storage.requests)) == (1, 5)
    storage.behave = lambda r: serve(r) if r.path.startswith("/1") else Reply(403)
    assert backend.read("blob", 7, 9) == BLOB[7:16]  # the old signature has run out
    assert (len(front.requests), len(storage.requests)) == (2, 7)
    storage.behave = lambda r: Reply(403)
    with pytest.raises(AccessError) as caught:
        backend.read("blob", 7, 9)
    assert "s3cret" not in str(caught.value)
    backend.close()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://[", "", None])
def test_http_redirect_to_nowhere(world: World, target: str | None) -> None:
    headers = {} if target is None else {"Location": target}
    front = world.server(lambda request: Reply(302, headers))
    backend = HttpBackend(f"http://{front.host}/blobs")
    with pytest.raises(FormatError):
        backend.read("blob", 0, 1)
    backend.close()


def test_http_redirects_without_end(world: World) -> None:
    front = world.server(lambda request: Reply(302, {"Location": "/again"}))
    backend = HttpBackend(f"http://{front.host}/blobs")
    with pytest.raises(UnreachableError, match="too many redirects"):
        backend.read("blob", 0, 1)
    assert len(front.requests) == 6
    backend.close()
