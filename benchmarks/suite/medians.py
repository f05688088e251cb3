"""Medians of what was measured, and what there are measurements of."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks.suite.records import Line, Records


class Spread(NamedTuple):
    """Of some samples."""

    median: float
    p95: float
    runs: int


def spread(samples: Sequence[float]) -> Spread:
    """The 95th percentile is interpolated between samples; of one sample it is that."""
    ordered = sorted(samples)
    place = 0.95 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    p95 = ordered[low] + (ordered[high] - ordered[low]) * (place - low)
    return Spread(statistics.median(ordered), p95, len(ordered))


def values(lines: Iterable[Line], *path: str) -> list[float]:
    """The figure at `path` of each line that has it."""
    found = []
    for line in lines:
        value: Any = line
        for name in path:
            value = value.get(name, {})
        if isinstance(value, int | float):
            found.append(float(value))
    return found


def median(lines: Iterable[Line], *path: str) -> float | None:
    samples = values(lines, *path)
    return statistics.median(samples) if samples else None


def names(records: Records, field: str) -> list[str]:
    """The images, modes or networks that there are runs of, as they were asked for."""
    there = {line[field] for line in records.of("run")}
    order = records.head["asked"][f"{field}s"]
    known = [name for name in order if name in there]
    return known + sorted(there - set(known))


def image_bytes(records: Records, image: str, form: str = "plain") -> float:
    return median(records.of("format", image=image, format=form), "bytes") or 0.0
