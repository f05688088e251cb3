"""A small image for the cache's tests."""

from __future__ import annotations

import random

import pytest

from tests.image.build import BuiltImage, build_image


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """20 chunks of 64 KiB that do not compress, and 50 small ones. Not to be changed."""
    root = tmp_path_factory.mktemp("cached")
    source = root / "source"
    source.mkdir()
    (source / "big").write_bytes(random.Random(1).randbytes(20 << 16))
    for number in range(50):
        (source / f"small-{number:02}").write_bytes(b"%d" % number * 100)
    return build_image(source, root / "image", chunk_size=64 << 10)
