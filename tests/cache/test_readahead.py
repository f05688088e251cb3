"""Windows ahead of a reader: when they open, how they grow, what closes them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio

from fs.cache.readahead import Advice, ReadAhead
from tests.cache.imaging import delay, opened
from tests.image.build import BuiltImage, build_image

_STEP = 128 << 10
_FIRST = 256 << 10
_LARGEST = 4 << 20


def _windows(ahead: ReadAhead, offsets: Iterable[int], key: int = 7) -> list[Advice]:
    told = [ahead.read(key, offset, _STEP) for offset in offsets]
    return [advice for advice in told if advice.start < advice.end]


def test_beginning_of_a_file_is_not_yet_a_sequence() -> None:
    assert ReadAhead().read(1, 0, _STEP) == Advice(0, 0, True)


def test_windows_follow_each_other_and_double_to_the_limit() -> None:
    windows = _windows(ReadAhead(), range(0, 64 << 20, _STEP))
    assert windows[0] == Advice(2 * _STEP, 2 * _STEP + _FIRST, True)
    assert all(one.end == other.start for one, other in itertools.pairwise(windows))
    sizes = [window.end - window.start for window in windows]
    assert sizes[:5] == [_FIRST << power for power in range(5)]
    assert set(sizes[5:]) == {_LARGEST}


def test_a_window_is_asked_for_before_it_is_needed() -> None:
    ahead, reached = ReadAhead(), 0
    for offset in range(0, 64 << 20, _STEP):
        if offset > 1 << 20:
            assert offset + _STEP <= reached
        reached = max(reached, ahead.read(1, offset, _STEP).end)


def test_jumps_end_the_sequence_and_then_the_neighbours() -> None:
    ahead = ReadAhead()
    _windows(ahead, range(0, 2 << 20, _STEP))
    assert ahead.read(7, 1 << 30, _STEP) == Advice(0, 0, True)
    assert ahead.read(7, 1 << 28, _STEP) == Advice(0, 0, False)
    assert ahead.read(7, (1 << 28) + _STEP, _STEP).widen
    assert _windows(ahead, range((1 << 28) + 2 * _STEP, 1 << 29, _STEP))


def test_random_readers_are_never_widened() -> None:
    ahead, places = ReadAhead(), random.Random(1)
    told = [ahead.read(7, places.randrange(1 << 19) << 12, 4096) for _ in range(500)]
    assert [advice for advice in told if advice.start < advice.end] == []
    assert not any(advice.widen for advice in told[3:])


def test_reads_in_the_wrong_order_are_still_a_sequence() -> None:
    """The kernel has several requests of one reader under way."""
    windows = _windows(ReadAhead(), [(number ^ 1) * _STEP for number in range(200)])
    assert max(window.end - window.start for window in windows) == _LARGEST


def test_files_do_not_disturb_each_other() -> None:
    ahead = ReadAhead()
    for offset in range(0, 4 << 20, _STEP):
        first, second = ahead.read(1, offset, _STEP), ahead.read(2, offset, _STEP)
        assert first == second


def test_off() -> None:
    assert _windows(ReadAhead(0), range(0, 4 << 20, _STEP)) == []


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """One file of 32 MiB in chunks of 64 KiB, and a small one behind it."""
    root = tmp_path_factory.mktemp("large")
    source = root / "source"
    source.mkdir()
    (source / "big").write_bytes(random.Random(2).randbytes(32 << 20))
    (source / "last").write_bytes(random.Random(3).randbytes(1 << 20))
    return build_image(source, root / "image", chunk_size=64 << 10)


def _read(large: BuiltImage, directory: Path, offsets: list[int]) -> list[tuple[int, int]]:
    """The requests that reads of `big` at `offsets`, one after the other, lead to."""
    found: list[tuple[int, int]] = []

    async def main() -> None:
        content = (large.bootstrap.parent.parent / "source" / "big").read_bytes()
        async with opened(large, directory, before=delay) as made:
            for offset in offsets:
                got = await made.image.read(made.nid("big"), offset, _STEP)
                assert bytes(got) == content[offset : offset + _STEP]
            found.extend(made.asked)

    trio.run(main)
    return found


def test_sequential_reader_makes_few_requests(large: BuiltImage, tmp_path: Path) -> None:
    ranges = _read(large, tmp_path, list(range(0, 32 << 20, _STEP)))
    assert len(ranges) <= 16
    assert sum(length for _, length in ranges) == 32 << 20  # each byte once, none behind the file
    assert max(length for _, length in ranges) == _LARGEST


def test_flat_reads(large: BuiltImage, tmp_path: Path) -> None:
    """Small ones bring neighbours, the kernel's largest do not; only a strict sequence is one."""

    async def main() -> None:
        async with opened(large, tmp_path, amplify=_FIRST) as made:
            await made.image.read_flat(0, 0, 1 << 20)
            await made.image.read_flat(0, 8 << 20, 4096)
            await made.image.read_flat(0, (8 << 20) + (512 << 10), 4096)
            assert [length for _, length in made.asked] == [1 << 20, _FIRST, 2 * _FIRST]
            for offset in range(16 << 20, 24 << 20, _STEP):
                await made.image.read_flat(0, offset, _STEP)
            assert len(made.asked) < 12

    trio.run(main)


def test_random_reader_gets_what_it_reads(large: BuiltImage, tmp_path: Path) -> None:
    places = random.Random(4).sample(range(0, 32 << 20, 2 << 20), 16)
    ranges = _read(large, tmp_path, places)
    assert [length for _, length in ranges] == [_STEP] * 16
    assert [offset for offset, _ in ranges] == places
