"""Several hosts for one registry, some of which fail, lie or should not be told things."""

from __future__ import annotations

import base64
import json
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fs.format.errors import (
    AccessError,
    NotFoundError,
    UnreachableError,
    UsageError,
    VerifyError,
)
from fs.registry.client import RegistryClient
from fs.registry.failover import REST, Hosts
from fs.registry.mediatypes import OCI_MANIFEST
from fs.registry.reference import parse_reference
from fs.registry.store import ImageReader, StoreOptions, open_reader, open_writer
from tests.registry.faulty import Behaviour, Faulty, Reply, Request
from tests.registry.images import make_image
from tests.registry.world import BLOB, LAYER, SECRET, World, cut_after, script, serve

LIE = bytes(len(BLOB))
REGISTRY = "registry.invalid"


def configure(
    root: Path, *tables: tuple[Faulty | str, str], server: Faulty | None = None
) -> StoreOptions:
    """hosts.toml for REGISTRY: hosts with more lines of theirs, then its own server."""
    lines = [f'server = "http://{server.host}"'] if server else []
    for host, extra in tables:
        lines += [f'[host."http://{host if isinstance(host, str) else host.host}"]', extra]
    directory = root / REGISTRY
    directory.mkdir()
    (directory / "hosts.toml").write_text("\n".join(lines))
    return StoreOptions(hosts_dirs=(root,))


def reader_of(world: World, options: StoreOptions) -> ImageReader:
    own = replace(world.options, hosts_dirs=options.hosts_dirs, plain_http=False)
    reader = open_reader(f"{REGISTRY}/repo:tag", own)
    return world.stack.enter_context(closing(reader))


def lying(request: Request) -> Reply:
    """As `serve`, with other bytes."""
    reply = serve(request)
    assert isinstance(reply.body, bytes)
    return replace(reply, body=bytes(len(reply.body)))


def registry_of(image_bytes: dict[str, bytes]) -> Behaviour:
    """Serves manifests and blobs by digest, and one of them as "tag"."""

    def behave(request: Request) -> Reply:
        target = re.split(r"[/?]", request.path.removeprefix("/v2/repo/"))[1]
        if target not in image_bytes:
            return Reply(404)
        return Reply(headers={"Content-Type": OCI_MANIFEST}, body=image_bytes[target])

    return behave


def whole_image() -> dict[str, bytes]:
    image = make_image(b"content")
    contents = {digest: bytes(data) for digest, data in image.blobs.items()}
    return {**contents, image.descriptor.digest: image.raw, "tag": image.raw}


# --- order


def test_mirrors_are_asked_in_order_and_told_what_is_meant(world: World, tmp_path: Path) -> None:
    first, second, own = world.server(serve), world.server(serve), world.server(serve)
    options = configure(tmp_path, (first, ""), (second, ""), server=own)
    reader = reader_of(world, options)
    assert reader.read_range(LAYER, 5, 9) == BLOB[5:14]
    assert [request.path for request in first.requests] == [
        f"/v2/repo/blobs/{LAYER.digest}?ns={REGISTRY}"
    ]
    assert second.requests == own.requests == []


@pytest.mark.parametrize("status", [401, 403, 404, 416, 429, 500, 503])
def test_next_host_when_one_refuses(world: World, tmp_path: Path, status: int) -> None:
    mirror, own = world.server(script(Reply(status))), world.server(serve)
    reader = reader_of(world, configure(tmp_path, (mirror, ""), server=own))
    for offset in (0, 100, 200):
        assert reader.read_range(LAYER, offset, 9) == BLOB[offset : offset + 9]
    assert world.waits == []
    # It is not asked again for each range.
    assert len(mirror.requests) == 1


def test_next_host_when_one_is_not_there(world: World, tmp_path: Path) -> None:
    own = world.server(serve)
    reader = reader_of(world, configure(tmp_path, ("127.0.0.1:1", ""), server=own))
    assert reader.read_range(LAYER, 0, 9) == BLOB[:9]
    with reader.open_blob(LAYER) as stream:
        assert stream.read() == BLOB


