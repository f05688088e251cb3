"""Traces: what counts as a first touch, what a file may hold, what a torn file is worth."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgpack
import pytest
import trio

from fs.format.bootstrap import Bootstrap
from fs.format.errors import FormatError, NotFoundError
from fs.image.trace import FORMAT, Heading, Paths, Touch, Trace, read_trace
from fs.image.tree import map_bootstrap
from tests.image.build import BuiltImage, build_image
from tests.parts.waiting import PATIENCE

_BLOCK = 4096


class _Traced:
    def __init__(self, bootstrap: Bootstrap) -> None:
        self.bootstrap = bootstrap

    def nid(self, *names: bytes) -> int:
        nid = self.bootstrap.root
        for name in names:
            found = self.bootstrap.lookup(nid, name)
            assert found is not None
            nid = found
        return nid


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """/dir/first and /second (one content, so one chunk), /large of 3 chunks of 64 KiB."""
    root = tmp_path_factory.mktemp("traced")
    source = root / "source"
    (source / "dir").mkdir(parents=True)
    (source / "dir" / "first").write_bytes(b"same" * 100)
    (source / "second").write_bytes(b"same" * 100)
    (source / "large").write_bytes(random.Random(1).randbytes(3 << 16))
    return build_image(source, root / "image", chunk_size=64 << 10)


@pytest.fixture
def image(built: BuiltImage) -> _Traced:
    return _Traced(map_bootstrap(str(built.bootstrap)))


def _begin(path: Path, image: _Traced, source: str = "place/app:1") -> Trace:
    return Trace.begin(str(path), image, source, "image.boot", None)


def _record(path: Path, image: _Traced, act: Callable[[Trace], None]) -> list[Touch]:
    """What a trace holds in which `act` touched things."""

    async def main() -> None:
        trace = _begin(path, image)
        act(trace)
        trace.close()

    trio.run(main)
    return read_trace(str(path))[1]


def test_each_block_counts_once_and_in_order(tmp_path: Path, image: _Traced) -> None:
    large = image.nid(b"large")

    def act(trace: Trace) -> None:
        trace.touch(large, 10 * _BLOCK, _BLOCK)
        trace.touch(large, 0, 2 * _BLOCK)
        trace.touch(large, _BLOCK, _BLOCK)
        trace.touch(large, 10 * _BLOCK, 2 * _BLOCK)
        trace.touch(large, 0, 12 * _BLOCK)

    touches = _record(tmp_path / "t", image, act)
    base = image.bootstrap.extents(large, 0, 1)[0].blob_offset
    assert [(touch.offset - base, touch.length) for touch in touches] == [
        (10 * _BLOCK, _BLOCK),
        (0, 2 * _BLOCK),
        (10 * _BLOCK, 2 * _BLOCK),
        (0, 12 * _BLOCK),
    ]
    assert {touch.nid for touch in touches} == {large}
    assert [touch.at for touch in touches] == sorted(touch.at for touch in touches)


def test_files_are_named_also_when_the_kernel_read_the_blob(tmp_path: Path, image: _Traced) -> None:
    def act(trace: Trace) -> None:
        trace.touch(image.nid(b"dir", b"first"), 0, _BLOCK)
        trace.touch_flat(0, 0, 64 << 20)

    touches = _record(tmp_path / "t", image, act)
    paths = Paths(image.bootstrap)
    assert paths.of(touches[0]) == ["/dir/first"]
    assert touches[0].length == 400  # the file ends there
    assert sorted(paths.of(touches[1])) == ["/dir/first", "/large", "/second"]
    large = touches[0]._replace(nid=0, offset=touches[0].offset + _BLOCK)
    assert "/second" not in paths.of(large)


def test_written_while_it_is_used(tmp_path: Path, image: _Traced) -> None:
    """So a killed process costs the last moment only."""

    async def main() -> None:
        trace = _begin(tmp_path / "t", image)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trace.run)
            trace.touch(image.nid(b"second"), 0, _BLOCK)
            with trio.fail_after(PATIENCE):
                while not trace.written:  # noqa: ASYNC110 (a thread writes it)
                    await trio.sleep(0.02)
            assert len(read_trace(str(tmp_path / "t"))[1]) == 1
            nursery.cancel_scope.cancel()
        trace.close()

    trio.run(main)


def test_any_prefix_is_good_and_is_continued(tmp_path: Path, image: _Traced) -> None:
    large, path = image.nid(b"large"), tmp_path / "t"

    def act(trace: Trace) -> None:
        for block in range(5):
            trace.touch(large, block * _BLOCK, _BLOCK)

    whole = _record(path, image, act)
    content = path.read_bytes()
    first = len(content) - len(b"".join(msgpack.packb(list(touch)) for touch in whole))
    for cut in range(first, len(content)):
        path.write_bytes(content[:cut])
        heading, touches = read_trace(str(path))
        assert touches == whole[: len(touches)]
    continued = _record(path, image, lambda trace: trace.touch(large, 4 * _BLOCK, 2 * _BLOCK))
    assert continued[:4] == whole[:4]
    assert [touch.length for touch in continued[4:]] == [2 * _BLOCK]
    assert heading.started == read_trace(str(path))[0].started


def test_workers_that_touch_the_same_count_once(tmp_path: Path, image: _Traced) -> None:
    for _ in range(3):
        touches = _record(
            tmp_path / "t", image, lambda trace: trace.touch(image.nid(b"large"), 0, _BLOCK)
        )
    assert len(touches) == 1


def test_full_disk_ends_the_trace_and_nothing_else(image: _Traced) -> None:
    async def main(full: BinaryIO) -> None:
        heading = Heading("s", "b", None, ["a"], 1.0)
        trace = Trace(full, image, heading)
        trace.touch(image.nid(b"large"), 0, _BLOCK)
        trace.close()
        assert trace.error == "No space left on device"

    with open("/dev/full", "wb", buffering=0) as full:
        trio.run(main, full)


def test_files_of_others_are_not_touched(tmp_path: Path, image: _Traced) -> None:
    async def main() -> None:
        notes = tmp_path / "notes"
        notes.write_text("important")
        with pytest.raises(FormatError, match="not a trace"):
            _begin(notes, image)
        assert notes.read_text() == "important"
        _begin(tmp_path / "t", image).close()
        with pytest.raises(FormatError, match="regular"):
            _begin(Path("/dev/full"), image)
        with pytest.raises(FormatError, match="another image"):
            _begin(tmp_path / "t", image, "place/other:1")

    trio.run(main)


@pytest.mark.parametrize(
    "touch",
    [
        [1, 0, 0, 1],
        [1, 5, 0, 1, 0],
        [1, 0, -1, 1, 0],
        [1, 0, 0, 1 << 60, 0],
        [1, 0, 1 << 63, 1, 0],
        ["a", 0, 0, 1, 0],
        {"a": 1},
    ],
)
def test_nonsense_is_a_format_error(tmp_path: Path, touch: object) -> None:
    heading = {
        "format": FORMAT,
        "source": "s",
        "bootstrap": "b",
        "manifest_digest": None,
        "blobs": ["a"],
        "started": 1.0,
    }
    path = tmp_path / "t"
    path.write_bytes(msgpack.packb(heading) + msgpack.packb(touch))
    with pytest.raises(FormatError):
        read_trace(str(path))
    path.write_bytes(msgpack.packb(heading | {"blobs": 3}))
    with pytest.raises(FormatError):
        read_trace(str(path))
    with pytest.raises(NotFoundError):
        read_trace(str(path) + "none")
