"""Chunks on their way: who wants one that is, waits for it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from fs.format.errors import Failure, StorageError, UnreachableError

log = logging.getLogger(__name__)

#: Seconds; longer than a good request takes.
_BRIEFLY = 0.5


class Flight:
    """A chunk on its way. Exactly one of `data` and `error` is set when it has landed.

    A request may bring ten thousands of them, of which few are waited for.
    """

    __slots__ = ("_landed", "data", "error")

    def __init__(self) -> None:
        self._landed: trio.Event | None = None
        self.data: bytes | None = None
        self.error: Failure | None = None

    def land(self, outcome: bytes | Failure) -> None:
        """The end, of which all who wait are told."""
        if isinstance(outcome, Failure):
            self.error = outcome
        else:
            self.data = outcome
        if self._landed is not None:
            self._landed.set()

    async def landed(self) -> None:
        """Wait for the end, whatever it is."""
        if self.data is not None or self.error is not None:
            return
        if self._landed is None:
            self._landed = trio.Event()
        await self._landed.wait()

    async def wait(self) -> bytes:
        """The chunk; every waiter gets an exception of its own."""
        await self.landed()
        if self.data is None:
            assert self.error is not None
            raise copy.copy(self.error) from self.error
        return self.data

    async def wait_briefly(self) -> bytes | None:
        """The chunk, if it comes soon: for those with a backend of their own to ask.

        An image's server must not be able to keep other images' readers waiting.
        """
        with trio.move_on_after(_BRIEFLY):
            await self.landed()
        return self.data


class Flights(dict[int, Flight]):
    """By decoded offset, those of all images that share a blob's files in this process.

    They agree on what lies at an offset, so a flight brings what each of them wants.
    """


@contextmanager
def landing(where: str, land: Callable[[Failure], None]) -> Iterator[None]:
    """Whatever happens inside, no flight is left in the air: `land` is called in the end.

    It lands those that are left, with what befell them. Only what ends the program is raised.
    """
    outcome = Failure(f"{where}: was left behind")
    try:
        yield
    except Failure as error:
        outcome = error
    except OSError as error:
        outcome = StorageError(f"{where}: {error.strerror}")
    except Exception as error:
        log.exception("%s: fetch failed", where)
        outcome = Failure(f"{where}: {type(error).__name__}")
    except BaseException:
        outcome = UnreachableError(f"{where}: stopped while fetching")
        raise
    finally:
        land(outcome)
