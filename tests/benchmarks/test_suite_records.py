"""A measurement is written line by line, and gone on with where it was cut off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.suite.records import Key, load, resume_or_begin, take_up

HEAD = {
    "asked": {"images": ["a"], "runs": 2}, "seed": 5, "commit": "abc", "code": "1", "cores": 2,
}  # fmt: skip
RUN = Key("start", "a", "nydus", "loopback", 0)


def test_interrupted_measurement_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    records, resumed = resume_or_begin(path, HEAD)
    records.add("run", **RUN._asdict(), seconds={"ready": 1.0})
    assert not resumed
    with path.open("a") as file:
        file.write('{"record": "run", "ki')  # killed while it wrote
    again, resumed = resume_or_begin(path, {**HEAD, "seed": 6})
    assert resumed
    assert again.head["seed"] == 5
    assert again.done() == {RUN}
    again.add("end")
    assert [json.loads(line)["record"] for line in path.read_text().splitlines()] == [
        "head", "run", "resumed", "end",
    ]  # fmt: skip


def test_documents_may_change_meanwhile_but_not_code(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    resume_or_begin(path, HEAD)
    other = {**HEAD, "commit": "def"}
    again, resumed = resume_or_begin(path, other)
    assert resumed
    assert [head["commit"] for head in again.heads] == ["abc", "def"]
    kept = path.read_text()
    newer = {**other, "code": "2", "cores": 4}
    with pytest.raises(ValueError, match=r"another code, cores \(commit def\): --mix"):
        resume_or_begin(path, newer)
    assert path.read_text() == kept
    again, resumed = resume_or_begin(path, newer, mix=True)
    assert resumed
    assert again.last_head["code"] == "2"


def test_kept_part_is_taken_up_where_nothing_differs(tmp_path: Path) -> None:
    kept, path = tmp_path / "kept.jsonl", tmp_path / "cache/bench.jsonl"
    take_up(kept, path, HEAD)
    resume_or_begin(kept, HEAD)
    take_up(kept, path, {**HEAD, "code": "2"})
    assert not path.exists()
    take_up(kept, path, {**HEAD, "commit": "def"})
    assert path.read_bytes() == kept.read_bytes()
    path.write_text("mine")
    take_up(kept, path, HEAD)
    assert path.read_text() == "mine"


def test_runs_of_older_code_stop_counting_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    records, _ = resume_or_begin(path, HEAD)
    peer = RUN._replace(mode="estargz")
    for key in (RUN, peer):
        records.add("run", **key._asdict())
    records.outdate(["nydus"])
    assert records.done() == {RUN, peer}
    newer = {**HEAD, "code": "2"}
    for _ in range(2):  # the same command again drops nothing that the new code made
        records, _ = resume_or_begin(path, newer, mix=True)
        records.outdate(["nydus"])
        records.add("run", **RUN._asdict(), by="newer")
    assert records.done() == {RUN, peer}
    assert [line["by"] for line in load(path).of("run", mode="nydus")] == ["newer", "newer"]


def test_a_failure_is_tried_again(tmp_path: Path) -> None:
    records, _ = resume_or_begin(tmp_path / "bench.jsonl", HEAD)
    records.add("failure", **RUN._asdict(), error="no")
    assert load(tmp_path / "bench.jsonl").done() == set()


@pytest.mark.parametrize("complete", [True, False])
def test_another_question_begins_anew(tmp_path: Path, complete: bool) -> None:
    path = tmp_path / "bench.jsonl"
    records, _ = resume_or_begin(path, HEAD)
    if complete:
        records.add("end")
    head = HEAD if complete else {**HEAD, "asked": {"images": ["b"], "runs": 2}}
    kept = path.read_text()
    _, resumed = resume_or_begin(path, head)
    assert not resumed
    assert load(path).lines == [{"record": "head", **head}]
    assert (tmp_path / "bench.jsonl.before").read_text() == kept


@pytest.mark.parametrize("text", ["", "x\n", '{"record": "run"}\n', '{"record": "head"}\n\n{}\n'])
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"old\.json"):
        load(path)
