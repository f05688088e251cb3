"""A daemon that stays, with nothing mounted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.api.client import Client
from tests.daemon.mounting import Place, nydus_fs, place
from tests.image.build import BuiltImage


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path / "place") as made:
        assert nydus_fs("daemon", "--state-root", made.state).returncode == 0
        yield made


@pytest.fixture
def client(here: Place, image: BuiltImage) -> Client:
    return Client(here.state / "api.sock", here, image)
