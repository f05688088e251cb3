"""A tiny run of the micro benchmark yields every row, and leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.micro.report import LEAST, MOST, Row, markdown


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.erofs
def test_a_tiny_run_has_all_rows(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "micro", "--files", "200", "--large", "4",
         "--names", "2000", "--instances", "2", "--repeats", "1",
         "--work", str(tmp_path), "--json", str(lines)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    head, *rows, end = [json.loads(line) for line in lines.read_text().splitlines()]
    assert (head["record"], end) == ("head", {"record": "end"})
    assert head["asked"]["files"] == 200
    assert head["kernel"] in os.uname().release
    assert head["commit"]
    found = {(row["what"], row["driver"]) for row in rows}
    assert found >= LEAST.keys() | MOST.keys()
    assert all(row["median"] > 0 for row in rows if row["unit"] not in ("us", "of the kernel"))
    against = {row["what"] for row in rows if row["driver"] in ("nydusify", "lazyrun")}
    assert against == {"conversion, to zstd -3", "start of a container, to runc"}
    assert all(row["ratio"] > 0 for row in rows if row["what"] in against)
    for row in rows:
        assert f"| {row['what']} | {row['driver']} |" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["lines"]


def test_a_missed_target_is_shown() -> None:
    row = Row("stat walk, warm", "erofs", "entries/s", [80.0, 90.0, 70.0], [100.0, 100.0, 101.0])
    assert row.ratio == pytest.approx(0.8)
    assert row.met is False
    assert "| 0.80 | >= 0.9 | NO |" in markdown([row], "")
