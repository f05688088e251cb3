"""What the registry client does when servers fail, lie or attack."""

from __future__ import annotations

import base64
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fs.format.errors import (
    AccessError,
    Failure,
    FormatError,
    NotFoundError,
    UnreachableError,
    VerifyError,
)
from fs.registry.descriptor import Descriptor
from fs.registry.mediatypes import OCI_MANIFEST
from fs.registry.retry import RetryPolicy
from fs.registry.store import ImageReader, open_reader
from tests.parts.waiting import PATIENCE
from tests.registry.faulty import Faulty, Reply, Request
from tests.registry.images import make_image
from tests.registry.world import BLOB, LAYER, SECRET, World, basic, cut_after, login, script, serve


def read_all(reader: ImageReader, descriptor: Descriptor = LAYER) -> bytes:
    with reader.open_blob(descriptor) as stream:
        return stream.read()


# --- the link


def test_broken_download_goes_on_where_it_was(world: World) -> None:
    server = world.server(script(cut_after(100_000), cut_after(50_000), serve))
    assert read_all(world.reader(server)) == BLOB
    ranges = [request.headers.get("range") for request in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_broken_download_from_a_server_without_ranges(world: World) -> None:
    server = world.server(script(cut_after(100_000), Reply(body=BLOB)))
    assert read_all(world.reader(server)) == BLOB


def test_download_that_never_gets_on_fails(world: World) -> None:
    server = world.server(script(cut_after(1000), cut_after(0)))
    with pytest.raises(UnreachableError):
        read_all(world.reader(server))
    assert len(server.requests) == 4


def test_broken_range_goes_on_where_it_was(world: World) -> None:
    server = world.server(script(cut_after(10), serve))
    assert world.reader(server).read_range(LAYER, 1000, 50) == BLOB[1000:1050]
    ranges = [request.headers["range"] for request in server.requests]
    assert ranges == ["bytes=1000-1049", "bytes=1010-1049"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_temporary_status_is_tried_again(world: World, status: int) -> None:
    server = world.server(script(Reply(status), Reply(status), serve))
    assert world.reader(server).read_range(LAYER, 0, 4) == BLOB[:4]
    assert world.waits == [0.3, 0.6]


@pytest.mark.parametrize("status", [400, 404, 410, 418])
def test_permanent_status_is_not(world: World, status: int) -> None:
    server = world.server(script(Reply(status)))
    with pytest.raises((AccessError, NotFoundError), match=f"status {status}"):
        world.reader(server).read_range(LAYER, 0, 4)
    assert len(server.requests) == 1


def test_retry_after_is_honoured_and_bounded(world: World) -> None:
    asked = [Reply(429, {"Retry-After": seconds}) for seconds in ("7", "86400", "nonsense")]
    server = world.server(script(*asked, serve))
    assert world.reader(server).read_range(LAYER, 0, 4) == BLOB[:4]
    assert world.waits == [7.0, 60.0, 1.2]


def test_a_registry_that_stays_broken(world: World) -> None:
    server = world.server(script(Reply(503)))
    with pytest.raises(UnreachableError, match=r"manifest tag: status 503"):
        world.reader(server).resolve()
    assert len(server.requests) == 4


def test_a_silent_server_times_out(world: World) -> None:
    retry = RetryPolicy(attempts=1)
    options = replace(world.options, read_timeout=0.3, retry=retry)
    over = threading.Event()

    def silent() -> Iterator[bytes]:
        yield b"x"
        over.wait(PATIENCE)

    server = world.server(lambda request: Reply(200, {"Content-Length": "100"}, silent()))
    try:
        with pytest.raises(UnreachableError, match="timed out"):
            world.reader(server, options).resolve()
    finally:
        over.set()


# --- lies


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(body=BLOB[:-1] + b"?"), VerifyError),
        (Reply(body=BLOB[:-1]), VerifyError),
        (Reply(body=BLOB + b"?"), VerifyError),
        (Reply(body=b""), VerifyError),
        (Reply(body=itertools.repeat(BLOB)), VerifyError),
        (Reply(body=(BLOB[:-1],)), UnreachableError),
        (Reply(206, {"Content-Range": "bytes 0-1/2"}, BLOB[:2]), FormatError),
    ],
)
def test_wrong_blob(world: World, reply: Reply, error: type[Failure]) -> None:
    reader = world.reader(world.server(script(reply)))
    got: list[bytes] = []
    with reader.open_blob(LAYER) as stream, pytest.raises(error):
        got.extend(iter(lambda: stream.read(10_000), b""))
    assert sum(map(len, got)) < len(BLOB)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(body=BLOB), None),  # no ranges: skipped to the place
        (Reply(206, {"Content-Range": "bytes 1000-1002/9"}, BLOB[1000:1003]), None),
        (Reply(206, {"Content-Range": "bytes 1001-1049/*"}, BLOB[1001:1050]), FormatError),
        (Reply(206, {"Content-Range": "bytes 1000-1050/*"}, BLOB[1000:1051]), FormatError),
        (Reply(206, {"Content-Range": "bytes x"}, BLOB[1000:1050]), FormatError),
        (Reply(206, {}, BLOB[1000:1050]), FormatError),
        (Reply(416), VerifyError),
        (Reply(body=BLOB[:500]), VerifyError),
    ],
)
def test_range_answers(world: World, reply: Reply, error: type[Failure] | None) -> None:
    reader = world.reader(world.server(script(reply, then=serve)))
    if error is None:
        assert reader.read_range(LAYER, 1000, 50) == BLOB[1000:1050]
    else:
        with pytest.raises(error):
            reader.read_range(LAYER, 1000, 50)


