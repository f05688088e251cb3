"""One image for all mounts of this directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.image.build import BuiltImage, build_image, sample_tree


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of `image`. Not to be changed."""
    return sample_tree(tmp_path_factory.mktemp("tree") / "source")


@pytest.fixture(scope="session")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """An image of `tree`. Not to be changed."""
    return build_image(tree, tmp_path_factory.mktemp("image"), chunk_size=256 << 10)
