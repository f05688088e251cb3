"""What there is to be measured; and one small measurement from end to end."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.images.catalogue.languages import FLASK, PYTHON
from benchmarks.images.catalogue.systems import BUSYBOX
from benchmarks.suite.cli import parser
from benchmarks.suite.formats import superseded
from benchmarks.suite.run import awaited
from benchmarks.suite.subject import Subject
from benchmarks.suite.suite import all_modes, remove_left
from nydusify.startup.readiness import Line
from tests.conftest import REPOSITORY, programs_missing


def test_whole_command_line_is_made_of_the_image_and_the_run() -> None:
    assert Subject(FLASK, Path("/nowhere")).command() == ["python3", "/opt/app/main.py"]
    assert Subject(PYTHON, Path("/nowhere")).command() == ["python", "-"]


def test_program_that_ends_is_ready_when_it_has_spoken() -> None:
    assert awaited(BUSYBOX.run) == Line("^hello$")
    assert awaited(FLASK.run) == FLASK.run.ready


def test_mode_without_tools_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    modes = all_modes(Path("/nowhere"))
    assert "containerd-stargz-grpc" in modes["estargz"].missing()
    assert modes["oci-podman"].missing() == "no podman, conmon, runc on the PATH"
    assert modes["nydus"].missing() == ""


def test_only_what_a_killed_measurement_left_is_removed(tmp_path: Path) -> None:
    for name in ("startup-dead", "startup-alive", "formats"):
        (tmp_path / name / "below").mkdir(parents=True)
    alive = os.open(tmp_path / "startup-alive", os.O_RDONLY)
    try:
        fcntl.flock(alive, fcntl.LOCK_EX)
        remove_left(tmp_path)
    finally:
        os.close(alive)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["formats", "startup-alive"]


def test_a_new_conversion_replaces_only_those_to_its_own_format(tmp_path: Path) -> None:
    older = {
        "flask-2026-11-23-157a18e97429-nydus-3ff15f5f7f87",
        "flask-2026-11-24-157a18e97429-nydus-0",
    }
    others = {
        "flask-2026-11-24-157a18e97429-nydus-optimized-3ff15f5f7f87",
        "flask-2026-11-24-157a18e97429-estargz-optimized-ready-d26b9f5f3b07",
        "flask-small-2026-11-24-157a18e97429-nydus-3ff15f5f7f87",
    }
    for name in older | others:
        (tmp_path / name).mkdir()
    assert {place.name for place in superseded(tmp_path, "flask", "nydus")} == older


@pytest.mark.parametrize("option", ["--images", "--modes", "--networks"])
def test_unknown_names_are_refused(option: str) -> None:
    command = [sys.executable, "-m", "benchmarks", option, "nothing"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("bench: no ")
    assert "'nothing'" in done.stderr


def test_help_names_what_there_is() -> None:
    assert "loopback,1gbit,100mbit,20mbit" in parser().format_help()


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.overlay
@pytest.mark.registry
@pytest.mark.skipif(bool(programs_missing("mmdebstrap")), reason="mmdebstrap not installed")
def test_small_measurement_is_recorded_and_not_done_twice(tmp_path: Path) -> None:
    record = tmp_path / "bench.jsonl"
    command = [sys.executable, "-m", "benchmarks", "--images", "busybox", "--modes", "nydus",
               "--networks", "loopback", "--runs", "2", "--reads", "0",
               "--json", str(record)]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["record"] for line in lines] == ["head", "format", "format", "run", "run", "end"]
    run = lines[3]
    seconds = run["seconds"]  # recorded with four digits, which may be the same
    assert 0 < seconds["image"] <= seconds["executed"] <= seconds["ready"]
    assert run["at_ready"]["requests"] > 0
    whole = next(line["bytes"] for line in lines if line.get("format") == "plain")
    assert run["lazy"] is (run["at_ready"]["wire_bytes"] < whole)
    assert 0 < run["at_ready"]["fetched_bytes"] <= run["at_ready"]["wire_bytes"]
    assert run["at_ready"]["cpu_seconds"] > 0
    assert "| busybox | nydus |" in done.stdout
    record.write_text("".join(json.dumps(line) + "\n" for line in lines[:4]))
    done = subprocess.run(
        [*command, "--minutes", "0.0001"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "1 runs are still to be done; the same command goes on with them" in done.stderr
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again = [json.loads(line) for line in record.read_text().splitlines()]
    assert again[:4] == lines[:4]
    assert [line["record"] for line in again[4:]] == ["resumed", "resumed", "run", "end"]