def test_endless_answer_to_a_range_is_cut_off(world: World) -> None:
    headers = {"Content-Range": "bytes 0-9/10"}
    server = world.server(lambda r: Reply(206, headers, itertools.repeat(BLOB)))
    assert world.reader(server).read_range(LAYER, 0, 10) == BLOB[:10]


SAMPLE = make_image(b"x")


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (Reply(body=b"<html>"), FormatError, "not JSON"),
        (Reply(body=itertools.repeat(b" " * 65536)), FormatError, "more than 4194304"),
        (
            Reply(headers={"Docker-Content-Digest": LAYER.digest}, body=SAMPLE.raw),
            VerifyError,
            "was promised",
        ),
        (Reply(204), FormatError, "status 204"),
        (Reply(301), FormatError, "redirect: missing"),
        (Reply(404, body=itertools.repeat(b"x" * 65536)), NotFoundError, "404"),
        (Reply(404, body=b'{"errors":[{"code":"EVIL\\n\\u001b"}]}'), NotFoundError, r"404\)$"),
        (Reply(404, body=b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'), NotFoundError, "MANIFEST_"),
        (Reply(404, body=b"[" * 10_000), NotFoundError, "404"),
    ],
)
def test_wrong_manifest(world: World, reply: Reply, error: type[Failure], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        world.reader(world.server(script(reply))).resolve()
    assert "\n" not in str(caught.value)


def test_manifest_by_digest_is_verified(world: World) -> None:
    other = make_image(b"other")
    server = world.server(lambda r: Reply(headers={"Content-Type": OCI_MANIFEST}, body=other.raw))
    place = f"{server.host}/repo@{SAMPLE.descriptor.digest}"
    with closing(open_reader(place, world.options)) as reader, pytest.raises(VerifyError):
        reader.resolve()


def test_proxy_of_the_environment(world: World) -> None:
    proxy = world.server(serve)
    environment = {"HTTP_PROXY": f"http://user:{SECRET}@{proxy.host}"}
    options = replace(world.options, environment=environment)
    with closing(open_reader("registry.invalid/repo", options)) as reader:
        assert reader.read_range(LAYER, 0, 5) == BLOB[:5]
    request = proxy.requests[0]
    assert request.path == f"http://registry.invalid/v2/repo/blobs/{LAYER.digest}"
    assert "proxy-authorization" in request.headers
    assert "authorization" not in request.headers


# --- redirects


def store_and_front(world: World, location: Callable[[Faulty], str]) -> tuple[Faulty, Faulty]:
    """A registry with a login that redirects blobs to a storage server."""
    storage = world.server(serve)

    def front(request: Request) -> Reply:
        if request.headers.get("authorization") != basic():
            return Reply(401, {"WWW-Authenticate": 'Basic realm="r"'})
        return Reply(307, {"Location": location(storage)})

    return world.server(front), storage


def test_authorization_is_not_sent_to_another_host(world: World, tmp_path: Path) -> None:
    front, storage = store_and_front(world, lambda s: f"http://{s.host}/x?sig={SECRET}")
    reader = world.reader(front, login(world, tmp_path, front.host))
    assert reader.read_range(LAYER, 5, 5) == BLOB[5:10]
    assert front.requests[-1].headers["authorization"] == basic()
    assert [r.headers["range"] for r in storage.requests] == ["bytes=5-9"]
    assert all("authorization" not in request.headers for request in storage.requests)


def test_redirect_target_is_kept_and_renewed(world: World, tmp_path: Path) -> None:
    count = itertools.count()
    front, storage = store_and_front(world, lambda s: f"http://{s.host}/x?sig={next(count)}")
    reader = world.reader(front, login(world, tmp_path, front.host))
    for offset in range(5):
        assert reader.read_range(LAYER, offset, 5) == BLOB[offset : offset + 5]
    asked = len(front.requests)
    assert {request.path for request in storage.requests} == {"/x?sig=0"}

    def expired(request: Request) -> Reply:
        return Reply(403) if request.path.endswith("sig=0") else serve(request)

    storage.behave = expired
    assert reader.read_range(LAYER, 7, 5) == BLOB[7:12]
    assert len(front.requests) == asked + 1
    assert storage.requests[-1].path == "/x?sig=1"


def test_signed_url_is_not_shown(world: World, tmp_path: Path) -> None:
    front, storage = store_and_front(world, lambda s: f"http://u:{SECRET}@{s.host}/x?sig={SECRET}")
    storage.behave = script(Reply(403))
    reader = world.reader(front, login(world, tmp_path, front.host))
    with pytest.raises(
        AccessError, match=f"from {storage.host}: access denied .status 403"
    ) as caught:
        reader.read_range(LAYER, 0, 5)
    assert SECRET not in str(caught.value)
    storage.behave = cut_after(0)
    with pytest.raises(UnreachableError) as broken:
        reader.read_range(LAYER, 0, 5)
    assert SECRET not in str(broken.value)
    assert all("authorization" not in request.headers for request in storage.requests)


def test_redirect_for_ever(world: World) -> None:
    server = world.server(lambda request: Reply(302, {"Location": request.path}))
    with pytest.raises(UnreachableError, match="too many redirects"):
        world.reader(server).resolve()
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://x/", "http://", "//", "http://[x", "\x01"]
)
def test_redirect_to_nonsense(world: World, location: str) -> None:
    server = world.server(lambda request: Reply(302, {"Location": location}))
    with pytest.raises(Failure):
        world.reader(server).resolve()
    assert len(server.requests) <= 6


