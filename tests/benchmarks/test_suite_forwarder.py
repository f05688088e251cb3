"""The forwarder makes a path longer, keeps all bytes and their order, and does not narrow it."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from benchmarks.services import await_socket, free_port, running
from benchmarks.suite.networks import (
    NETWORKS,
    Network,
    buffer_bytes,
    build_forwarder,
    forward,
)
from tests.conftest import programs_missing
from tests.parts.waiting import eventually

pytestmark = pytest.mark.skipif(bool(programs_missing("gcc")), reason="gcc not installed")
_ROUND_TRIP = 0.2


@pytest.fixture(scope="module")
def forwarder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_forwarder(tmp_path_factory.mktemp("forwarder"))


@contextmanager
def forwarded(forwarder: Path, server: socket.socket, work: Path, megabits: int) -> Iterator[int]:
    """The port that leads to `server` with a delay."""
    port, network = free_port(), Network("test", megabits, _ROUND_TRIP * 1000)
    command = forward(forwarder, "127.0.0.1", port, server.getsockname()[1], network)
    with running(command, work / "log") as process:
        await_socket(("127.0.0.1", port), process, work / "log")
        server.accept()[0].close()  # the question whether it listens
        yield port


def test_request_and_answer_take_two_round_trips(forwarder: Path, tmp_path: Path) -> None:
    """One for the handshake, which the forwarder itself answers at once."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        forwarded(forwarder, server, tmp_path, 10) as port,
    ):
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"question")
            with closing(server.accept()[0]) as peer:
                assert peer.recv(100) == b"question"
                peer.sendall(b"answer")
                assert client.recv(100) == b"answer"
                first = time.monotonic() - begun
                client.sendall(b"more")
                assert peer.recv(100) == b"more"
                second = time.monotonic() - begun - first
    assert first >= 2 * _ROUND_TRIP
    assert second >= _ROUND_TRIP / 2


def test_bytes_are_on_their_way_together(forwarder: Path, tmp_path: Path) -> None:
    """All of what the link holds is taken before the first byte has arrived.

    On a busy machine a sender may not get that far in time, and tries again; where less were
    taken, no attempt would show it.
    """
    data = bytes(range(256)) * 8192  # 2 MiB
    megabits = 400
    assert buffer_bytes(Network("test", megabits, _ROUND_TRIP * 1000)) > len(data)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        forwarded(forwarder, server, tmp_path, megabits) as port,
    ):
        eventually(lambda: _is_taken_at_once(server, port, data), "taken before it arrived")


def _is_taken_at_once(server: socket.socket, port: int, data: bytes) -> bool:
    """Whether a peer had handed over all of `data`, which arrives, before its first byte did."""
    taken: list[float] = []

    def send(peer: socket.socket) -> None:
        with peer:
            peer.sendall(data)
            taken.append(time.monotonic())

    with socket.create_connection(("127.0.0.1", port)) as client:
        sender = threading.Thread(target=send, args=(server.accept()[0],))
        sender.start()
        pieces = [client.recv(1)]
        arrived = time.monotonic()
        while piece := client.recv(1 << 16):
            pieces.append(piece)
        sender.join()
    assert b"".join(pieces) == data
    return taken[0] < arrived


def test_wrong_use_is_refused(forwarder: Path) -> None:
    done = subprocess.run([forwarder], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: delay")


@pytest.mark.parametrize("network", NETWORKS.values(), ids=lambda network: network.name)
def test_buffer_holds_what_is_on_the_way(network: Network) -> None:
    assert buffer_bytes(network) >= (network.megabits or 0) * 125 * network.round_trip
