"""Counters of what the kernel asks, one set an instance, and the text that Prometheus reads.

They begin with the worker. Counting costs a read two looks at the clock and a few
additions of small numbers. Names, order and buckets of the counters are nydusd's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from time import perf_counter, time
from typing import Any, NamedTuple

from fs.cache.tally import size_bucket

OPERATIONS = (
    "Getattr",
    "Readlink",
    "Open",
    "Release",
    "Read",
    "Statfs",
    "Getxattr",
    "Listxattr",
    "Opendir",
    "Lookup",
    "Readdir",
    "Readdirplus",
    "Access",
    "Forget",
    "BatchForget",
)
OPEN, RELEASE, READ = 2, 3, 4
_LATENCY_ENDS = (0.0002, 0.001, 0.02, 0.05, 0.5, 1.0, 2.0)
_READ_OPCODE = 15


class Counters:
    """Of one instance. `data_read` is what the kernel was given, in bytes."""

    def __init__(self) -> None:
        self.hits = [0] * len(OPERATIONS)
        self.errors = [0] * len(OPERATIONS)
        self.data_read = 0
        self.read_seconds = 0.0
        self.reads_by_size = [0] * 8
        self.reads_by_latency = [0] * 8

    def read(self, size: int, seconds: float) -> None:
        """One read was answered with `size` bytes."""
        self.data_read += size
        self.read_seconds += seconds
        self.reads_by_size[size_bucket(size)] += 1
        bucket = 0
        while bucket < 7 and seconds > _LATENCY_ENDS[bucket]:
            bucket += 1
        self.reads_by_latency[bucket] += 1

    @property
    def open_files(self) -> int:
        """A predecessor's open files are not known, so those are never less than none."""
        opened = self.hits[OPEN] - self.errors[OPEN]
        return max(0, opened - self.hits[RELEASE])

    def to_json(self, name: str) -> dict[str, Any]:
        """nydusd's FsIoStats; latencies are microseconds."""
        latencies = [0] * len(OPERATIONS)
        latencies[READ] = int(self.read_seconds * 1e6)
        return {
            "files_account_enabled": False,
            "access_pattern_enabled": False,
            "record_latest_read_files_enabled": False,
            "measure_latency": True,
            "id": name,
            "nr_opens": self.open_files,
            "data_read": self.data_read,
            "block_count_read": self.reads_by_size,
            "fop_hits": self.hits,
            "fop_errors": self.errors,
            "fop_cumulative_latency_total": latencies,
            "read_latency_dist": self.reads_by_latency,
        }


class Traffic:
    """The counters of all instances by number, and the reads that are under way."""

    def __init__(self) -> None:
        self._counters: dict[int, Counters] = {}
        self._under_way: dict[int, tuple[int, float]] = {}
        self._sequence = itertools.count(1)

    def of(self, number: int) -> Counters:
        """The counters of an instance, new ones if nothing was asked of it yet."""
        found = self._counters.get(number)
        if found is None:
            found = self._counters[number] = Counters()
        return found

    def known(self, number: int) -> Counters | None:
        """The counters of an instance of which something was asked."""
        return self._counters.get(number)

    def forget(self, number: int) -> None:
        """The instance is gone."""
        self._counters.pop(number, None)

    def begin_read(self, inode: int) -> tuple[int, float]:
        ticket, begun = next(self._sequence), perf_counter()
        self._under_way[ticket] = inode, begun
        return ticket, begun

    def end_read(self, ticket: int) -> None:
        del self._under_way[ticket]

    def under_way(self) -> list[dict[str, int]]:
        """nydusd's list; `unique` numbers them in the order in which they came to us."""
        offset = time() - perf_counter()
        return [
            {
                "inode": inode,
                "opcode": _READ_OPCODE,
                "unique": ticket,
                "timestamp_secs": int(begun + offset),
            }
            for ticket, (inode, begun) in self._under_way.items()
        ]


class Family(NamedTuple):
    """One metric: labels and value of each of its samples."""

    name: str
    kind: str
    help: str
    samples: list[tuple[Mapping[str, str], float]]


def exposition(families: Iterable[Family]) -> str:
    """The text format 0.0.4 of Prometheus."""
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.help}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.samples:
        inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
        yield f"{family.name}{{{inside}}} {value}" if inside else f"{family.name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
