"""Thousands of reads at once from a cold cache: right bytes, and the worker is as before."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.e2e.commands import succeed
from tests.parts.registry import Registry
from tests.scale.images import mounted
from tests.scale.layers import MIB, LargeFile, write_end
from tests.scale.processes import open_files, own_memory, peak_memory
from tests.scale.readers import NOISE

pytestmark = [pytest.mark.scale, pytest.mark.root, pytest.mark.fuse, pytest.mark.registry]

COUNT = 1024
PROGRAMS, THREADS, READS = 4, 500, 3


@pytest.fixture(scope="module")
def image(work: Path, registry: Registry) -> str:
    layer = work / "file.tar"
    with layer.open("wb", buffering=MIB) as out:
        LargeFile(COUNT, NOISE).write(out, "file")
        write_end(out)
    name = f"{registry.host}/scale/readers:nydus"
    succeed("nydusify", "convert", "--source", f"layer:{layer}", "--target", name)
    layer.unlink()
    return name


def test_two_thousand_readers_of_a_cold_cache(image: str, work: Path) -> None:
    with mounted(image, work / "readers") as here:
        with (here.path / "file").open("rb") as file:
            file.read(1)
        before = open_files(here.pid)
        started = time.monotonic()
        _read_at_once(here.path / "file")
        seconds = time.monotonic() - started
        files = _settled_files(here.pid, before)
        status = here.status()
        print(
            f"{PROGRAMS * THREADS} readers, {READS} reads each: {seconds:.1f} s,"
            f" {status['requests']} requests, {status['fetched_bytes'] / MIB:.0f} MiB,"
            f" worker peak {peak_memory(here.pid) / MIB:.0f} MiB,"
            f" own now {own_memory(here.pid) / MIB:.0f} MiB, files {before} -> {files}"
        )
        assert status["worker_pid"] == here.pid
        assert status["failed_requests"] == 0
        # Connections are kept, as many as requests may be in flight: for readers, ahead, prefetch.
        assert files <= before + 16 + 4 + 2
        assert peak_memory(here.pid) < 200 * MIB


def _settled_files(pid: int, before: int) -> int:
    """Open files of `pid`, which closes those of the last reads a moment after them."""
    deadline = time.monotonic() + 5
    while (count := open_files(pid)) > before and time.monotonic() < deadline:
        time.sleep(0.1)
    return count


def _read_at_once(path: Path) -> None:
    numbers = [COUNT, THREADS, READS]
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.scale.readers", path, *map(str, numbers), str(seed)],
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(PROGRAMS)
    ]
    outcomes = [program.communicate(timeout=150)[1] for program in programs]
    assert [program.returncode for program in programs] == [0] * PROGRAMS, outcomes
