"""Sources that are resolved before their mount is asked for.

Who will mount an image says so first, and prepares the place for it meanwhile. The mount that
follows has the same token, and takes what was found; if none comes, it is forgotten.
"""

from __future__ import annotations

import copy

import trio

from fs.daemon.engine import Engine
from fs.daemon.order import Order
from fs.format.errors import Failure
from fs.image.source import Resolved

#: Seconds between what was found and the mount that wants it.
_KEPT = 10.0
_MOST = 64


class _Expectation:
    def __init__(self, order: Order) -> None:
        self.order = order
        self.found = trio.Event()
        self.taken = trio.Event()
        self.resolved: Resolved | None = None
        self.failure: Failure | None = None


class Expectations:
    """`nursery` ends with the worker."""

    def __init__(self, engine: Engine, nursery: trio.Nursery) -> None:
        self._engine = engine
        self._nursery = nursery
        self._expected: dict[str, _Expectation] = {}

    def begin(self, order: Order) -> None:
        """Resolve what `order` names; its mountpoint does not matter."""
        if order.token and order.token not in self._expected and len(self._expected) < _MOST:
            expectation = self._expected[order.token] = _Expectation(order)
            self._nursery.start_soon(self._resolve, expectation)

    async def resolved(self, order: Order) -> Resolved:
        """The order's source made local, as `Engine.resolve` does, or did already. Failure."""
        expectation = self._expected.pop(order.token, None)
        if expectation is None or not _is_of(order, expectation.order):
            return await self._engine.resolve(order)
        await expectation.found.wait()
        expectation.taken.set()
        if expectation.resolved is None:
            assert expectation.failure is not None
            raise copy.copy(expectation.failure) from expectation.failure
        return expectation.resolved

    async def _resolve(self, expectation: _Expectation) -> None:
        """Its connections are kept until the mount has them."""
        order = expectation.order
        try:
            async with self._engine.reached(order):
                try:
                    expectation.resolved = await self._engine.resolve(order)
                except Failure as failure:
                    expectation.failure = failure
                expectation.found.set()
                with trio.move_on_after(_KEPT):
                    await expectation.taken.wait()
        finally:
            self._expected.pop(order.token, None)


def _is_of(order: Order, expected: Order) -> bool:
    return order._replace(mountpoint="") == expected._replace(mountpoint="")
