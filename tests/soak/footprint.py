"""What a daemon takes of a machine: looked at when it rests, and held against another time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tests.parts import leaks
from tests.scale.processes import open_files, own_memory

MIB = 1 << 20


class Footprint(NamedTuple):
    """Of a daemon's processes together; memory is their own, cache what is on disk, in bytes."""

    memory: int
    descriptors: int
    threads: int
    mounts: int
    cache: int

    def __str__(self) -> str:
        return (
            f"{self.memory / MIB:.1f} MiB, {self.descriptors} descriptors, "
            f"{self.threads} threads, {self.mounts} mounts, cache {self.cache / MIB:.1f} MiB"
        )


#: How much more of each there may be at the end than after two minutes. The pools of connections
#: and the caches of a daemon fill slowly; what is lost at every mount or request is far more.
GROWTH = Footprint(memory=24 * MIB, descriptors=32, threads=16, mounts=0, cache=16 * MIB)


def footprint(pids: list[int], root: Path, cache: Path) -> Footprint:
    return Footprint(
        sum(map(own_memory, pids)),
        sum(map(open_files, pids)),
        sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids),
        len(leaks.mounts_below(root)),
        _on_disk(cache),
    )


def growth(before: Footprint, after: Footprint) -> list[str]:
    """What grew beyond its bound, in words."""
    return [
        f"{name}: {new} after {old}, {bound} more are allowed"
        for name, old, new, bound in zip(Footprint._fields, before, after, GROWTH, strict=True)
        if new - old > bound
    ]


def _on_disk(directory: Path) -> int:
    found = 0
    for path in directory.rglob("*"):
        try:
            found += path.lstat().st_blocks * 512
        except FileNotFoundError:  # evicted meanwhile
            continue
    return found
