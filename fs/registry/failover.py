"""One registry's content at several hosts: asked in order, the next one when one fails.

A host that does not answer is asked last for a while, and then by one request: the
others follow once that was answered in full. One that gave wrong bytes of a blob, or
has it not, is asked last for that blob. Order is all that this changes:
what a host says is believed only by digest, whichever it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from fs.format.errors import (
    AccessError,
    Failure,
    FormatError,
    NotFoundError,
    UnreachableError,
    UsageError,
    VerifyError,
)
from fs.registry.client import RegistryClient
from fs.registry.hosts import Host, find_hosts
from fs.registry.places import StoreOptions
from fs.registry.reference import Reference
from fs.registry.retry import TemporaryFault

log = logging.getLogger(__name__)
Result = TypeVar("Result")

REST = 30.0
"""Seconds for which a host that failed is asked last; twice as long each time it does again."""
_LONGEST_REST = 480.0
_MAX_NOTES = 4096
_NEXT_MAY_HELP = (UnreachableError, AccessError, NotFoundError, FormatError, VerifyError)


class _Rest(NamedTuple):
    until: float
    length: float


class Hosts:
    """Clients of the hosts of one repository, in the order of the configuration. Thread-safe.

    `hosts` are asked instead of those that `options` lead to.
    """

    def __init__(
        self,
        reference: Reference,
        options: StoreOptions,
        hosts: tuple[Host, ...] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.retry = options.retry
        self.clients = tuple(
            RegistryClient(reference, options, host)
            for host in hosts or find_hosts(reference, options)
        )
        self._name = reference.familiar
        self._clock = clock
        self._lock = threading.Lock()
        self._rested: dict[RegistryClient, _Rest] = {}
        self._doubted: OrderedDict[tuple[RegistryClient, str], None] = OrderedDict()

    @property
    def several(self) -> bool:
        return len(self.clients) > 1

    def ask(
        self, operation: Callable[[RegistryClient], Result], capability: str, target: str
    ) -> Result:
        """What the first host answers that can; `target` is the digest or tag that is asked for.

        Raises the failure of the only host, or one that stands for all.
        """
        able = [client for client in self.clients if capability in client.host.capabilities]
        if not able:
            raise UsageError(f"{self._name}: hosts.toml names no host that can {capability}")
        failures: list[tuple[RegistryClient, Failure]] = []
        for client in self._ordered(able, target):
            try:
                return operation(client)
            except _NEXT_MAY_HELP as failure:
                failures.append((client, failure))
                if len(able) > 1:
                    log.info("%s", failure)
                    self._note(client, failure, target)
        raise _verdict(failures, able[-1])

    def rest(self, client: RegistryClient) -> None:
        """`client` failed: ask it last for a while."""
        now = self._clock()
        with self._lock:
            known = self._rested.get(client)
            if known is None or known.until <= now:
                self._rested[client] = _Rest(now + REST, REST)

    def well(self, client: RegistryClient) -> None:
        """`client` has given all of an answer."""
        with self._lock:
            self._rested.pop(client, None)

    def doubt(self, clients: Iterable[RegistryClient], digest: str) -> bool:
        """Ask `clients` last for a blob; whether that leaves another host to ask first.

        If it does not, every host has been doubted: all are asked as at first again.
        """
        with self._lock:
            for client in clients:
                self._doubt(client, digest)
            doubted = [client for client in self.clients if (client, digest) in self._doubted]
            if len(doubted) < len(self.clients):
                return True
            for client in doubted:
                del self._doubted[client, digest]
            return False

    def close(self) -> None:
        for client in self.clients:
            client.close()

    def _ordered(self, able: list[RegistryClient], target: str) -> list[RegistryClient]:
        now = self._clock()

        def merit(client: RegistryClient) -> tuple[bool, bool]:
            rest = self._rested.get(client)
            return (client, target) in self._doubted, rest is not None and rest.until > now

        with self._lock:
            order = sorted(able, key=merit)
            rest = self._rested.get(order[0])
            if rest and rest.until <= now:  # this request tries whether it is back
                length = min(2 * rest.length, _LONGEST_REST)
                self._rested[order[0]] = _Rest(now + length, length)
        return order

    def _note(self, client: RegistryClient, failure: Failure, target: str) -> None:
        if isinstance(failure, UnreachableError):
            self.rest(client)
            return
        with self._lock:
            self._doubt(client, target)

    def _doubt(self, client: RegistryClient, target: str) -> None:
        self._doubted[client, target] = None
        if len(self._doubted) > _MAX_NOTES:
            self._doubted.popitem(last=False)


def _verdict(failures: list[tuple[RegistryClient, Failure]], own: RegistryClient) -> Failure:
    """The failure to raise when all hosts failed.

    What the registry itself, the last in the configuration, does not have is not there.
    Otherwise a fault of any host that may pass gives hope.
    """
    last = next(failure for client, failure in failures if client is own)
    if len(failures) == 1:
        return last
    text = "; ".join(f"{client.host.name}: {failure.message}" for client, failure in failures)
    if isinstance(last, NotFoundError):
        return NotFoundError(text)
    faults = [failure for _, failure in failures if isinstance(failure, TemporaryFault)]
    if faults:
        wishes = [fault.retry_after for fault in faults if fault.retry_after is not None]
        return TemporaryFault(text, min(wishes, default=None))
    return type(last)(text)
