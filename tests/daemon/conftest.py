"""One image for all mounts of this directory, and a clean place for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.mounting import Place, place
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
        yield made
