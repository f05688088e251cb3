"""The session spoken to in raw messages, as no kernel would: each has its answer, none ends it."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from fs.daemon.session import Session
from fs.drivers import wire
from fs.drivers.flat import FlatFiles
from fs.drivers.instances import BLOBS, Instances
from fs.format.errors import NotFoundError
from fs.image.tree import Image
from tests.parts.waiting import PATIENCE

pytestmark = pytest.mark.root  # the library wants to see /dev/fuse's group of options

_ALL = 0x73FFFFFB
_TOP = 1


class Client:
    """Writes requests and reads answers as the kernel does."""

    def __init__(self, ours: socket.socket) -> None:
        self._ours = trio.socket.from_stdlib_socket(ours)
        self._unique = 100
        self.closed: list[int] = []
        self.forgotten: list[int] = []

    async def send(self, opcode: int, inode: int, body: bytes = b"") -> int:
        self._unique += 2
        size = wire.IN_HEADER.size + len(body)
        head = wire.IN_HEADER.pack(size, opcode, self._unique, inode, 0, 0, os.getpid(), 0, 0)
        await self._ours.send(head + body)
        return self._unique

    async def ask(self, opcode: int, inode: int, body: bytes = b"") -> tuple[int, bytes]:
        """errno and body of the answer."""
        unique = await self.send(opcode, inode, body)
        answered, error, content = await self.receive()
        assert answered == unique
        return error, content

    async def receive(self) -> tuple[int, int, bytes]:
        """unique, errno and body of the next answer; notifications are passed over."""
        while True:
            message = await self._ours.recv(1 << 21)
            length, error, unique = wire.OUT_HEADER.unpack_from(message)
            assert length == len(message)
            if unique:
                return unique, -error, message[wire.OUT_HEADER.size :]

    async def is_served(self) -> bool:
        error, body = await self.ask(wire.GETATTR, _TOP, bytes(16))
        return not error and len(body) == wire.ATTR_OUT.size + wire.ATTR.size


def _nobody(number: int) -> Image:
    raise NotFoundError(f"instance {number}")


@asynccontextmanager
async def _session(offered: int = _ALL, number: int = 0) -> AsyncIterator[tuple[Client, Instances]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    instances = Instances()
    instances.add_tree(BLOBS, b"blobs", FlatFiles(_nobody))
    client = Client(ours)
    session = Session(instances, client.forgotten.append, client.closed.append)
    body = wire.INIT_IN.pack(7, 45, 1 << 20, offered, 0) + bytes(44)
    size = wire.IN_HEADER.size + len(body)
    init = wire.IN_HEADER.pack(size, wire.INIT, wire.NO_REQUEST, 0, 0, 0, 0, 0, 0) + body
    with trio.fail_after(PATIENCE), ours:
        async with trio.open_nursery() as nursery:
            descriptor = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, number)
            theirs.close()
            await nursery.start(session.serve, descriptor, init, False)
            yield client, instances
            ours.shutdown(socket.SHUT_RDWR)
            await session.ended.wait()


async def _unanswerable() -> None:
    async with _session() as (client, _):
        read = struct.pack("<QQIIQII", 0, 0, 4096, 0, 0, 0, 0)
        nowhere = 5 << 40 | 36
        for opcode, inode, body, expected in (
            (200, _TOP, b"", errno.ENOSYS),
            (0, _TOP, b"", errno.ENOSYS),
            (0xFFFFFFFF, 0, b"x" * 100, errno.ENOSYS),
            (wire.LOOKUP, nowhere, b"name\0", errno.ENOENT),
            (wire.LOOKUP, _TOP, b"name\0", errno.ENOENT),
            (wire.LOOKUP, _TOP, b"", errno.ENOENT),
            (wire.GETATTR, 0, bytes(16), errno.ENOENT),
            (wire.GETATTR, (1 << 64) - 1, bytes(16), errno.ENOENT),
            (wire.READ, nowhere, read, errno.ENOENT),
            (wire.READ, _TOP, read, errno.ENOENT),
            (wire.READ, nowhere, b"", errno.EIO),
            (wire.READDIRPLUS, nowhere, read, errno.ENOENT),
            (wire.READDIRPLUS, _TOP, b"short", errno.EIO),
            (wire.READLINK, nowhere, b"", errno.ENOENT),
            (wire.OPEN, nowhere, bytes(8), errno.ENOSYS),
            (wire.OPENDIR, nowhere, bytes(8), errno.ENOSYS),
        ):
            assert (await client.ask(opcode, inode, body))[0] == expected, (opcode, inode)
            assert await client.is_served()


async def _silent() -> None:
    async with _session() as (client, _):
        for opcode, body in (
            (wire.FORGET, struct.pack("<Q", 1 << 63)),
            (wire.BATCH_FORGET, struct.pack("<II", 1, 0) + struct.pack("<QQ", 9 << 40, 1)),
            (wire.INTERRUPT, struct.pack("<Q", 4711)),
            (wire.NOTIFY_REPLY, bytes(40)),
        ):
            await client.send(opcode, 7 << 40, body)
            assert await client.is_served()
        flat = Instances.first_inode(BLOBS) | 3 << 8
        await client.send(wire.FORGET, flat, struct.pack("<Q", 1))
        assert await client.is_served()
        assert client.forgotten == [3]


async def _old_kernel() -> None:
    async with _session(_ALL & ~(wire.NO_OPEN_SUPPORT | wire.NO_OPENDIR_SUPPORT)) as (client, made):
        error, body = await client.ask(wire.OPEN, 3 << 40 | 1, bytes(8))
        assert (error, wire.OPEN_OUT.unpack(body)[1]) == (0, wire.FOPEN_KEEP_CACHE)
        error, body = await client.ask(wire.OPENDIR, 3 << 40 | 1, bytes(8))
        kept = wire.FOPEN_KEEP_CACHE | wire.FOPEN_CACHE_DIR
        assert (error, wire.OPEN_OUT.unpack(body)[1]) == (0, kept)
        assert await client.ask(wire.RELEASE, 3 << 40 | 1, bytes(24)) == (0, b"")
        assert client.closed == []
        made.leaving.add(3)
        assert await client.ask(wire.RELEASEDIR, 3 << 40 | 1, bytes(24)) == (0, b"")
        assert client.closed == [3]


async def _many_at_once() -> None:
    async with _session() as (client, _):
        name = struct.pack("<II", 65536, 0) + b"user.none\0"
        sent = [await client.send(wire.GETXATTR, _TOP, name) for _ in range(100)]
        answers = [await client.receive() for _ in sent]
        assert sorted(unique for unique, _, _ in answers) == sent
        assert {error for _, error, _ in answers} == {errno.ENODATA}
        assert await client.is_served()


def test_requests_that_cannot_be_answered() -> None:
    trio.run(_unanswerable)


def test_requests_that_have_no_answer() -> None:
    trio.run(_silent)


def test_kernel_that_insists_on_opening() -> None:
    trio.run(_old_kernel)


def test_what_libfuse_answers_has_its_turn() -> None:
    trio.run(_many_at_once)


def test_connection_with_a_high_number() -> None:
    async def run() -> None:
        async with _session(number=1500) as (client, _):
            assert await client.is_served()
            assert await client.is_served()

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    try:
        trio.run(run)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_top_directory_tells_when_it_changed() -> None:
    async def run() -> None:
        async with _session() as (client, made):
            before = (await client.ask(wire.GETATTR, _TOP, bytes(16)))[1]
            assert wire.ATTR_OUT.unpack_from(before)[0] == 0  # to be asked for every time
            made.remove_tree(BLOBS)
            assert (await client.ask(wire.GETATTR, _TOP, bytes(16)))[1] != before

    trio.run(run)
