"""Blobs that are asked for before anybody reads them, and connections made before they are used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from fs.format.errors import UnreachableError
from fs.registry.client import RegistryClient
from fs.registry.headstart import HeadStart, Opened
from fs.registry.hosts import find_hosts
from fs.registry.reference import parse_reference
from fs.registry.remote import RegistryReader
from fs.registry.store import ImageReader
from fs.registry.transport import Transport
from tests.parts.waiting import PATIENCE, eventually
from tests.registry.faulty import Behaviour, Faulty, Reply, Request
from tests.registry.world import BLOB, LAYER, World, cut_after, script, serve


def _begun(world: World, behave: Behaviour) -> tuple[Faulty, ImageReader]:
    server = world.server(behave)
    reader = world.reader(server)
    assert isinstance(reader, RegistryReader)
    reader.begin(LAYER)
    return server, reader


def _ranges(server: Faulty) -> list[str]:
    return [request.headers["range"] for request in server.requests]


def test_what_was_begun_is_not_asked_for_again(world: World) -> None:
    server, reader = _begun(world, serve)
    eventually(lambda: server.requests, "the blob is asked for")
    assert reader.read_range(LAYER, 0, LAYER.size) == BLOB
    assert len(server.requests) == 1
    assert reader.read_range(LAYER, 0, LAYER.size) == BLOB
    assert len(server.requests) == 2


def test_all_but_the_end_is_wanted(world: World) -> None:
    server, reader = _begun(world, serve)
    assert reader.read_range(LAYER, 0, LAYER.size - 1000) == BLOB[:-1000]
    assert len(server.requests) == 1


@pytest.mark.parametrize(("offset", "length"), [(0, 100), (1, len(BLOB) - 1)])
def test_other_ranges_are_asked_for(world: World, offset: int, length: int) -> None:
    server, reader = _begun(world, serve)
    assert reader.read_range(LAYER, offset, length) == BLOB[offset : offset + length]
    eventually(lambda: len(server.requests) == 2, "both are asked for")
    assert reader.read_range(LAYER, 0, LAYER.size) == BLOB
    assert len(server.requests) == 2


def test_what_breaks_goes_on_where_it_was(world: World) -> None:
    server, reader = _begun(world, script(cut_after(100_000), serve))
    eventually(lambda: server.requests, "the blob is asked for")
    assert reader.read_range(LAYER, 0, LAYER.size) == BLOB
    first, second = _ranges(server)
    assert first == f"bytes=0-{LAYER.size - 1}"
    assert second.endswith(f"-{LAYER.size - 1}")
    assert 0 < int(second.removeprefix("bytes=").partition("-")[0]) <= 100_000


def test_what_is_refused_is_asked_for_again(world: World) -> None:
    server, reader = _begun(world, script(Reply(404), serve))
    eventually(lambda: server.requests, "the blob is asked for")
    assert reader.read_range(LAYER, 0, LAYER.size) == BLOB
    assert len(server.requests) == 2


def test_the_reader_hears_of_a_server_that_stays_broken(world: World) -> None:
    _, reader = _begun(world, script(Reply(503)))
    with pytest.raises(UnreachableError, match="503"):
        reader.read_range(LAYER, 0, LAYER.size)


def test_little_is_received_before_somebody_reads(world: World) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(64 << 20 >> 16):
            yield bytes(1 << 16)
            sent += 1 << 16

    size = 64 << 20
    server = world.server(lambda _: Reply(200, {"Content-Length": str(size)}, endless()))
    head = HeadStart(size, lambda: _open(world, server))
    eventually(lambda: head._received.is_set(), "as much as may has come")
    assert sum(map(len, head._pieces)) == 1 << 20
    assert sent < size
    head.close()
    assert head.take() == ([], None)


def _open(world: World, server: Faulty) -> Opened:
    reference = parse_reference(f"{server.host}/repo:tag")
    client = RegistryClient(reference, world.options, find_hosts(reference, world.options)[0])
    world.stack.enter_context(closing(client))
    return client, client.blob(LAYER.digest)


def test_what_nobody_takes_is_given_up(world: World) -> None:
    server = world.server(serve)
    head = HeadStart(LAYER.size, lambda: _open(world, server), patience=0.01)
    eventually(lambda: head._received.is_set() and not head._pieces, "it is given up")
    assert head.take() == ([], None)


def test_connections_are_made_while_the_first_is_asked(world: World) -> None:
    together = threading.Barrier(3)

    def behave(request: Request) -> Reply:
        if request.path == "/first":
            eventually(lambda: len(server.peers) == 3, "connections are made meanwhile")
        else:
            together.wait(PATIENCE)
        return Reply(body=b"x")

    server = world.server(behave)
    transport = world.stack.enter_context(closing(Transport(world.options)))
    url = f"http://{server.host}"
    with transport.with_spare(url, 2):
        assert transport.send("GET", f"{url}/first", {}).read_all(1, "answer") == b"x"

    def ask() -> None:
        assert transport.send("GET", f"{url}/other", {}).read_all(1, "answer") == b"x"

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 4


def test_a_server_that_is_not_there_is_met_by_the_request_alone(world: World) -> None:
    transport = world.stack.enter_context(closing(Transport(world.options)))
    with transport.with_spare("http://127.0.0.1:1", 2), pytest.raises(UnreachableError):
        transport.send("GET", "http://127.0.0.1:1/first", {})
