"""The instances of a worker, and the state file that always says the same of them.

Whatever the kernel may ask for is in the file before it is served, so that the
next worker knows it too. Mounts that a dead daemon served are kept as lost until they are
unmounted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import trio

from fs.cache.prefetch import Prefetch
from fs.daemon.engine import Shared
from fs.daemon.order import DaemonOptions, Order
from fs.daemon.state import read_state, write_state
from fs.daemon.tracing import Tracing
from fs.drivers.instances import Instance
from fs.format.errors import MountError, NotFoundError
from fs.image.source import Resolved

log = logging.getLogger(__name__)


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


class Roster:
    """Whoever changes an instance calls `save` before anybody else can see it."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._served: dict[int, Served] = {}
        self._lost: list[dict[str, Any]] = []
        self._next = 1

    def recall(self) -> list[Mapping[str, Any]]:
        """What the last worker had, to be served again. What a dead daemon had is lost."""
        state = read_state(self.identity.options.directory)
        if state is None:
            return []
        self._lost = state["lost"]
        if self.identity.generation == 0:
            self._lost += [_dead(fields) for fields in state["instances"] if not fields["leaving"]]
            self.save()
            return []
        self._next = state["next"]
        options = self.identity.options
        # An older program's worker has written neither.
        self._identify(state.get("stay", options.stay), state.get("cache_size", options.cache_size))
        return list(state["instances"])

    def identify(self, *, stay: bool, cache_size: int | None) -> None:
        """What the daemon was told since it began."""
        self._identify(stay, cache_size)
        self.save()

    def _identify(self, stay: bool, cache_size: int | None) -> None:
        options = self.identity.options._replace(stay=stay, cache_size=cache_size)
        self.identity = self.identity._replace(options=options)

    def new_number(self) -> int:
        """One that no instance has or had."""
        number, self._next = self._next, self._next + 1
        return number

    def add(self, served: Served) -> None:
        self._served[served.instance.number] = served

    def remove(self, instance: Instance) -> Served | None:
        """What belongs to an instance that is no more; None if somebody has it removed already."""
        served = self._served.pop(instance.number, None)
        if served is not None:
            self.save()
        return served

    def lose(self, fields: Mapping[str, Any]) -> None:
        """What was mounted cannot be served any more."""
        self._lost.append(_dead(fields))

    def forget_lost(self, mountpoint: str) -> None:
        """Strike a dead mount off the list: it was unmounted, or another comes there. Saves not."""
        self._lost = [fields for fields in self._lost if fields["mountpoint"] != mountpoint]

    # -- telling --------------------------------------------------------------------------

    def mounted(self) -> list[Instance]:
        """Those that nobody has unmounted."""
        return [served.instance for served in self._served.values() if not served.instance.leaving]

    def everything(self) -> list[Served]:
        """Also what is leaving."""
        return list(self._served.values())

    def numbers(self) -> list[int]:
        return list(self._served)

    def __contains__(self, instance: Instance) -> bool:
        return instance.number in self._served

    def served(self, instance: Instance) -> Served:
        """What an instance was made from, and what runs beside it."""
        return self._served[instance.number]

    def by_id(self, wanted: str) -> Instance:
        """NotFoundError when there is none."""
        for served in self._served.values():
            if served.instance.id == wanted:
                return served.instance
        raise NotFoundError(f"instance {wanted}: not served here")

    def by_number(self, number: int) -> Instance:
        """NotFoundError when there is none."""
        served = self._served.get(number)
        if served is None:
            raise NotFoundError(f"instance {number}: not served here")
        return served.instance

    def by_mountpoint(self, mountpoint: str) -> Instance:
        """NotFoundError when nothing of this daemon is mounted there."""
        for instance in self.mounted():
            if instance.mountpoint == mountpoint:
                return instance
        raise NotFoundError(f"{mountpoint}: not mounted by this daemon")

    def counts(self) -> dict[str, int]:
        """How many are mounted, leaving and lost."""
        mounted = len(self.mounted())
        return {
            "instances": mounted,
            "leaving": len(self._served) - mounted,
            "lost": len(self._lost),
        }

    # -- writing down ---------------------------------------------------------------------

    def save(self, *, strictly: bool = False) -> None:
        """Write down all that the next worker must know. MountError if that must not fail."""
        directory = self.identity.options.directory
        state = {
            "pid": self.identity.pid,
            "single": self.identity.options.single,
            "stay": self.identity.options.stay,
            "cache_size": self.identity.options.cache_size,
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