def test_host_that_failed_is_asked_again_after_a_rest(world: World, tmp_path: Path) -> None:
    mirror, own = world.server(script(Reply(503), serve)), world.server(serve)
    options = configure(tmp_path, (mirror, ""), server=own)
    now = [0.0]
    hosts = Hosts(parse_reference(f"{REGISTRY}/repo"), options, clock=lambda: now[0])

    def fetch(client: RegistryClient) -> str:
        client.blob(LAYER.digest).close()
        return client.host.name

    def asked() -> str:
        return hosts.ask(fetch, "pull", "x")

    assert [asked(), asked()] == [own.host, own.host]
    now[0] = REST + 1
    assert asked() == mirror.host
    assert asked() == own.host  # one tries it, until it has answered in full
    hosts.well(hosts.clients[0])
    assert asked() == mirror.host
    hosts.close()


def test_host_that_stays_away_is_asked_ever_less(world: World, tmp_path: Path) -> None:
    mirror, own = world.server(script(Reply(503))), world.server(serve)
    now = [0.0]
    hosts = Hosts(
        parse_reference(f"{REGISTRY}/repo"),
        configure(tmp_path, (mirror, ""), server=own),
        clock=lambda: now[0],
    )
    for _ in range(360):
        hosts.ask(lambda client: client.blob(LAYER.digest).close(), "pull", LAYER.digest)
        now[0] += 10
    hosts.close()
    # After 0, 30, 90, 210, 450, and then every 480 seconds of one hour.
    assert len(mirror.requests) == 11


def test_download_goes_on_at_the_next_host(world: World, tmp_path: Path) -> None:
    mirror, own = world.server(cut_after(100_000)), world.server(serve)
    reader = reader_of(world, configure(tmp_path, (mirror, ""), server=own))
    with reader.open_blob(LAYER) as stream:
        assert stream.read() == BLOB
    assert [request.headers["range"] for request in own.requests] == ["bytes=100000-"]


def test_range_goes_on_at_the_next_host(world: World, tmp_path: Path) -> None:
    mirror, own = world.server(cut_after(10)), world.server(serve)
    reader = reader_of(world, configure(tmp_path, (mirror, ""), server=own))
    assert reader.read_range(LAYER, 1000, 50) == BLOB[1000:1050]
    assert [request.headers["range"] for request in own.requests] == ["bytes=1010-1049"]


# --- capabilities


def test_tag_is_asked_only_of_hosts_that_resolve(world: World, tmp_path: Path) -> None:
    behave = registry_of(whole_image())
    mirror, own = world.server(behave), world.server(behave)
    reader = reader_of(world, configure(tmp_path, (mirror, 'capabilities = ["pull"]'), server=own))
    image = reader.resolve()
    assert [request.path for request in own.requests] == [f"/v2/repo/manifests/tag?ns={REGISTRY}"]
    # The configuration comes by digest, from the mirror.
    assert len(mirror.to(image.manifest.config.digest)) == 1


def test_host_without_any_use_is_not_asked(world: World, tmp_path: Path) -> None:
    mirror, own = world.server(serve), world.server(serve)
    reader = reader_of(world, configure(tmp_path, (mirror, 'capabilities = ["push"]'), server=own))
    reader.read_range(LAYER, 0, 9)
    assert mirror.requests == []


def test_nobody_may_resolve(world: World, tmp_path: Path) -> None:
    own = world.server(serve)
    options = configure(tmp_path, server=own)
    file = tmp_path / REGISTRY / "hosts.toml"
    file.write_text(f'{file.read_text()}\ncapabilities = ["pull"]')
    with pytest.raises(UsageError, match="no host that can resolve"):
        reader_of(world, options).resolve()
    with pytest.raises(UsageError, match="no host that can push"):
        open_writer(f"{REGISTRY}/repo:tag", options)


# --- lies


def test_lie_in_a_blob_is_asked_of_the_next_host(world: World, tmp_path: Path) -> None:
    mirror, own = world.server(lying), world.server(serve)
    reader = reader_of(world, configure(tmp_path, (mirror, ""), server=own))
    for _ in range(2):
        with reader.open_blob(LAYER) as stream:
            assert stream.read() == BLOB
    assert len(mirror.requests) == 1


