"""benchmarks/results/: the latest measurement, its tables and charts; and the README's chart."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.suite.charts import draw_all
from benchmarks.suite.records import Records
from benchmarks.suite.tables import markdown, source

_BEGIN = "<!-- written by ./dev bench --record -->"
_END = "<!-- end of what ./dev bench wrote -->"
RECORD = "startup.jsonl"
_HEADLINE = "startup.svg"


def write_results(records: Records, repository: Path) -> None:
    """Replace what is there. ValueError for a measurement without a single start.

    Of one that is not complete the lines are kept, too, so that it can be gone on with.
    """
    if not any(records.of("run", kind="start")):
        raise ValueError("nothing is recorded of a measurement that has started no image")
    results = repository / "benchmarks/results"
    results.mkdir(exist_ok=True)
    lines = "".join(json.dumps(line) + "\n" for line in records.lines)
    (results / RECORD).write_text(lines)
    (results / "README.md").write_text(f"# The latest measurement\n\n{markdown(records)}\n")
    draw_all(records, results)
    readme = repository / "README.md"
    readme.write_text(with_headline(readme.read_text(), records))


def with_headline(text: str, records: Records) -> str:
    """The README with the headline chart of `records` in its marked block."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError("README.md has no block for the chart")
    chart = f"![Seconds from nothing to ready](benchmarks/results/{_HEADLINE})"
    where = f"[All figures](benchmarks/results/README.md) ({source(records)})."
    return f"{before}{_BEGIN}\n{chart}\n\n{where}\n{_END}{after}"
