"""Clients that are slow, large, many, or speak something else."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.daemon.api.client import Client, connected
from tests.parts.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def answered(line: socket.socket, raw: bytes) -> bytes:
    """What comes back until the daemon closes."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        line.sendall(raw)
    told = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := line.recv(1 << 16):
            told += piece
    return told


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x00\xff garbage\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (1 << 17), b"431"),
        (b"PUT /api/v1/daemon HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (
            b"PUT /api/v1/daemon HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n"
            + b"x" * (2 << 20),
            b"413",
        ),
    ],
    ids=["garbage", "no host", "large head", "negative", "large body"],
)
def test_bad_requests(client: Client, raw: bytes, status: bytes) -> None:
    with connected(client.path) as line:
        assert answered(line, raw).startswith(b"HTTP/1.1 " + status)
    assert client.get("/api/v1/daemon")["state"] == "RUNNING"


def test_a_deep_body_is_refused(client: Client) -> None:
    deep = b"[" * 200_000
    head = f"PUT /api/v1/daemon HTTP/1.1\r\nHost: x\r\nContent-Length: {len(deep)}\r\n"
    with connected(client.path) as line:
        told = answered(line, head.encode() + b"Connection: close\r\n\r\n" + deep)
    assert told.startswith(b"HTTP/1.1 400")


def test_requests_follow_each_other_on_one_connection(client: Client) -> None:
    request = b"GET /api/v2/daemon HTTP/1.1\r\nHost: x\r\n\r\n"
    last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with connected(client.path) as line:
        assert answered(line, request * 2 + last).count(b"HTTP/1.1 200") == 3


def test_silent_clients_hold_nobody_and_are_not_kept(client: Client) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connected(client.path)) for _ in range(60)]
        silent[0].sendall(b"GET / HT")
        assert client.get("/api/v1/daemon")["state"] == "RUNNING"
        more = [stack.enter_context(connected(client.path)) for _ in range(8)]
        more[-1].settimeout(PATIENCE)
        assert more[-1].recv(1) == b""  # one too many
        assert silent[0].recv(1) == b""  # after its 10 seconds
    eventually(lambda: client.get("/api/v1/daemon"), "there is room again")
