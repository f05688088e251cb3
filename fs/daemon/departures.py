"""Who still uses an instance, and what becomes of one that nobody uses.

An instance that no client has taken, one that was unmounted, by us or by others, and
one whose namespace has died is dropped as soon as the kernel needs it no more. Who
still uses it keeps it alive.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

import trio

from fs.daemon.roster import Roster
from fs.daemon.unmounts import Place, Unmounts
from fs.drivers.instances import Driver, Instance, Instances

log = logging.getLogger(__name__)

#: After an umount its last user is usually gone; else who has left is asked for ever more rarely.
LEAVING = 1.5
_LONGEST_PAUSE = 60.0
#: A file is let go a moment after it was closed.
_CLOSING = 0.02
#: Unmounts come in flocks. Looking takes at most this part of the time.
_GATHERING = 0.05
_SHARE = 0.1


class Departures:
    """`drop` ends an instance; `nursery` ends with the worker."""

    def __init__(
        self,
        roster: Roster,
        instances: Instances,
        drivers: Mapping[str, Driver],
        drop: Callable[[Instance], Awaitable[None]],
        nursery: trio.Nursery,
    ) -> None:
        self._roster = roster
        self._instances = instances
        self._drivers = drivers
        self._drop = drop
        self._nursery = nursery
        self._unmounts: Unmounts | None = None
        self._looking = trio.Lock()
        self._rumour = trio.Event()

    # -- told by a client -----------------------------------------------------------------

    def leave(self, instance: Instance) -> None:
        """It was unmounted: drop it when its last user has left."""
        instance.leaving = True
        self._instances.leaving.add(instance.number)
        self._roster.save()
        self._nursery.start_soon(self._see_off, instance)

    async def _see_off(self, instance: Instance) -> None:
        """Drop an unmounted instance when its last user has left.

        Newer kernels do not say when a file is closed, and none when a directory is left:
        therefore they are asked from time to time.
        """
        pause = LEAVING
        while await self._in_use(instance):
            with trio.move_on_after(pause):
                await instance.stirred.wait()
            instance.stirred = trio.Event()
            await trio.sleep(_CLOSING)
            pause = min(2 * pause, _LONGEST_PAUSE)
        await self._drop(instance)

    async def settle(self, instance: Instance, seconds: float) -> None:
        """An instance that nobody has said to have: in use after all, or to be dropped?

        In use it counts as taken.
        """
        await trio.sleep(seconds)
        pause = _CLOSING
        begun = trio.current_time()
        while instance in self._roster and not instance.leaving:
            if instance.taken and not instance.abandoned:
                return
            if not await self._in_use(instance):
                await self._drop(instance)
                return
            if not instance.taken and trio.current_time() - begun > LEAVING:
                instance.taken = True
                self._roster.save()
                self._rumour.set()  # it may be mounted nowhere: then it is leaving
                return
            with trio.move_on_after(pause):
                await instance.stirred.wait()
            instance.stirred = trio.Event()
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _in_use(self, instance: Instance) -> bool:
        """Whether the kernel needs us for it.

        A driver's question may take mounts away that others have made below, or tell half
        the truth; then it is put only when no process has the instance mounted.
        """
        driver = self._drivers[instance.driver]
        watched = self._unmounts is not None and not driver.knows_all(instance)
        if watched and not await self._unseen([instance]):
            return True
        return await driver.in_use(instance)

    # -- told by the kernel ---------------------------------------------------------------

    def closed(self, number: int) -> None:
        """A file of an instance was closed, perhaps the last."""
        if number in self._roster.numbers():
            self._roster.by_number(number).stirred.set()

    def forgotten(self, number: int) -> None:
        """The kernel has let go of the root of an instance's tree, or of a flat blob."""
        if number not in self._roster.numbers():
            return
        instance = self._roster.by_number(number)
        if instance.leaving or not instance.taken:
            instance.forgotten.set()
            instance.stirred.set()
        else:
            self._rumour.set()

    async def watch(self) -> None:
        """Notice mounts that go without a word. Ends only by cancellation."""
        self._unmounts = unmounts = await trio.to_thread.run_sync(Unmounts)
        try:
            while True:
                begun = trio.current_time()
                await self.look()
                await trio.sleep((trio.current_time() - begun) / _SHARE)
                await self._hear_of_one(unmounts)
                await trio.sleep(_GATHERING)
        finally:
            self._unmounts = None
            unmounts.close()

    async def _hear_of_one(self, unmounts: Unmounts) -> None:
        async def hear(wait: Callable[[], Awaitable[object]]) -> None:
            await wait()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear, unmounts.wait)
            nursery.start_soon(hear, self._rumour.wait)
        self._rumour = trio.Event()

    async def look(self) -> None:
        """Whatever was taken and is mounted nowhere any more is leaving."""
        taken = [each for each in self._roster.mounted() if each.taken and each.device]
        gone = await self._unseen(taken)
        for instance in set(taken) - set(gone):
            # Its device number may be another's by now.
            driver = self._drivers[instance.driver]
            if driver.knows_all(instance) and not await driver.in_use(instance):
                gone.append(instance)
        for instance in gone:
            if instance in self._roster and not instance.leaving:
                log.info("%s: unmounted by others", instance.mountpoint)
                self.leave(instance)

    async def _unseen(self, instances: list[Instance]) -> list[Instance]:
        """Those of the instances that no process has mounted, as far as can be seen."""
        unmounts = self._unmounts
        if unmounts is None or not instances:
            return []
        async with self._looking:
            places = {instance: self._place(instance) for instance in instances}
            try:
                left = await trio.to_thread.run_sync(unmounts.unseen, set(places.values()))
            except OSError as error:  # what cannot be looked at counts as mounted
                log.warning("mount tables: %s", error)
                return []
        return [instance for instance, place in places.items() if place in left]

    def _place(self, instance: Instance) -> Place:
        path = "/" if instance.driver == "erofs" else f"/{instance.id}"
        return Place(instance.driver, instance.device, path)