# --- tokens


@dataclass
class TokenWorld:
    """A registry that wants bearer tokens, and the server that hands them out."""

    registry: Faulty
    tokens: Faulty
    valid: list[str]


@pytest.fixture
def bearer(world: World) -> TokenWorld:
    valid: list[str] = ["t0"]
    tokens = world.server(lambda r: Reply(body=json.dumps({"token": valid[0]}).encode()))

    def front(request: Request) -> Reply:
        if request.headers.get("authorization") == f"Bearer {valid[0]}":
            return serve(request)
        challenge = f'Bearer realm="http://{tokens.host}/token?a=b",service="s",scope="x"'
        return Reply(401, {"WWW-Authenticate": challenge})

    return TokenWorld(world.server(front), tokens, valid)


def test_token_is_fetched_once(world: World, bearer: TokenWorld) -> None:
    reader = world.reader(bearer.registry)
    for offset in range(3):
        assert reader.read_range(LAYER, offset, 5) == BLOB[offset : offset + 5]
    assert len(bearer.tokens.requests) == 1
    path = bearer.tokens.requests[0].path
    assert path == "/token?a=b&service=s&scope=repository%3Arepo%3Apull"


@pytest.mark.parametrize("status", [401, 403])
def test_dead_token_is_renewed_once(world: World, bearer: TokenWorld, status: int) -> None:
    reader = world.reader(bearer.registry)
    reader.read_range(LAYER, 0, 5)
    before = bearer.registry.behave
    bearer.registry.behave = script(Reply(status), then=before)
    bearer.valid[0] = "t1"
    assert reader.read_range(LAYER, 0, 5) == BLOB[:5]
    assert len(bearer.tokens.requests) == 2
    bearer.registry.behave = script(Reply(status))
    bearer.valid[0] = "t2"
    with pytest.raises(AccessError):
        reader.read_range(LAYER, 0, 5)
    assert len(bearer.tokens.requests) == 3


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(body=b"{}"), FormatError),
        (Reply(body=b'{"token":"a\\r\\nX: y"}'), FormatError),
        (Reply(body=itertools.repeat(b" " * 65536)), FormatError),
        (Reply(401), AccessError),
        (Reply(404), AccessError),
        (Reply(500), UnreachableError),
    ],
)
def test_broken_token_server(
    world: World, bearer: TokenWorld, reply: Reply, error: type[Failure]
) -> None:
    bearer.tokens.behave = script(reply)
    with pytest.raises(error):
        world.reader(bearer.registry).read_range(LAYER, 0, 5)


def test_token_server_that_redirects_gets_no_login(
    world: World, bearer: TokenWorld, tmp_path: Path
) -> None:
    thief = world.server(lambda r: Reply(body=b'{"token":"t0"}'))
    target = f"http://{thief.host}/steal"
    bearer.tokens.behave = lambda r: Reply(302, {"Location": target})
    reader = world.reader(bearer.registry, login(world, tmp_path, bearer.registry.host))
    assert reader.read_range(LAYER, 0, 5) == BLOB[:5]
    assert bearer.tokens.requests[0].headers["authorization"] == basic()
    assert "authorization" not in thief.requests[0].headers


def test_errors_hold_no_secret(world: World, bearer: TokenWorld, tmp_path: Path) -> None:
    """Also not when servers echo what they were sent."""
    echo = json.dumps({"errors": [{"code": SECRET, "message": SECRET}]}).encode()
    options = login(world, tmp_path, bearer.registry.host)
    bearer.tokens.behave = lambda r: Reply(401, body=echo)
    with pytest.raises(AccessError) as refused:
        world.reader(bearer.registry, options).resolve()
    bearer.tokens.behave = lambda r: Reply(body=json.dumps({"token": SECRET}).encode())
    bearer.registry.behave = script(bearer.registry.behave, then=Reply(403, body=echo))
    with pytest.raises(AccessError) as denied:
        world.reader(bearer.registry, options).resolve()
    for caught in (refused, denied):
        assert SECRET not in f"{caught.value} {caught.value!r}"
        assert base64.b64encode(SECRET.encode()).decode() not in str(caught.value)
    assert SECRET not in repr(options)
