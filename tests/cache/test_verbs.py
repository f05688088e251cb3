"""`nydus-fs cache` on a directory without a daemon, and beside one."""

from __future__ import annotations

import json
import os
import random
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import pytest
import trio

from fs.cache.eviction import allocated
from fs.cli import main
from fs.commandline import size
from tests.cache.engine import engine
from tests.daemon.mounting import place
from tests.image.build import BuiltImage, build_image
from tests.parts.waiting import eventually

_CHUNK = 64 << 10


def _content(image: BuiltImage) -> bytes:
    return (image.bootstrap.parent.parent / "source" / "big").read_bytes()


def _read(image: BuiltImage, directory: Path) -> int:
    """Read 20 chunks; the number of requests it took."""

    async def run() -> int:
        async with engine(image, directory / "blobs") as made:
            assert bytes(await made.cache.read(0, 20 * _CHUNK)) == _content(image)
            return len(made.backend.ranges)

    return trio.run(run)


class Commands:
    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._where = ["--cache-dir", str(directory)]
        self._capsys = capsys

    def __call__(self, *words: str, code: int = 0) -> Any:  # noqa: ANN401
        assert main(["cache", *words, *self._where, "--json"]) == code
        return json.loads(self._capsys.readouterr().out)

    def text(self, *words: str, code: int = 0) -> str:
        assert main(["cache", *words, *self._where]) == code
        return self._capsys.readouterr().out


def test_empty_and_missing_directories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = Commands(tmp_path, capsys)
    assert commands("ls") == []
    assert commands("verify") == []
    assert commands("prune") == {"freed_bytes": 0}
    assert commands("prune", "--size", "1K") == {"freed_bytes": 0}
    assert not list(tmp_path.iterdir())


def test_ls_and_prune_without_a_daemon(
    image: BuiltImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = Commands(tmp_path, capsys)
    _read(image, tmp_path)
    (held,) = commands("ls")
    assert held["blob"] == image.record.blob_id
    assert (held["ready"], held["in_use"], held["frozen"]) == (20, False, False)
    assert 20 * _CHUNK <= held["allocated"] < 22 * _CHUNK
    assert f"20 of {image.record.chunk_count} chunks" in commands.text("ls")
    assert commands("prune", "--size", "1G") == {"freed_bytes": 0}
    assert commands("prune")["freed_bytes"] >= 20 * _CHUNK
    assert commands("ls") == []


def test_verify_takes_back_what_is_wrong(
    image: BuiltImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = Commands(tmp_path, capsys)
    _read(image, tmp_path)
    (before,) = commands("verify")
    assert (before["checked"], before["wrong"]) == (20, 0)
    with (tmp_path / "blobs" / f"{image.record.blob_id}.blob.data").open("r+b") as data:
        data.seek(3 * _CHUNK + 77)
        data.write(b"?")
    (found,) = commands("verify", code=4)
    assert (found["checked"], found["wrong"]) == (20, 1)
    assert commands("verify")[0]["checked"] == 19
    assert "19 chunks are right" in commands.text("verify")
    assert _read(image, tmp_path) == 1


def test_verify_of_a_file_that_the_kernel_was_given(
    image: BuiltImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It loses its name, so that it is not given again, but no byte."""
    commands = Commands(tmp_path, capsys)

    async def run() -> str:
        async with engine(image, tmp_path / "blobs") as made:
            table = made.cache.table
            for row in range(len(table)):
                await made.cache.read(
                    table.uncompressed_offsets[row], table.uncompressed_sizes[row]
                )
            path = await trio.to_thread.run_sync(made.cache.whole_file)
            assert path is not None
            return path

    path = Path(trio.run(run))
    assert commands("ls")[0]["frozen"] is True
    with path.open("r+b", buffering=0) as data:
        data.write(b"?")
        (found,) = commands("verify", code=4)
        assert found["wrong"] == 1
        data.seek(_CHUNK)
        assert data.read(_CHUNK) == _content(image)[_CHUNK : 2 * _CHUNK]
    assert not path.exists()
    _read(image, tmp_path)
    assert commands("verify")[0]["wrong"] == 0


def test_files_of_nydusd_are_left_to_the_reader(
    image: BuiltImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = Commands(tmp_path, capsys)
    _read(image, tmp_path)
    for suffix in (".chunks", ".state"):
        (tmp_path / "blobs" / f"{image.record.blob_id}.blob{suffix}").unlink()
    assert commands("verify")[0]["known"] is False
    assert commands("ls")[0]["ready"] == 20
    assert _read(image, tmp_path) == 0
    assert commands("verify")[0] | {"path": ""} == {
        "blob": image.record.blob_id,
        "path": "",
        "checked": 20,
        "wrong": 0,
        "known": True,
    }


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0), ("17", 17), ("010", 10), ("2K", 2048), ("3m", 3 << 20), ("1T", 1 << 40),
        ("0x100", 256), ("0X10", 16), ("4KiB", 4096), ("1 GB", 1 << 30),
    ],
)  # fmt: skip
def test_sizes(text: str, number: int) -> None:
    assert size(text) == number


@pytest.mark.parametrize("text", ["", "K", "-1", "1.5G", "1Q", "٣", "0x", "MiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a size"):
        size(text)


@pytest.mark.fuse
def test_beside_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mount with a limit is read in full, twice; verbs go beside it."""
    (tmp_path / "source").mkdir()
    contents = {f"file-{n:02}": random.Random(n).randbytes(300_000) for n in range(80)}
    for name, content in contents.items():
        (tmp_path / "source" / name).write_bytes(content)
    image = build_image(tmp_path / "source", tmp_path / "image", chunk_size=_CHUNK)
    with place(tmp_path / "place") as here:
        commands = Commands(here.root / "cache", capsys)
        limit = 4 << 20
        here.mount(image, cache_size=limit, driver="fuse", prefetch=False)
        for name in sorted(contents)[:20]:
            assert (here.mountpoint / name).read_bytes() == contents[name]
        eventually(lambda: f"limit {limit}; chunks are not kept" in here.log(), "it is full")
        blobs = str(here.root / "cache" / "blobs")
        eventually(lambda: allocated(blobs) <= limit, "what came before goes at once")
        for name, content in contents.items():
            assert (here.mountpoint / name).read_bytes() == content
        eventually(lambda: allocated(blobs) <= limit, "what was on its way goes too")
        (held,) = commands("ls")
        assert held["in_use"] is True
        commands("prune")
        assert len(commands("ls")) == 1
        assert commands("verify")[0]["wrong"] == 0
        freed = commands("prune", "--size", "0")["freed_bytes"]
        assert freed > 1 << 20
        for name, content in contents.items():
            with (here.mountpoint / name).open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert file.read() == content
        here.unmount()
