"""Figures reach the documents by the program, and only between their marks."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.chart import Bar, draw_bars
from benchmarks.record import Record, Row, table, write_record

RECORD = Record(
    "flask",
    "1 core & a half",
    100,
    [
        Row("registry", "lazyrun", 80_000_000, 12_345_678, 21, 0.914, "hello\n"),
        Row("registry", "containerd", 78_000_000, 78_700_000, 6, 3.5, "hello\n"),
        Row("layout", "umoci + runc", 78_000_000, 78_700_000, None, 3.1, "hello\n"),
    ],
)


def test_table_has_all_rows() -> None:
    lines = table(RECORD).splitlines()
    assert lines[1].split() == ["registry", "lazyrun", "80.0", "12.3", "21", "0.91"]
    assert lines[3].split() == ["layout", "umoci", "+", "runc", "78.0", "78.7", "3.10"]
    assert "1 core & a half" in lines[-1]
    assert "100 Mbit/s" in lines[-1]


def test_chart_is_drawn_to_scale() -> None:
    chart = ElementTree.fromstring(draw_bars("a < b", {"s": [Bar("x", 1), Bar("y", 4)]}, "&"))
    widths = [float(bar.get("width", "0")) for bar in chart.iter() if bar.tag.endswith("rect")][1:]
    assert widths[1] == pytest.approx(4 * widths[0], rel=0.01)


def test_record_renews_its_block_only(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- written by ./dev demo --record -->\nold\n<!-- end -->\nafter\n")
    for _ in range(2):
        write_record(RECORD, tmp_path)
    text = readme.read_text()
    assert text.startswith("before\n<!--")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    assert text.count("containerd") == 1
    assert json.loads((tmp_path / "docs/startup.json").read_text())["rows"][0]["requests"] == 21
    assert "<svg" in (tmp_path / "docs/startup.svg").read_text()


def test_readme_without_a_block_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("nothing\n")
    with pytest.raises(RuntimeError, match="no block"):
        write_record(RECORD, tmp_path)
