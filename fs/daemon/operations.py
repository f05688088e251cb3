"""What a node daemon can be asked: the one object behind the control socket and the HTTP API.

An instance begins with `mount` (known, written down, served), is handed over
by `attach`, and is `taken` when a client has it at its mountpoint. How it ends
is in `departures.py`; which there are, in `roster.py`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import trio

from fs.cache.prefetch import Prefetch
from fs.daemon.departures import LEAVING, Departures
from fs.daemon.engine import Engine
from fs.daemon.expectations import Expectations
from fs.daemon.order import Order
from fs.daemon.roster import Identity, Roster, Served
from fs.daemon.tracing import Tracing
from fs.drivers.instances import Driver, Instance, Instances
from fs.format.errors import Failure, MountError
from fs.image.source import Resolved

log = logging.getLogger(__name__)

#: A daemon that was started for a mount waits so long (seconds) for the client to ask for it.
_FIRST_REQUEST = 5.0
#: A client whose worker died has this long to tell the next one that it has its mount.
_TAKING = 5.0

Choose = Callable[[Instance, str], Awaitable[tuple[str, str]]]


class Operations:
    """`begin` makes sure that the kernel is served; `on_idle` is called when a daemon may end.

    `nursery` ends with the worker.
    """

    def __init__(
        self,
        identity: Identity,
        engine: Engine,
        instances: Instances,
        drivers: Mapping[str, Driver],
        choose: Choose,
        begin: Callable[[], Awaitable[None]],
        on_idle: Callable[[], None],
        nursery: trio.Nursery,
    ) -> None:
        self.ending = False
        self.roster = Roster(identity)
        self.departures = Departures(self.roster, instances, drivers, self._drop, nursery)
        self.expectations = Expectations(engine, nursery)
        self._engine = engine
        self._instances = instances
        self._drivers = drivers
        self._choose = choose
        self._begin = begin
        self._on_idle = on_idle
        self._nursery = nursery
        self._pending = 0
        self._since = time.time()
        self._told_idle = False

    @property
    def identity(self) -> Identity:
        return self.roster.identity

    # -- beginning ------------------------------------------------------------------------

    async def restore(self) -> None:
        """Serve again what the state file holds; what a dead daemon served is lost."""
        instances = self.roster.recall()
        self._engine.cache_size = self.identity.options.cache_size
        for fields in instances:
            await self._restore(fields)

    async def _restore(self, fields: Mapping[str, Any]) -> None:
        order = Order.from_json(fields)
        resolved = Resolved(**fields["resolved"])
        try:
            served = await self._serve(fields["number"], order, resolved)
        except Failure as failure:
            log.error("%s at %s is lost: %s", order.source, order.mountpoint, failure)
            self.roster.lose(fields)
            return
        instance = served.instance
        instance.driver, instance.reason = fields["driver"], fields["reason"]
        instance.device = fields["device"]
        instance.mounted_at = fields["mounted_at"]
        instance.taken, instance.leaving = fields["taken"], fields["leaving"]
        if instance.driver == "fuse" and instance.device:
            served.tracing.attached(instance.device)
        await served.tracing.carry_on(order.options.trace)

    async def resume(self) -> None:
        """Once the kernel is served again: see who is still there."""
        for served in self.roster.everything():
            self._nursery.start_soon(self._accompany, served)
            if served.instance.leaving:
                self.departures.leave(served.instance)
            elif not served.instance.taken:
                self._nursery.start_soon(self.departures.settle, served.instance, _TAKING)
        if self.identity.options.single is None:
            self._nursery.start_soon(self.departures.watch)
        if not self.identity.options.stay:
            self._nursery.start_soon(self._await_first_request)

    async def _await_first_request(self) -> None:
        await trio.sleep(_FIRST_REQUEST)
        self._check_idle()

    # -- mounting -------------------------------------------------------------------------

    async def mount(self, order: Order, *, replace: bool = False) -> Instance:
        """Make and serve a new instance, not attached yet.

        `replace`: whoever asks has seen that nothing is mounted at the mountpoint any more.
        Cancellation and any Failure leave nothing behind.
        """
        self._refuse(order, replace)
        async with self._engine.reached(order):
            resolved = await self.expectations.resolved(order)
            self._refuse(order, replace)
            served = await self._serve(self.roster.new_number(), order, resolved)
        if order.options.trace is not None:
            await self._trace(served, order.options.trace)
        self._nursery.start_soon(self._accompany, served)
        return served.instance

    async def _trace(self, served: Served, path: str) -> None:
        """Record what a new instance is asked for, or take it back."""
        try:
            await served.tracing.start(path)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._drop(served.instance)
            raise

    def _refuse(self, order: Order, replace: bool) -> None:
        """Make room at the mountpoint; MountError if it is taken, or about to be."""
        mountpoint = order.mountpoint
        for served in self.roster.everything():
            instance = served.instance
            if instance.mountpoint != mountpoint or instance.leaving:
                continue
            given_up = instance.abandoned or served.order.token == order.token != ""
            if not given_up and not (replace and instance.taken):
                raise MountError(f"{mountpoint}: already mounted by nydus-fs")
            self.departures.leave(instance)
        self.roster.forget_lost(mountpoint)

    async def _serve(self, number: int, order: Order, resolved: Resolved) -> Served:
        shared = await self._engine.open(order, resolved)
        instance = Instance(number, order.source, order.mountpoint, order.options, shared.image)
        options = order.options
        prefetch = Prefetch(shared.image, options.prefetch_mode, options.prefetch_bandwidth)
        tracing = Tracing(shared.image, order.source, resolved, self._nursery)
        served = Served(instance, order, resolved, shared, prefetch, tracing, trio.CancelScope())
        self._instances.add_tree(number, instance.id.encode(), shared.image)
        self.roster.add(served)
        return served

    async def _accompany(self, served: Served) -> None:
        """What runs beside an instance, as long as it lives."""
        with served.scope:
            await served.prefetch.run()
            if served.shared.image.is_local():
                await self._engine.note_local(served.order)

    async def attach(self, instance: Instance) -> int:
        """A detached mount of the instance, CLOEXEC; -1 where the daemon's own mount shows it.

        The descriptor must be closed in a thread. The state is written before this returns.
        """
        try:
            await self._begin()
        except MountError:  # nothing was ever mounted, so nobody can use it
            await self._drop(instance)
            raise
        if self.identity.options.single is not None:
            self.roster.save(strictly=True)
            return -1
        order = self.roster.served(instance).order
        if order.options.driver == "auto" and order.options.trace is not None:
            instance.driver, instance.reason = "fuse", "only there a trace is exact"
        else:
            chosen = await self._choose(instance, order.options.driver)
            instance.driver, instance.reason = chosen
        self.roster.save(strictly=True)
        descriptor = await self._attach(instance, order.options.driver)
        try:
            instance.device = await trio.to_thread.run_sync(
                _device, descriptor, abandon_on_cancel=True
            )
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(os.close, descriptor)
            raise
        if instance.driver == "fuse":
            self.roster.served(instance).tracing.attached(instance.device)
        self.roster.save()
        return descriptor

    async def _attach(self, instance: Instance, wanted: str) -> int:
        """By the chosen driver; by fuse if the choice was ours and this image proves it wrong."""
        try:
            return await self._drivers[instance.driver].attach(instance)
        except MountError as error:
            if wanted != "auto" or instance.driver == "fuse":
                raise
            log.warning("%s: served by fuse: %s", instance.source, error)
            instance.driver, instance.reason = "fuse", error.message
        self.roster.save(strictly=True)
        return await self._drivers["fuse"].attach(instance)

    def taken(self, instance: Instance) -> None:
        """A client has the mount where it wanted it."""
        instance.taken, instance.abandoned = True, False
        self.roster.save()

    def abandon(self, instance: Instance) -> None:
        """The client is gone without a word: drop the instance unless it is used after all."""
        instance.abandoned = True
        self._nursery.start_soon(self.departures.settle, instance, 0.0)

    # -- unmounting -----------------------------------------------------------------------

    async def umount(self, instance: Instance) -> bool:
        """The client has unmounted it: drop it now (True), or when its last user has left."""
        if not instance.leaving:
            self.departures.leave(instance)
        with trio.move_on_after(LEAVING):
            await instance.gone.wait()
        return instance.gone.is_set()

    async def _drop(self, instance: Instance) -> None:
        served = self.roster.remove(instance)
        if served is None:
            return
        self._instances.remove_tree(instance.number)
        served.scope.cancel()
        await served.tracing.stop()
        await self._drivers[instance.driver].detach(instance)
        await self._engine.release(served.shared)
        instance.gone.set()
        self._check_idle()

    def forget_lost(self, mountpoint: str) -> None:
        """A dead mount was unmounted."""
        self.roster.forget_lost(mountpoint)
        self.roster.save()

    # -- ending ---------------------------------------------------------------------------

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """The daemon does not end before the body has; for every request from outside."""
        self._pending += 1
        try:
            yield
        finally:
            self._pending -= 1
            self._check_idle()

    def decide_to_end(self) -> bool:
        """Whether the daemon ends after the request that asks; no other is taken then."""
        if not self.roster.numbers() and self._pending <= 1 and not self.identity.options.stay:
            self.ending = True
        return self.ending

    def _check_idle(self) -> None:
        if self._pending or self._told_idle or not self.decide_to_end():
            return
        self._told_idle = True
        self._on_idle()

    def stay(self, cache_size: int | None) -> None:
        """From now on end only when told to. `cache_size`: for mounts to come, None as before."""
        size = self.identity.options.cache_size if cache_size is None else cache_size
        self.roster.identify(stay=True, cache_size=size)
        self._engine.cache_size = size

    def shut_down(self) -> None:
        """End the daemon as if by SIGTERM; its users have a grace."""
        os.kill(self.identity.pid, 15)

    # -- telling --------------------------------------------------------------------------

    def status(self, instance: Instance) -> dict[str, Any]:
        """What is known of one instance; counters begin with the worker. See docs/operations.md.

        Blocks for as long as it takes to read small files of the cache.
        """
        served = self.roster.served(instance)
        fetcher = served.shared.origin.fetcher
        counts = instance.image.status()
        return {
            "id": instance.id,
            "source": instance.source,
            "mountpoint": instance.mountpoint,
            "pid": self.identity.pid,
            "state_dir": self.identity.options.directory,
            "alive": True,
            "transport": instance.driver,
            "reason": instance.reason,
            "worker_pid": os.getpid(),
            "generation": self.identity.generation,
            "counting_since": self._since,
            "fetched_bytes": fetcher.bytes_fetched,
            "requests": fetcher.requests,
            "failed_requests": fetcher.failures,
            "prefetch": served.prefetch.status(),
            "trace": served.tracing.status(),
            "last_error": instance.image.last_error,
            **counts,
        }

    def daemon_status(self) -> dict[str, Any]:
        return {
            "pid": self.identity.pid,
            "state_dir": self.identity.options.directory,
            "stay": self.identity.options.stay,
            "cache_size": self.identity.options.cache_size,
            "worker_pid": os.getpid(),
            "generation": self.identity.generation,
            **self.roster.counts(),
        }


def _device(descriptor: int) -> str:
    number = os.fstat(descriptor).st_dev
    return f"{os.major(number)}:{os.minor(number)}"
