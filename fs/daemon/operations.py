"""What a node daemon can be asked: the one object behind the control socket and the HTTP API.

An instance begins with `mount` (known, written down, served), is handed over
by `attach`, and is `taken` when a client has it at its mountpoint. One that
nobody takes, and one that was unmounted, is dropped as soon as the kernel needs
it no more; who still uses it keeps it alive. The state file always holds all
that the kernel may ask for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import trio

from fs.cache.prefetch import Prefetch
from fs.daemon.engine import Engine, Shared
from fs.daemon.order import DaemonOptions, Order
from fs.daemon.state import read_state, write_state
from fs.daemon.tracing import Tracing
from fs.drivers.instances import Driver, Instance, Instances
from fs.format.errors import Failure, MountError, NotFoundError
from fs.source import Resolved

log = logging.getLogger(__name__)

#: A daemon that was started for a mount waits so long (seconds) for the client to ask for it.
_FIRST_REQUEST = 5.0
#: A client whose worker died has this long to tell the next one that it has its mount.
_TAKING = 5.0
#: After an umount its last user is usually gone; else who has left is asked for ever more rarely.
_LEAVING = 1.5
_LONGEST_PAUSE = 60.0
#: A file is let go a moment after it was closed.
_CLOSING = 0.02

Choose = Callable[[Instance, str], Awaitable[tuple[str, str]]]


class Served(NamedTuple):
    """An instance with what it was made from."""

    instance: Instance
    order: Order
    resolved: Resolved
    shared: Shared
    prefetch: Prefetch
    tracing: Tracing
    scope: trio.CancelScope


class Identity(NamedTuple):
    """Which process of which daemon this is. `pid` is the supervisor's."""

    options: DaemonOptions
    pid: int
    generation: int


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
        self.identity = identity
        self.ending = False
        self._engine = engine
        self._instances = instances
        self._drivers = drivers
        self._choose = choose
        self._begin = begin
        self._on_idle = on_idle
        self._nursery = nursery
        self._served: dict[int, Served] = {}
        self._lost: list[dict[str, Any]] = []
        self._next = 1
        self._pending = 0
        self._told_idle = False

    # -- beginning ------------------------------------------------------------------------

    async def restore(self) -> None:
        """Serve again what the state file holds; what a dead daemon served is lost."""
        state = read_state(self.identity.options.directory)
        if state is None:
            return
        self._lost = state["lost"]
        if self.identity.generation == 0:
            self._lost += [_dead(fields) for fields in state["instances"] if not fields["leaving"]]
            self._save()
            return
        self._next = state["next"]
        for fields in state["instances"]:
            await self._restore(fields)

    async def _restore(self, fields: Mapping[str, Any]) -> None:
        order = Order.from_json(fields)
        resolved = Resolved(**fields["resolved"])
        try:
            served = await self._serve(fields["number"], order, resolved)
        except Failure as failure:
            log.error("%s at %s is lost: %s", order.source, order.mountpoint, failure)
            self._lost.append(_dead(fields))
            return
        instance = served.instance
        instance.driver, instance.reason = fields["driver"], fields["reason"]
        instance.device = fields["device"]
        instance.mounted_at = fields["mounted_at"]
        instance.taken, instance.leaving = fields["taken"], fields["leaving"]
        await served.tracing.carry_on(order.options.trace)

    async def resume(self) -> None:
        """Once the kernel is served again: see who is still there."""
        for served in list(self._served.values()):
            self._nursery.start_soon(self._accompany, served)
            if served.instance.leaving:
                self._leave(served.instance)
            elif not served.instance.taken:
                self._nursery.start_soon(self._settle, served.instance, _TAKING)
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
        resolved = await self._engine.resolve(order)
        self._refuse(order, replace)
        number, self._next = self._next, self._next + 1
        served = await self._serve(number, order, resolved)
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
        for served in list(self._served.values()):
            instance = served.instance
            if instance.mountpoint != mountpoint or instance.leaving:
                continue
            given_up = instance.abandoned or served.order.token == order.token != ""
            if not given_up and not (replace and instance.taken):
                raise MountError(f"{mountpoint}: already mounted by nydus-fs")
            self._leave(instance)
        self._lost = [fields for fields in self._lost if fields["mountpoint"] != mountpoint]

    async def _serve(self, number: int, order: Order, resolved: Resolved) -> Served:
        shared = await self._engine.open(order, resolved)
        instance = Instance(number, order.source, order.mountpoint, order.options, shared.image)
        options = order.options
        prefetch = Prefetch(shared.image, options.prefetch_mode, options.prefetch_bandwidth)
        tracing = Tracing(shared.image, order.source, resolved, self._nursery)
        served = Served(instance, order, resolved, shared, prefetch, tracing, trio.CancelScope())
        self._instances.add_tree(number, instance.id.encode(), shared.image)
        self._served[number] = served
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
        await self._begin()
        if self.identity.options.single is not None:
            self._save(strictly=True)
            return -1
        order = self._served[instance.number].order
        instance.driver, instance.reason = await self._choose(instance, order.options.driver)
        self._save(strictly=True)
        descriptor = await self._attach(instance, order.options.driver)
        try:
            instance.device = await trio.to_thread.run_sync(
                _device, descriptor, abandon_on_cancel=True
            )
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(os.close, descriptor)
            raise
        self._save()
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
        self._save(strictly=True)
        return await self._drivers["fuse"].attach(instance)

    def taken(self, instance: Instance) -> None:
        """A client has the mount where it wanted it."""
        instance.taken, instance.abandoned = True, False
        self._save()

    def abandon(self, instance: Instance) -> None:
        """The client is gone without a word: drop the instance unless it is used after all."""
        instance.abandoned = True
        self._nursery.start_soon(self._settle, instance, 0.0)

    async def _settle(self, instance: Instance, seconds: float) -> None:
        """An instance that nobody has said to have: in use after all, or to be dropped?

        In use it counts as taken; but as nobody may ever unmount it, it is watched on.
        """
        await trio.sleep(seconds)
        pause = _CLOSING
        begun = trio.current_time()
        while instance.number in self._served and not instance.leaving:
            if instance.taken and not instance.abandoned:
                return
            if not await self._drivers[instance.driver].in_use(instance):
                await self._drop(instance)
                return
            if not instance.taken and trio.current_time() - begun > _LEAVING:
                instance.taken = True
                self._save()
            with trio.move_on_after(pause):
                await instance.stirred.wait()
            instance.stirred = trio.Event()
            pause = min(2 * pause, _LONGEST_PAUSE)

    # -- unmounting -----------------------------------------------------------------------

    async def umount(self, instance: Instance) -> bool:
        """The client has unmounted it: drop it now (True), or when its last user has left."""
        if not instance.leaving:
            self._leave(instance)
        with trio.move_on_after(_LEAVING):
            await instance.gone.wait()
        return instance.gone.is_set()

    def _leave(self, instance: Instance) -> None:
        instance.leaving = True
        self._instances.leaving.add(instance.number)
        self._save()
        self._nursery.start_soon(self._see_off, instance)

    async def _see_off(self, instance: Instance) -> None:
        """Drop an unmounted instance when its last user has left.

        The kernel says when a file is closed, but not when a directory is left:
        therefore it is also asked from time to time.
        """
        pause = _LEAVING
        while await self._drivers[instance.driver].in_use(instance):
            with trio.move_on_after(pause):
                await instance.stirred.wait()
            instance.stirred = trio.Event()
            await trio.sleep(_CLOSING)
            pause = min(2 * pause, _LONGEST_PAUSE)
        await self._drop(instance)

    def reconsider(self, number: int) -> None:
        """The kernel has let go of something of this instance, perhaps of the last."""
        served = self._served.get(number)
        if served is not None:
            served.instance.stirred.set()

    def forgotten(self, number: int) -> None:
        """The kernel has let go of the root of this instance's tree."""
        served = self._served.get(number)
        if served is not None and (served.instance.leaving or not served.instance.taken):
            served.instance.forgotten.set()
            served.instance.stirred.set()

    async def _drop(self, instance: Instance) -> None:
        served = self._served.pop(instance.number, None)
        if served is None:
            return
        self._instances.remove_tree(instance.number)
        self._save()
        served.scope.cancel()
        await served.tracing.stop()
        await self._drivers[instance.driver].detach(instance)
        await self._engine.release(served.shared)
        instance.gone.set()
        self._check_idle()

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
        if not self._served and self._pending <= 1 and not self.identity.options.stay:
            self.ending = True
        return self.ending

    def _check_idle(self) -> None:
        if self._pending or self._told_idle or not self.decide_to_end():
            return
        self._told_idle = True
        self._on_idle()

    def stay(self) -> None:
        """From now on end only when told to."""
        self.identity = self.identity._replace(options=self.identity.options._replace(stay=True))
        self._save()

    def shut_down(self) -> None:
        """End the daemon as if by SIGTERM; its users have a grace."""
        os.kill(self.identity.pid, 15)

    # -- telling --------------------------------------------------------------------------

    def all(self) -> list[Instance]:
        """The instances that are mounted."""
        return [served.instance for served in self._served.values() if not served.instance.leaving]

    def by_id(self, wanted: str) -> Instance:
        """NotFoundError when there is none."""
        for served in self._served.values():
            if served.instance.id == wanted:
                return served.instance
        raise NotFoundError(f"instance {wanted}: not served here")

    def instance_by_number(self, number: int) -> Instance:
        """Also one that is leaving; NotFoundError when there is none."""
        served = self._served.get(number)
        if served is None:
            raise NotFoundError(f"instance {number}: not served here")
        return served.instance

    def by_mountpoint(self, mountpoint: str) -> Instance:
        """NotFoundError when nothing of this daemon is mounted there."""
        for instance in self.all():
            if instance.mountpoint == mountpoint:
                return instance
        raise NotFoundError(f"{mountpoint}: not mounted by this daemon")

    def forget_lost(self, mountpoint: str) -> None:
        """Strike a dead mount off the list: it was unmounted."""
        self._lost = [fields for fields in self._lost if fields["mountpoint"] != mountpoint]
        self._save()

    def orders(self) -> list[Order]:
        """What all instances were made from, also those that are leaving."""
        return [served.order for served in self._served.values()]

    def numbers(self) -> list[int]:
        """Of all instances, also those that are leaving."""
        return list(self._served)

    def served(self, instance: Instance) -> Served:
        """What an instance was made from, and what runs beside it."""
        return self._served[instance.number]

    def resolved(self, instance: Instance) -> Resolved:
        return self._served[instance.number].resolved

    def status(self, instance: Instance) -> dict[str, Any]:
        """What is known of one instance; counters begin with the worker. See docs/operations.md."""
        served = self._served[instance.number]
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
            "worker_pid": os.getpid(),
            "generation": self.identity.generation,
            "instances": len(self.all()),
            "leaving": len(self._served) - len(self.all()),
            "lost": len(self._lost),
        }

    def _save(self, *, strictly: bool = False) -> None:
        """Write down all that the next worker must know. MountError if that must not fail."""
        directory = self.identity.options.directory
        state = {
            "pid": self.identity.pid,
            "single": self.identity.options.single,
            "next": self._next,
            "instances": [_fields(served) for served in self._served.values()],
            "lost": self._lost,
        }
        try:
            write_state(directory, state)
        except OSError as error:
            if strictly:
                raise MountError(f"{directory}: {error.strerror}") from error
            log.error("%s: %s", directory, error.strerror)


def _fields(served: Served) -> dict[str, Any]:
    instance = served.instance
    return served.order.to_json() | {
        "id": instance.id,
        "number": instance.number,
        # Its configuration is told once, at the mount.
        "resolved": served.resolved._replace(image_config=None)._asdict(),
        "driver": instance.driver,
        "reason": instance.reason,
        "device": instance.device,
        "mounted_at": instance.mounted_at,
        "taken": instance.taken,
        "leaving": instance.leaving,
    }


def _dead(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in ("id", "source", "mountpoint", "device")}


def _device(descriptor: int) -> str:
    number = os.fstat(descriptor).st_dev
    return f"{os.major(number)}:{os.minor(number)}"
