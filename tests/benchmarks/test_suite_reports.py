"""Tables, comparisons and charts of a measurement."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.suite.compare import changes, markdown
from benchmarks.suite.crossover import share_where_eager_wins
from benchmarks.suite.medians import spread
from benchmarks.suite.records import Records, load
from benchmarks.suite.results import write_results
from benchmarks.suite.tables import markdown as tables
from benchmarks.suite.tables import source
from tests.benchmarks.measurement import HEAD, measurement, scattered


def test_percentile_lies_between_samples() -> None:
    found = spread([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.median, found.runs) == (3.0, 5)
    assert found.p95 == pytest.approx(4.8)
    assert spread([2.0]) == (2.0, 2.0, 1)


def test_table_has_medians_and_their_ratio() -> None:
    text = tables(measurement([10.0, 8.0, 9.0], [2.0, 1.0, 3.6]))
    row = next(line for line in text.splitlines() if line.startswith("| python | nydus | 2.00"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:5] == ["2.00", "3.44", "0.22"]
    assert "| python | nydus | 2.0 | 60.0 | 1.20 |" in text
    assert "| python | plain | (busy) | 50.0 | 1.00 |" in text
    assert "commit abc" in text


def test_ratios_to_others_come_first() -> None:
    records = measurement([10.0], [2.0])
    for mode, ready, size in (("nydus-optimized", 1.0, 3e6), ("estargz-optimized", 4.0, 2e6)):
        records.add(
            "run", kind="start", image="python", mode=mode, network="100mbit", repeat=0,
            seconds={"ready": ready},
            at_ready={"fetched_bytes": 1, "wire_bytes": size, "requests": 5},
        )  # fmt: skip
    for mode, taken in (("nydus", 9.0), ("oci-containerd", 12.0)):
        records.add(
            "run", kind="read", image="python", mode=mode, network="100mbit", repeat=0,
            seconds={"read": taken},
        )  # fmt: skip
    text = tables(records)
    assert text.startswith("### Against others")
    assert "| python | 100mbit | 0.25 | 0.50 | 1.50 | 0.10 | 5 | 0.75 |" in text


def test_lazy_mode_that_fetched_everything_is_named() -> None:
    records = measurement([10.0], [2.0])
    assert "not lazy" not in tables(records)
    for line in records.of("run", mode="nydus"):
        line["lazy"] = False
    assert "| python | nydus (not lazy) | 2.00" in tables(records)


def test_slower_is_what_is_beyond_the_spread() -> None:
    old = measurement([10.0, 10.2, 10.4], [1.0, 1.1, 1.2])
    new = measurement([10.1, 10.3, 12.0], [2.0, 2.1, 2.2])
    found = changes(old, new)
    assert [(change.mode, change.slower) for change in found] == [
        ("nydus", True), ("oci-containerd", False),
    ]  # fmt: skip
    assert found[0].ratio == pytest.approx(2.1 / 1.1)
    assert "| slower: start | python | nydus | 100mbit | 1.10 | 2.10 | 1.91 |" in markdown(found)
    assert not any(change.slower for change in changes(new, old))
    assert any(change.faster for change in changes(new, old))


def test_nothing_in_common_is_said() -> None:
    assert changes(measurement([1.0], [1.0]), measurement([1.0], [1.0], "loopback")) == []
    assert "nothing in common" in markdown([])


def test_crossover_is_interpolated() -> None:
    records = measurement([1.0], [1.0])
    scattered(records, "oci-containerd", {"0.25": 10.0, "0.50": 11.0, "0.75": 12.0})
    scattered(records, "nydus", {"0.25": 4.0, "0.50": 8.0, "0.75": 15.0})
    share = share_where_eager_wins(records, "python", "nydus", "100mbit")
    assert share == pytest.approx(0.5 + 0.25 * 3 / 6)
    assert share_where_eager_wins(records, "python", "oci-containerd", "100mbit") is None
    assert share_where_eager_wins(records, "redis", "nydus", "100mbit") is None


def test_lazy_that_always_wins_has_no_crossover() -> None:
    records = measurement([1.0], [1.0])
    scattered(records, "oci-containerd", {"0.50": 10.0, "1.00": 11.0})
    scattered(records, "nydus", {"0.50": 4.0, "1.00": 10.0})
    assert share_where_eager_wins(records, "python", "nydus", "100mbit") == 1.0


def test_all_of_what_was_measured_by_is_said() -> None:
    records = measurement([10.0], [2.0])
    assert "2026-01-02, commit abc" in source(records)
    assert "not all of what was asked for is done" in source(records)
    records.add("resumed", **{**HEAD, "commit": "def", "date": "2026-01-03T00:00:00Z"})
    records.add("end")
    assert "2026-01-02 to 2026-01-03, commit abc, def" in source(records)
    assert "not all" not in source(records)


def test_nothing_is_recorded_without_a_start(tmp_path: Path) -> None:
    records = Records([])
    records.add("head", **HEAD)
    with pytest.raises(ValueError, match="no image"):
        write_results(records, tmp_path)
    assert not list(tmp_path.iterdir())


def test_incomplete_measurement_is_recorded_with_its_lines(tmp_path: Path) -> None:
    begin = "<!-- written by ./dev bench --record -->"
    end = "<!-- end of what ./dev bench wrote -->"
    (tmp_path / "README.md").write_text(f"{begin}\n{end}\n")
    (tmp_path / "benchmarks").mkdir()
    records = measurement([10.0], [2.0])
    write_results(records, tmp_path)
    results = tmp_path / "benchmarks/results"
    assert load(results / "startup.jsonl").lines == records.lines
    assert "not all of what was asked for is done" in (results / "README.md").read_text()


def test_bar_that_dwarfs_the_others_is_cut(tmp_path: Path) -> None:
    from benchmarks.suite.drawing import bars

    values = [*map(float, range(1, 60)), 1000.0]
    labels = [str(value) for value in values]
    cut = bars(labels, ["nydus"], [values], "s", ("a", "b", "c"))
    assert cut.axes[0].get_xlim()[1] < 100
    whole = bars(labels[:-1], ["nydus"], [values[:-1]], "s", ("a", "b", "c"))
    assert whole.axes[0].get_xlim()[1] > 59
    assert len(cut.axes[0].patches) == 60


def test_chart_without_figures_is_left_out_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.suite.charts import draw_all

    (tmp_path / "crossover.svg").write_text("of an older measurement")
    records = measurement([10.0], [2.0])
    records.lines += measurement([5.0], [1.0], "1gbit").lines[1:]
    drawn = draw_all(records, tmp_path)
    assert [path.name for path in drawn] == ["startup.svg", "bytes.svg", "bandwidth.svg"]
    assert not (tmp_path / "crossover.svg").exists()
    assert "without the chart crossover.svg: no trees that were read" in capsys.readouterr().err


def test_charts_are_drawn(tmp_path: Path) -> None:
    from benchmarks.suite.charts import draw_all
    from benchmarks.suite.results import with_headline

    records = measurement([10.0], [2.0])
    scattered(records, "nydus", {"0.50": 4.0, "1.00": 10.0})
    drawn = draw_all(records, tmp_path)
    assert [path.name for path in drawn] == ["startup.svg", "bytes.svg", "crossover.svg"]
    for path in drawn:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    first = drawn[0].read_bytes()
    assert draw_all(records, tmp_path)[0].read_bytes() == first
    with pytest.raises(ValueError, match="no block"):
        with_headline("# lazyrun\n", records)
    begin, end = (
        "<!-- written by ./dev bench --record -->",
        "<!-- end of what ./dev bench wrote -->",
    )
    text = f"a\n{begin}\nold\n{end}\nz"
    renewed = with_headline(text, records)
    assert "old" not in renewed
    assert renewed.endswith(f"{end}\nz")
    assert with_headline(renewed, records) == renewed
