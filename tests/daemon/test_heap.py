"""The C library's heaps in a process of its own, since they never go again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_THREADS = """
import ctypes, sys, threading
from fs.heap import limit_heaps

limit_heaps() if sys.argv[2] == "limited" else None
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(8)

def allocate():
    together.wait()
    assert libc.malloc(50_000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.parametrize(("mode", "most"), [("limited", 2), ("as it is", 9)])
def test_threads_share_heaps(tmp_path: Path, mode: str, most: int) -> None:
    told = tmp_path / "malloc.xml"
    subprocess.run([sys.executable, "-c", _THREADS, str(told), mode], check=True)
    heaps = told.read_text().count("<heap nr=")
    assert heaps <= most
    assert heaps > 2 or mode == "limited", "the test would show it"


_HOLES = """
import ctypes, sys
import trio, trio.testing
from fs.daemon.trimming import Trimming
from fs.heap import give_back

async def trim():
    async with trio.open_nursery() as nursery:
        trimming = Trimming(nursery)
        trimming.stir()
        trimming.stir()
        assert len(nursery.child_tasks) == 1
    assert not nursery.child_tasks

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
pieces = [ctypes.c_void_p(libc.malloc(50_000)) for _ in range(1000)]
for piece in pieces:
    ctypes.memset(piece, 1, 50_000)
for piece in pieces[:-1]:
    libc.free(piece)
before = resident()
if sys.argv[1] == "at once":
    give_back()
else:
    trio.run(trim, clock=trio.testing.MockClock(autojump_threshold=0))
print(before - resident())
"""


@pytest.mark.parametrize("when", ["at once", "after use"])
def test_freed_pages_below_what_is_in_use_go_back(when: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _HOLES, when], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) > 40_000_000
