"""Who goes through a blob in its order is served ahead; nobody else is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from fs.cache.onward import Onward
from fs.image.tree import map_bootstrap
from tests.cache.imaging import opened
from tests.image.build import BuiltImage, build_image

_SIZE = 64 << 10
_FILES = 120


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """Files of one incompressible chunk of 64 KiB each."""
    root = tmp_path_factory.mktemp("many")
    source = root / "source"
    source.mkdir()
    for number in range(_FILES):
        (source / f"file-{number:03}").write_bytes(random.Random(number).randbytes(_SIZE))
    return build_image(source, root / "image", chunk_size=_SIZE)


def test_windows_begin_after_some_steps_and_grow(many: BuiltImage) -> None:
    onward = Onward(map_bootstrap(str(many.bootstrap)).chunk_table(0), 3)
    assert not onward.missed(0, 0)
    assert not onward.missed(1, 2)
    assert onward.missed(4, 4) == range(5, 13)
    onward.taken(range(5, 13))
    assert onward.mark == 5
    assert onward.window() == range(13, 29)


def test_a_miss_elsewhere_ends_it(many: BuiltImage) -> None:
    onward = Onward(map_bootstrap(str(many.bootstrap)).chunk_table(0), 2)
    onward.missed(0, 0)
    onward.taken(onward.missed(1, 1))
    for row in (100, 20, 60):
        assert not onward.missed(row, row)
        assert onward.mark > _FILES
    assert not Onward(map_bootstrap(str(many.bootstrap)).chunk_table(0), None).missed(1, 1)


def test_files_in_order_take_few_requests(many: BuiltImage, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(many, tmp_path, amplify=_SIZE) as made:
            for number in range(_FILES):
                name = f"file-{number:03}"
                content = await made.image.read(made.nid(name), 0, _SIZE)
                assert bytes(content) == random.Random(number).randbytes(_SIZE)
            assert len(made.asked) < 15
            assert sum(length for _, length in made.asked) == _FILES * _SIZE

    trio.run(main)
