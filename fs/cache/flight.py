"""Chunks on their way: who wants one that is, waits for it."""

from __future__ import annotations

import copy

import trio

from fs.format.errors import Failure

#: Seconds; longer than a good request takes.
_BRIEFLY = 0.5


class Flight:
    """A chunk on its way. Exactly one of `data` and `error` is set when `landed` is."""

    __slots__ = ("data", "error", "landed")

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.data: bytes | None = None
        self.error: Failure | None = None

    async def wait(self) -> bytes:
        """The chunk; every waiter gets an exception of its own."""
        await self.landed.wait()
        if self.data is None:
            assert self.error is not None
            raise copy.copy(self.error) from self.error
        return self.data

    async def wait_briefly(self) -> bytes | None:
        """The chunk, if it comes soon: for those with a backend of their own to ask.

        An image's server must not be able to keep other images' readers waiting.
        """
        with trio.move_on_after(_BRIEFLY):
            await self.landed.wait()
        return self.data


class Flights(dict[int, Flight]):
    """By decoded offset, those of all images that share a blob's files in this process.

    They agree on what lies at an offset, so a flight brings what each of them wants.
    """
