"""The process that serves: engine and FUSE session under one nursery, replaceable at any time.

Started by the supervisor, which hands it the FUSE connection when its image is
ready. All that it would need to remember is in the state file and the cache.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from contextlib import closing, suppress
from typing import Any, NamedTuple

import trio

from fs.cache.fetch import Fetcher
from fs.cache.prefetch import Prefetch
from fs.cache.store import CacheStore
from fs.daemon import questions
from fs.daemon.channel import Channel
from fs.daemon.launch import failure_to
from fs.daemon.order import Order, default_cache_dir, remove_state, state_dir
from fs.daemon.session import serve_tree
from fs.drivers.instances import Instances
from fs.format.errors import Failure
from fs.image import Image, map_bootstrap
from fs.source import Resolved, open_backend, resolve

log = logging.getLogger(__name__)

#: Threads that hold the interpreter for long make every request wait (seconds).
_SWITCH_INTERVAL = 0.0005
_THE_INSTANCE = 1


class Assignment(NamedTuple):
    """What the supervisor wants of this worker."""

    order: Order
    generation: int
    resolved: Resolved | None


def main(channel: int, lock: int, control: int) -> None:
    """Serve until the connection ends. `lock` is only held: it shows that we live."""
    for number in (channel, lock, control):
        os.set_inheritable(number, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's business
    sys.setswitchinterval(_SWITCH_INTERVAL)
    line = Channel(socket.socket(fileno=channel))
    assignment = _receive_assignment(line)
    logging.basicConfig(
        level=assignment.order.options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("pyfuse3").setLevel(logging.WARNING)
    try:
        resolved = assignment.resolved or _resolve(assignment.order)
        worker = Worker(assignment, resolved, line)
    except Failure as failure:
        line.send("failed", failure=failure_to(failure))
        sys.exit(failure.exit_code)
    line.send("prepared", resolved=resolved._asdict())
    connection = _receive_connection(line)
    if connection is None:
        return
    with socket.socket(fileno=control) as server:
        trio.run(worker.run, *connection, server)


def _receive_assignment(line: Channel) -> Assignment:
    received = line.receive()
    if received is None:
        sys.exit(0)
    fields, _ = received
    resolved = Resolved(**fields["resolved"]) if fields["resolved"] else None
    return Assignment(Order.from_json(fields["order"]), fields["generation"], resolved)


def _receive_connection(line: Channel) -> tuple[int, bytes] | None:
    """The FUSE descriptor and the INIT for libfuse; None when there is nothing to serve."""
    received = line.receive()
    if received is None or received[1] is None:
        return None
    message, descriptor = received
    assert descriptor is not None
    return descriptor, bytes.fromhex(message["init"])


def _cache_dir(order: Order) -> str:
    return order.options.cache_dir or default_cache_dir()


def _resolve(order: Order) -> Resolved:
    return resolve(order.source, order.options, _cache_dir(order), os.environ)


class Worker:
    """Failures of the source are raised here, before anything is mounted."""

    def __init__(self, assignment: Assignment, resolved: Resolved, line: Channel) -> None:
        self._order = assignment.order
        self._generation = assignment.generation
        self._line = line
        self._orphaned = False
        self._bootstrap = map_bootstrap(resolved.bootstrap)
        self._backend = open_backend(self._order.source, self._order.options, os.environ)

    async def run(self, descriptor: int, init: bytes, control: socket.socket) -> None:
        """Serve the connection, then leave the caches in order."""
        options = self._order.options
        fetcher = Fetcher(self._backend, outage_deadline=options.outage_deadline)
        ended = False
        with closing(self._backend):
            async with trio.open_nursery() as nursery:
                directory = os.path.join(_cache_dir(self._order), "blobs")
                store = CacheStore(directory, nursery, amplify=options.amplify)
                image = Image(self._bootstrap, store, fetcher)
                instances = Instances(alone=_THE_INSTANCE)
                instances.add_tree(_THE_INSTANCE, b"image", image)
                prefetch = Prefetch(image, options.prefetch_mode, options.prefetch_bandwidth)
                status = _Status(self._generation, fetcher, store, image, prefetch)
                nursery.start_soon(self._hear_supervisor, nursery.cancel_scope)
                nursery.start_soon(_end_on_signal, nursery.cancel_scope)
                nursery.start_soon(questions.answer, control, status)
                done = await nursery.start(
                    serve_tree, instances, descriptor, init, self._generation > 0
                )
                self._say_ready()
                nursery.start_soon(prefetch.run)
                await done.wait()
                ended = True
                nursery.cancel_scope.cancel()
            store.close()
        if ended and self._orphaned:
            remove_state(state_dir(self._order.mountpoint, options.state_root))

    def _say_ready(self) -> None:
        with suppress(OSError):  # the supervisor is dead: _hear_supervisor finds out
            self._line.send("ready")

    async def _hear_supervisor(self, scope: trio.CancelScope) -> None:
        """End when told to. Without a supervisor go on serving: better than errors."""
        while True:
            await trio.lowlevel.wait_readable(self._line.fileno())
            received = self._line.receive()
            if received is None:
                log.warning("the supervisor is gone; serving on without it")
                self._orphaned = True
                return
            if received[0]["kind"] == "stop":
                scope.cancel()
                return


async def _end_on_signal(scope: trio.CancelScope) -> None:
    """SIGTERM to a worker alone is a hand-over: the supervisor starts the next one."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


class _Status:
    """What the control socket tells of this worker; counters begin with the worker."""

    def __init__(
        self,
        generation: int,
        fetcher: Fetcher,
        store: CacheStore,
        image: Image,
        prefetch: Prefetch,
    ) -> None:
        self._prefetch = prefetch
        self._generation = generation
        self._fetcher = fetcher
        self._store = store
        self._image = image

    def __call__(self) -> dict[str, Any]:
        blobs = self._store.status()
        return {
            "worker_pid": os.getpid(),
            "generation": self._generation,
            "fetched_bytes": self._fetcher.bytes_fetched,
            "requests": self._fetcher.requests,
            "failed_requests": self._fetcher.failures,
            "chunks": sum(blob["chunks"] for blob in blobs),
            "cached_chunks": sum(blob["cached"] for blob in blobs),
            "blobs_opened": blobs,
            "prefetch": self._prefetch.status(),
            **self._image.status(),
        }
