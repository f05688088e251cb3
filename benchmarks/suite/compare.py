"""Two measurements against each other: what has become slower, beyond what runs differ by."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import NamedTuple

from benchmarks.suite.records import Records

#: A change counts from this ratio of medians, if the samples hardly overlap either.
SLOWER = 1.1
_FIGURES = {"start": "ready", "read": "read"}

Samples = dict[tuple[str, str, str, str], list[float]]


class Change(NamedTuple):
    """Medians in seconds of the same thing in both measurements."""

    kind: str
    image: str
    mode: str
    network: str
    old: float
    new: float
    apart: bool

    @property
    def ratio(self) -> float:
        return self.new / self.old

    @property
    def slower(self) -> bool:
        return self.apart and self.ratio >= SLOWER

    @property
    def faster(self) -> bool:
        return self.apart and self.ratio <= 1 / SLOWER


def changes(old: Records, new: Records) -> list[Change]:
    """Of all that is in both; the greatest slowdown first."""
    before, after = _samples(old), _samples(new)
    found = [
        Change(*key, statistics.median(before[key]), statistics.median(after[key]),
               _apart(before[key], after[key]))
        for key in before.keys() & after.keys()
    ]  # fmt: skip
    return sorted(found, key=lambda change: -change.ratio)


def _samples(records: Records) -> Samples:
    found: Samples = defaultdict(list)
    for line in records.of("run"):
        if figure := _FIGURES.get(line["kind"]):
            key = (line["kind"], line["image"], line["mode"], line["network"])
            found[key].append(line["seconds"][figure])
    return found


def _apart(old: list[float], new: list[float]) -> bool:
    """Whether the middle of one lies outside of the other, both ways."""
    middle_old, middle_new = statistics.median(old), statistics.median(new)
    return not (min(old) <= middle_new <= max(old) or min(new) <= middle_old <= max(new))


def markdown(found: list[Change]) -> str:
    if not found:
        return "The two measurements have nothing in common."
    told = [change for change in found if change.slower or change.faster]
    lines = [f"{len(found)} figures are in both; {sum(c.slower for c in found)} are slower, "
             f"{sum(c.faster for c in found)} faster."]  # fmt: skip
    if told:
        lines += ["", "| | image | mode | network | was s | is s | ratio |",
                  "|---|---|---|---|---:|---:|---:|"]  # fmt: skip
    for change in told:
        word = "slower" if change.slower else "faster"
        lines.append(
            f"| {word}: {change.kind} | {change.image} | {change.mode} | {change.network} "
            f"| {change.old:.2f} | {change.new:.2f} | {change.ratio:.2f} |"
        )
    return "\n".join(lines)
