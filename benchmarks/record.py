"""The record of a demo run: as a table, as JSON, as a chart, and in the README.

Figures in the docs come from here only; nobody types them.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.chart import Bar, draw_bars

_BEGIN = "<!-- written by ./dev demo --record -->"
_END = "<!-- end -->"


@dataclass(frozen=True)
class Row:
    """One way to start one image. Bytes as they crossed the wire; seconds to the first output."""

    place: str
    tool: str
    image_bytes: int
    fetched_bytes: int
    requests: int | None
    seconds: float
    output: str


@dataclass(frozen=True)
class Record:
    image: str
    machine: str
    mbit: int | None
    rows: list[Row]


def machine() -> str:
    """Processors, memory, kernel, Python, date and commit of this run."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}, commit {commit}"
    )


def table(record: Record) -> str:
    """Fixed columns, as text."""
    lines = [
        f"{'image in':<10}{'started by':<14}{'image MB':>10}{'fetched MB':>12}"
        f"{'requests':>10}{'first output s':>16}"
    ]
    for row in record.rows:
        requests = "" if row.requests is None else str(row.requests)
        lines.append(
            f"{row.place:<10}{row.tool:<14}{row.image_bytes / 1e6:>10.1f}"
            f"{row.fetched_bytes / 1e6:>12.1f}{requests:>10}{row.seconds:>16.2f}"
        )
    link = f"; network {record.mbit} Mbit/s" if record.mbit else "; network: loopback"
    return "\n".join([*lines, "", f"({record.machine}{link}; page cache dropped before each run)"])


def write_record(record: Record, repository: Path) -> None:
    """Renew docs/startup.json, docs/startup.svg and the marked block of the README."""
    docs = repository / "docs"
    (docs / "startup.json").write_text(json.dumps(asdict(record), indent=2) + "\n")
    (docs / "startup.svg").write_text(_chart(record))
    readme = repository / "README.md"
    text = readme.read_text()
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise RuntimeError(f"{readme} has no block for the figures")
    readme.write_text(f"{before}{_BEGIN}\n```text\n{table(record)}\n```\n{_END}{after}")


def _chart(record: Record) -> str:
    names = [f"{row.tool}, {row.place}" for row in record.rows]
    seconds = [Bar(n, row.seconds) for n, row in zip(names, record.rows, strict=True)]
    megabytes = [Bar(n, row.fetched_bytes / 1e6) for n, row in zip(names, record.rows, strict=True)]
    title = f"From nothing to the first output: {record.image}, {_size(record)} MB"
    return draw_bars(title, {"seconds": seconds, "MB fetched": megabytes}, record.machine)


def _size(record: Record) -> str:
    return f"{max(row.image_bytes for row in record.rows) / 1e6:.0f}"