def test_lie_in_a_range_is_asked_of_the_next_host(world: World, tmp_path: Path) -> None:
    mirror, own = world.server(lying), world.server(serve)
    reader = reader_of(world, configure(tmp_path, (mirror, ""), server=own))
    assert reader.read_range(LAYER, 7, 9) == LIE[:9]
    assert not reader.reject(LAYER.digest, 7, 8)  # that was not read
    assert reader.reject(LAYER.digest, 7, 9)
    assert reader.read_range(LAYER, 7, 9) == BLOB[7:16]
    assert not reader.reject(LAYER.digest, 7, 9)  # nobody is left to ask


def test_lie_in_a_manifest_is_asked_of_the_next_host(world: World, tmp_path: Path) -> None:
    image = whole_image()
    liar = dict.fromkeys(image, image["tag"] + b" ") | {"tag": image["tag"]}
    mirror, own = world.server(registry_of(liar)), world.server(registry_of(image))
    reader = reader_of(world, configure(tmp_path, (mirror, ""), server=own))
    assert reader.resolve().descriptor.digest in image
    assert len(own.requests) == 1  # the configuration


def test_all_hosts_lie(world: World, tmp_path: Path) -> None:
    mirror, own = world.server(lying), world.server(lying)
    reader = reader_of(world, configure(tmp_path, (mirror, ""), server=own))
    with pytest.raises(VerifyError):
        reader.open_blob(LAYER)
    assert [len(mirror.requests), len(own.requests)] == [1, 1]


# --- which failure is told


def test_what_the_registry_does_not_have_is_not_there(world: World, tmp_path: Path) -> None:
    own = world.server(script(Reply(404)))
    reader = reader_of(world, configure(tmp_path, ("127.0.0.1:1", ""), server=own))
    with pytest.raises(NotFoundError, match=r"127\.0\.0\.1:1: .*refused; .*not found"):
        reader.read_range(LAYER, 0, 9)


def test_mirror_may_come_back_where_the_registry_refuses(world: World, tmp_path: Path) -> None:
    mirror = world.server(script(Reply(503), Reply(503), serve))
    own = world.server(script(Reply(403)))
    reader = reader_of(world, configure(tmp_path, (mirror, ""), server=own))
    assert reader.read_range(LAYER, 0, 9) == BLOB[:9]
    mirror.behave = script(Reply(503))
    with pytest.raises(UnreachableError):
        reader.read_range(LAYER, 0, 9)
    mirror.behave = script(Reply(404))
    with pytest.raises(AccessError):
        reader.read_range(LAYER, 0, 9)


# --- what each host is told


def test_logins_and_headers_are_for_their_host_alone(world: World, tmp_path: Path) -> None:
    challenge = Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})

    def guarded(request: Request) -> Reply:
        return Reply(503) if "authorization" in request.headers else challenge

    storage = world.server(serve)
    mirror, other = world.server(guarded), world.server(guarded)
    own = world.server(
        lambda request: (
            Reply(307, {"Location": f"http://{storage.host}/signed"})
            if "authorization" in request.headers
            else challenge
        )
    )
    secret = f'[host."http://{mirror.host}".header]\nX-Secret = "{SECRET}"'
    options = configure(tmp_path, (mirror, secret), (other, ""), server=own)
    logins = {mirror.host: "mirror", own.host: "own"}
    auths = {h: {"auth": base64.b64encode(f"{u}:pw".encode()).decode()} for h, u in logins.items()}
    (tmp_path / "auth.json").write_text(json.dumps({"auths": auths}))
    world_options = replace(world.options, auth_file=tmp_path / "auth.json", plain_http=False)
    with closing(
        open_reader(f"{REGISTRY}/repo", replace(world_options, hosts_dirs=options.hosts_dirs))
    ) as reader:
        assert reader.read_range(LAYER, 0, 9) == BLOB[:9]
    assert [user_of(request) for request in mirror.requests] == ["", "mirror"]
    assert [user_of(request) for request in other.requests] == [""]
    assert [user_of(request) for request in own.requests] == ["", "own"]
    assert [user_of(request) for request in storage.requests] == [""]
    told = [server for server in (mirror, other, own, storage) if has_secret(server)]
    assert told == [mirror]


def user_of(request: Request) -> str:
    kind, _, pair = request.headers.get("authorization", "").partition(" ")
    return base64.b64decode(pair).decode().partition(":")[0] if kind else ""


def has_secret(server: Faulty) -> bool:
    return any(SECRET in str(request.headers) for request in server.requests)
