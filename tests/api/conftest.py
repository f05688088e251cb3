"""A daemon that stays, with nothing mounted, and the image of tests/daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.client import Client
from tests.daemon.mounting import Place, nydus_fs, place
from tests.image.build import BuiltImage, build_image, sample_tree


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of `image`. Not to be changed."""
    return sample_tree(tmp_path_factory.mktemp("tree") / "source")


@pytest.fixture(scope="session")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """An image of `tree`. Not to be changed."""
    return build_image(tree, tmp_path_factory.mktemp("image"))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path / "place") as made:
        assert nydus_fs("daemon", "--state-root", made.state).returncode == 0
        yield made


@pytest.fixture
def client(here: Place, image: BuiltImage) -> Client:
    return Client(here.state / "api.sock", here, image)
