"""What was measured, as a Markdown table and as JSON lines, against what must hold."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.suite.machine import description
from benchmarks.suite.records import Records

#: (what, driver) → least ratio to what it is set against.
LEAST = {
    ("stat walk, all dropped", "erofs"): 0.3,
    ("stat walk, warm", "erofs"): 0.9,
    ("small files, all dropped", "erofs"): 0.1,
    ("small files, warm", "erofs"): 0.9,
    ("sequential, all dropped", "erofs"): 0.9,
    ("sequential, mount fresh", "erofs"): 0.25,
    ("stat walk, warm, to the kernel alone", "fuse"): 0.9,
    ("stat by name, warm, to the kernel alone", "fuse"): 0.9,
    ("small files, warm, to the kernel alone", "fuse"): 0.9,
    ("sequential, all dropped", "fuse"): 0.1,
}
#: (what, driver) → most of an absolute figure.
MOST = {
    ("daemon CPU, 4 KiB cold read", "fuse"): 80.0,
    ("requests, warm loops", "fuse"): 0.0,
    ("daemon RSS", "fuse"): 80.0,
    ("daemon RSS", "erofs"): 80.0,
}


@dataclass
class Row:
    """Samples of one figure; with `native` ones, the figure that counts is their ratio.

    `native` are of ext4, unless `what` names another.
    """

    what: str
    driver: str
    unit: str
    samples: list[float]
    native: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def ratio(self) -> float | None:
        return self.value / statistics.median(self.native) if self.native else None

    @property
    def target(self) -> str:
        key = (self.what, self.driver)
        if key in LEAST:
            return f">= {LEAST[key]}"
        return f"<= {MOST[key]:g}" if key in MOST else ""

    @property
    def met(self) -> bool | None:
        key = (self.what, self.driver)
        if key in LEAST and self.ratio is not None:
            return self.ratio >= LEAST[key]
        return self.value <= MOST[key] if key in MOST else None


def markdown(rows: list[Row], heading: str) -> str:
    lines = [
        "| what | driver | median | ratio | must be | holds |",
        "|---|---|---:|---:|---:|---|",
    ]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        holds = {None: "", True: "yes", False: "NO"}[row.met]
        lines.append(
            f"| {row.what} | {row.driver} | {row.value:,.4g} {row.unit} | {ratio} "
            f"| {row.target} | {holds} |"
        )
    return "\n".join([*lines, "", heading])


def write_lines(rows: list[Row], path: Path, head: dict[str, object]) -> None:
    """A record as the startup suite's: a "head" with machine and commit, then a "figure" a row."""
    path.unlink(missing_ok=True)
    records = Records([], path)
    records.add("head", **head, **description(None))
    for row in rows:
        records.add(
            "figure", what=row.what, driver=row.driver, unit=row.unit, median=row.value,
            ratio=row.ratio, target=row.target, met=row.met,
            samples=row.samples, native=row.native,
        )  # fmt: skip
    records.add("end")
