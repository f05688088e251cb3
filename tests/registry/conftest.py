"""What several tests of fs.registry share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.registry.images import Sample, make_image
from tests.registry.world import World


@pytest.fixture
def sample() -> Sample:
    return make_image(b"lower" * 1000, b"upper", Cmd=["x"])


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)
