"""What a daemon was told of is asked for once, whenever its mount comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
import trio.testing

from fs.daemon.engine import Engine
from fs.daemon.expectations import Expectations
from fs.daemon.order import MountOptions, Order
from fs.format.errors import Failure, NotFoundError
from fs.image.source import Resolved

_ORDER = Order("registry/app:v1", "", MountOptions(), {}, "token")


class _Engine:
    """Counts what it is asked; a name that ends in "gone" is not found."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.held = 0

    @asynccontextmanager
    async def reached(self, order: Order) -> AsyncIterator[None]:
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    async def resolve(self, order: Order) -> Resolved:
        self.asked.append(order.source)
        await trio.sleep(1)
        if order.source.endswith("gone"):
            raise NotFoundError(order.source)
        return Resolved(order.source)


@asynccontextmanager
async def _expecting() -> AsyncIterator[tuple[_Engine, Expectations]]:
    engine = _Engine()
    async with trio.open_nursery() as nursery:
        yield engine, Expectations(cast(Engine, engine), nursery)
        nursery.cancel_scope.cancel()
    assert not engine.held


async def _mounted(expectations: Expectations, order: Order) -> Resolved:
    return await expectations.resolved(order._replace(mountpoint="/mnt"))


@pytest.mark.parametrize("later", [0.0, 0.5, 2.0])
def test_the_mount_takes_what_was_found(
    later: float, autojump_clock: trio.testing.MockClock
) -> None:
    async def main() -> None:
        async with _expecting() as (engine, expectations):
            expectations.begin(_ORDER)
            await trio.sleep(later)
            assert await _mounted(expectations, _ORDER) == Resolved(_ORDER.source)
            assert engine.asked == [_ORDER.source]
            await _mounted(expectations, _ORDER)  # once only
            assert len(engine.asked) == 2

    trio.run(main, clock=autojump_clock)


def test_another_image_or_other_options_are_asked_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def main() -> None:
        async with _expecting() as (engine, expectations):
            expectations.begin(_ORDER)
            other = _ORDER._replace(options=MountOptions(plain_http=True))
            await _mounted(expectations, other)
            assert len(engine.asked) == 2

    trio.run(main, clock=autojump_clock)


def test_a_failure_is_the_mounts(autojump_clock: trio.testing.MockClock) -> None:
    async def main() -> None:
        async with _expecting() as (engine, expectations):
            order = _ORDER._replace(source="registry/gone")
            expectations.begin(order)
            with pytest.raises(Failure, match="registry/gone"):
                await _mounted(expectations, order)
            assert len(engine.asked) == 1

    trio.run(main, clock=autojump_clock)


def test_what_nobody_mounts_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    async def main() -> None:
        async with _expecting() as (engine, expectations):
            expectations.begin(_ORDER)
            await trio.sleep(60)
            assert not engine.held
            await _mounted(expectations, _ORDER)
            assert len(engine.asked) == 2

    trio.run(main, clock=autojump_clock)


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)
