"""The process that serves: engine and FUSE session under one nursery, replaceable at any time.

Started by the supervisor, which hands it the FUSE connection when its instances
are ready. All that it would need to remember is in the state file and the cache.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from functools import partial

import trio

from fs import heap
from fs.daemon import api, verbs
from fs.daemon.channel import Channel
from fs.daemon.engine import Engine
from fs.daemon.mountpoints import is_mounted, unmount_kernel
from fs.daemon.operations import Operations
from fs.daemon.order import DaemonOptions
from fs.daemon.roster import Identity
from fs.daemon.session import Session
from fs.daemon.state import MNT, node_mount, remove_state
from fs.drivers.bind import FuseDriver
from fs.drivers.erofs import ErofsDriver
from fs.drivers.flat import FlatFiles
from fs.drivers.instances import BLOBS, Driver, Instances
from fs.format.errors import MountError
from fs.image.tree import Image

log = logging.getLogger(__name__)

#: Threads that hold the interpreter for long make every request wait (seconds).
_SWITCH_INTERVAL = 0.0005
_THE_INSTANCE = 1
#: Modules that are imported where they are used, as not every mount does.
_FIRST_NEEDED = (
    "fs.registry.remote",
    "fs.backend.image",
    "fs.format.reader6",
    "encodings.idna",
    "http.client",
)


def main(channel: int, lock: int, *sockets: int) -> None:
    """Serve until the connection ends. `lock` is only held: it shows that we live.

    `sockets` are those of `state.SOCKETS`.
    """
    for number in (channel, lock, *sockets):
        os.set_inheritable(number, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's business
    heap.limit_heaps()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    line = Channel(socket.socket(fileno=channel))
    received = line.receive()
    if received is None:
        return
    fields, _ = received
    identity = Identity(DaemonOptions(**fields["options"]), fields["pid"], fields["generation"])
    logging.basicConfig(
        level=identity.options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("pyfuse3").setLevel(logging.WARNING)
    trio.run(Worker(identity, line).run, [socket.socket(fileno=number) for number in sockets])


class Worker:
    """One life of the serving process."""

    def __init__(self, identity: Identity, line: Channel) -> None:
        self._identity = identity
        self._line = line
        self._orphaned = False
        self._over = False
        single = identity.options.single
        self._instances = Instances(alone=None if single is None else _THE_INSTANCE)
        self._session = Session(self._instances, self._forgotten, self._closed)
        self._beginning = trio.Lock()
        self._serving = trio.Event()
        self._refusal = ""
        self._operations: Operations
        self._nursery: trio.Nursery

    async def run(self, sockets: list[socket.socket]) -> None:
        """Serve until the connection ends or nobody is left; then put the caches in order."""
        single = self._identity.options.single
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            engine = Engine(nursery)
            self._operations = operations = self._make_operations(engine)
            nursery.start_soon(_end_on_signal, nursery.cancel_scope)
            await operations.restore()
            nursery.start_soon(self._hear_supervisor)
            if single is None or operations.roster.mounted():
                await self._begin()
            await operations.resume()
            nursery.start_soon(verbs.serve, sockets[0], operations)
            nursery.start_soon(api.serve, sockets[1], operations, self._session.traffic)
            self._say("ready")
            if self._identity.generation == 0:  # successors have readers to serve
                nursery.start_soon(
                    partial(trio.to_thread.run_sync, preload, abandon_on_cancel=True)
                )
            await self._session.ended.wait()
            self._over = True
            nursery.cancel_scope.cancel()
        engine.close()
        if self._over and self._orphaned:
            remove_state(self._identity.options.directory)

    def _make_operations(self, engine: Engine) -> Operations:
        directory = os.path.join(self._identity.options.directory, MNT)
        erofs = ErofsDriver(directory, self._session)
        drivers: dict[str, Driver] = {
            "fuse": FuseDriver(directory, self._session.take_back),
            "erofs": erofs,
        }
        if self._identity.options.single is None:
            self._instances.add_tree(BLOBS, b"blobs", FlatFiles(self._image_of))
        return Operations(
            self._identity,
            engine,
            self._instances,
            drivers,
            erofs.choose,
            self._begin,
            self._end_idle,
            self._nursery,
        )

    def _image_of(self, number: int) -> Image:
        return self._operations.roster.by_number(number).image

    def _forgotten(self, number: int) -> None:
        self._operations.departures.forgotten(number)

    def _closed(self, number: int) -> None:
        self._operations.departures.closed(number)

    async def _begin(self) -> None:
        """Have the connection from the supervisor, which mounts if need be, and serve it.

        MountError when it cannot.
        """
        async with self._beginning:
            if not self._serving.is_set():
                self._say("prepared")
                await self._serving.wait()
            if self._refusal:
                refusal, self._refusal, self._serving = self._refusal, "", trio.Event()
                raise MountError(refusal)

    def _say(self, kind: str) -> None:
        with suppress(OSError):  # the supervisor is dead: _hear_supervisor finds out
            self._line.send(kind)

    async def _hear_supervisor(self) -> None:
        """End when told to. Without a supervisor go on serving: better than errors."""
        while True:
            await trio.lowlevel.wait_readable(self._line.fileno())
            received = self._line.receive()
            if received is None:
                log.warning("the supervisor is gone; serving on without it")
                self._orphaned = True
                return
            message, descriptor = received
            if message["kind"] == "serve" and descriptor is not None:
                init = bytes.fromhex(message["init"])
                await self._nursery.start(self._session.serve, descriptor, init, message["again"])
                self._serving.set()
            elif message["kind"] == "refused":
                self._refusal = message["message"]
                self._serving.set()
            elif message["kind"] == "ending":
                self._operations.ending = True
            elif message["kind"] == "stop":
                self._over = True
                self._nursery.cancel_scope.cancel()
                return

    def _end_idle(self) -> None:
        """Nobody is served any more."""
        if not self._orphaned:
            self._say("idle")
            return
        self._over = True
        mountpoint = node_mount(self._identity.options.directory)
        with suppress(MountError):
            if is_mounted(mountpoint):
                unmount_kernel(mountpoint, lazy=True)
        self._nursery.cancel_scope.cancel()


def preload() -> None:
    """Import what the first mount needs: in a thread, while nobody waits for it.

    Who does import the same, waits for the same lock and loses nothing.
    """
    for name in _FIRST_NEEDED:
        importlib.import_module(name)


async def _end_on_signal(scope: trio.CancelScope) -> None:
    """SIGTERM to a worker alone is a hand-over: the supervisor starts the next one."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()
