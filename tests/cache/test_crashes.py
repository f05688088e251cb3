"""Sudden deaths at any time, and everything at once: no read ever gives a wrong byte."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fs.cache import files, inventory, state
from fs.cache.claims import Claims
from fs.cache.eviction import evict
from fs.format.chunktable import ChunkTable
from fs.image.tree import map_bootstrap
from tests.cache.engine import Engine, engine
from tests.image.build import BuiltImage, build_image
from tests.parts.examples import examples
from tests.parts.waiting import PATIENCE

_CHUNK = 16 << 10
_COUNT = 24
_FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[BuiltImage]:
    """Two images with one blob each; half of their chunks are equal."""
    common = random.Random(3).randbytes(_COUNT // 2 * _CHUNK)
    made = []
    for seed in (1, 2):
        root = tmp_path_factory.mktemp(f"crashing-{seed}")
        (root / "source").mkdir()
        own = random.Random(seed + 10).randbytes(_COUNT // 2 * _CHUNK)
        (root / "source" / "big").write_bytes(own + common)
        made.append(build_image(root / "source", root / "image", chunk_size=_CHUNK))
    return made


def _content(image: BuiltImage) -> bytes:
    return (image.bootstrap.parent.parent / "source" / "big").read_bytes()


async def _check(made: Engine, content: bytes, offset: int, length: int) -> None:
    length = min(length, len(content) - offset)
    assert bytes(await made.cache.read(offset, length)) == content[offset : offset + length]


def _fill(image: BuiltImage, directory: Path, seed: int, limit: int | None) -> None:
    """Read at random for ever."""
    drawn = random.Random(seed)

    async def main() -> None:
        content = _content(image)
        while True:
            async with engine(image, directory, limit=limit, grace=0) as made:
                for _ in range(drawn.randrange(1, 30)):
                    at = drawn.randrange(len(content))
                    await _check(made, content, at, drawn.randrange(1, 4 * _CHUNK))

    trio.run(main)


def _read_all(image: BuiltImage, directory: Path) -> int:
    """Read everything; how many bytes were fetched for it."""

    async def main() -> int:
        content = _content(image)
        async with engine(image, directory) as made:
            for at in range(0, len(content), _CHUNK):
                await _check(made, content, at, _CHUNK)
            return sum(length for _, length in made.backend.ranges)

    return trio.run(main)


@pytest.mark.parametrize("limit", [None, 250 << 10])
def test_killed_fillers_leave_right_bytes(
    images: list[BuiltImage], tmp_path: Path, limit: int | None
) -> None:
    """Two processes fill, and evict if there is a limit, until they are killed: 12 times."""
    drawn = random.Random(5)
    for attempt in range(12):
        processes = [
            _FORK.Process(target=_fill, args=(images[number % 2], tmp_path, attempt, limit))
            for number in range(attempt % 2 + 1)
        ]
        for process in processes:
            process.start()
        time.sleep(drawn.uniform(0.02, 0.4))
        for process in processes:
            assert process.exitcode is None
            process.kill()
            process.join(PATIENCE)
        for image in images if attempt % 3 else images[:1]:
            _read_all(image, tmp_path)
    assert all(verdict.wrong == 0 for verdict in inventory.verify(str(tmp_path)))
    if limit is None:
        assert _read_all(images[0], tmp_path) == 0


def _dying(after: int, whole: Callable[..., object]) -> Callable[..., object]:
    """`whole`, but its call number `after` is the last thing that happens."""
    calls = 0

    def call(*given: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*given, **named)

    return call


_STEPS = {
    "before the state": (state, "write_state"),
    "before the state of the files": (files, "write_state"),
    "before bytes": (files, "_write"),
    "before a bit": (files.BlobFiles, "_set"),
    "before claims": (Claims, "_write"),
    "before the map": (files, "_open_map"),
    "before clearing the map": (files.BlobFiles, "_recover"),
}


@pytest.mark.parametrize("step", _STEPS)
@pytest.mark.parametrize("after", [1, 2])
def test_death_at_each_step_leaves_right_bytes(
    images: list[BuiltImage], tmp_path: Path, step: str, after: int
) -> None:
    place, name = _STEPS[step]

    def victim() -> None:
        setattr(place, name, _dying(after, getattr(place, name)))
        for image in (images[0], images[1], images[0]):
            _read_all(image, tmp_path)

    process = _FORK.Process(target=victim)
    process.start()
    process.join(PATIENCE)
    assert process.exitcode in (0, -signal.SIGKILL)
    for image in (*images, *images):
        _read_all(image, tmp_path)


_TABLES = st.sampled_from(["whole", "front", "back", "odd", "hostile"])
_PLACES = st.integers(0, _COUNT * _CHUNK - 1)
_STEPS_OF_LIFE = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(0, 1), _TABLES),
        st.tuples(st.just("read"), st.integers(0, 5), _PLACES, st.integers(1, 5 * _CHUNK)),
        st.tuples(st.just("close"), st.integers(0, 5)),
        st.tuples(st.just("evict"), st.integers(0, 600 << 10)),
        st.tuples(st.just("crash"), st.integers(0, 1), st.integers(0, 3)),
        st.tuples(st.just("reboot")),
        st.tuples(st.just("verify")),
    ),
    min_size=5,
    max_size=40,
)


@pytest.mark.filterwarnings("ignore:This process")
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=_STEPS_OF_LIFE)
def test_any_life_gives_right_bytes(images: list[BuiltImage], steps: list[tuple[Any, ...]]) -> None:
    """Images of two blobs come and go, contradict each other, die; chunks are evicted."""
    with tempfile.TemporaryDirectory() as directory:
        trio.run(_Life(images, Path(directory)).run, steps)


class _Opened:
    """An engine in a task of its own, so that engines may be closed in any order."""

    def __init__(self, image: BuiltImage, directory: Path, kind: str) -> None:
        self._image = image
        self._directory = directory
        self._table = _table(image, kind)
        self._leave = trio.Event()
        self._left = trio.Event()
        self.decoded = _decoded(image, self._table)
        self.engine: Engine

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        async with engine(self._image, self._directory, table=lambda: self._table) as self.engine:
            task_status.started()
            await self._leave.wait()
        self._left.set()

    async def close(self) -> None:
        self._leave.set()
        await self._left.wait()


class _Life:
    def __init__(self, images: list[BuiltImage], directory: Path) -> None:
        self._images = images
        self._directory = directory
        self._open: list[_Opened] = []
        self._nursery: trio.Nursery

    async def run(self, steps: list[tuple[Any, ...]]) -> None:
        async with trio.open_nursery() as self._nursery:
            for kind, *values in steps:
                await getattr(self, f"_step_{kind}")(*values)
            while self._open:
                await self._step_close(0)

    async def _step_open(self, number: int, kind: str) -> None:
        if len(self._open) < 5:
            opened = _Opened(self._images[number], self._directory, kind)
            await self._nursery.start(opened.run)
            self._open.append(opened)

    async def _step_read(self, number: int, offset: int, length: int) -> None:
        if self._open:
            opened = self._open[number % len(self._open)]
            flat = bytes(await opened.engine.cache.read_flat(offset, length))
            assert flat == opened.decoded[offset : offset + length].ljust(length, b"\0")

    async def _step_close(self, number: int) -> None:
        if self._open:
            await self._open.pop(number % len(self._open)).close()

    async def _step_evict(self, target: int) -> None:
        await trio.to_thread.run_sync(evict, str(self._directory), target)

    async def _step_verify(self) -> None:
        list(inventory.verify(str(self._directory)))
        assert all(verdict.wrong == 0 for verdict in inventory.verify(str(self._directory)))

    async def _step_reboot(self) -> None:
        """The machine dies: what was not synced may be lost, here all of one page a blob."""
        while self._open:
            await self._step_close(0)
        for path in self._directory.glob("**/*.blob.data"):
            prefix = str(path).removesuffix(".data")
            with open(prefix + ".state", "w") as file:  # noqa: ASYNC230
                file.write('{"boot": "another", "clean": false}')
            with path.open("r+b") as data:
                data.write(b"\0" * 4096)

    async def _step_crash(self, number: int, chunks: int) -> None:
        process = _FORK.Process(target=self._die, args=(self._images[number], chunks))
        process.start()
        await trio.to_thread.run_sync(process.join, 20)
        assert process.exitcode == 9

    def _die(self, image: BuiltImage, chunks: int) -> None:
        async def main() -> None:
            async with engine(image, self._directory) as made:
                for chunk in range(chunks):
                    await _check(made, _content(image), chunk * 7 * _CHUNK, _CHUNK)
                os._exit(9)

        # The thread that forked is inside of a run, another one of this process is not.
        thread = threading.Thread(target=trio.run, args=(main,))
        thread.start()
        thread.join()


def _table(image: BuiltImage, kind: str) -> ChunkTable:
    whole = map_bootstrap(str(image.bootstrap)).chunk_table(0)
    rows = [whole.row(row) for row in range(len(whole))]
    half = len(rows) // 2
    if kind == "hostile":
        first, second = rows[0], rows[1]
        rows[0] = first._replace(compressed_offset=second.compressed_offset, digest=second.digest)
        rows = rows[:3]
    chosen = {"front": rows[: half + 3], "back": rows[half:], "odd": rows[1::2]}.get(kind, rows)
    return ChunkTable(chosen, image.record, "test")


def _decoded(image: BuiltImage, table: ChunkTable) -> bytes:
    """What the table makes of the blob: zeros but for its chunks."""
    content, flat = _content(image), bytearray(image.record.uncompressed_size)
    whole = map_bootstrap(str(image.bootstrap)).chunk_table(0)
    at = {whole.row(row).digest: whole.uncompressed_offsets[row] for row in range(len(whole))}
    for row in range(len(table)):
        chunk = table.row(row)
        data = content[at[chunk.digest] :][: chunk.uncompressed_size]
        flat[chunk.uncompressed_offset : chunk.uncompressed_offset + len(data)] = data
    return bytes(flat)
