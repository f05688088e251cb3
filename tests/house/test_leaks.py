"""A session that leaves something behind is told so."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from subprocess import PIPE

import pytest

from fs import mounts
from tests.parts import leaks
from tests.parts.waiting import PATIENCE


def await_cat(process: subprocess.Popen[bytes]) -> None:
    """Until exec is over: while it goes on, procfs shows neither environment nor command."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"there\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"there\n"


def test_process_with_the_mark_is_found_and_ended(tmp_path: Path) -> None:
    mark = f"of {tmp_path}"  # another session may be running this test
    environment = {**os.environ, leaks.MARK: mark}
    with subprocess.Popen(["cat"], env=environment, stdin=PIPE, stdout=PIPE) as process:
        await_cat(process)
        left = leaks.end_processes_of(mark, tmp_path, grace=0.2)
        assert left == [f"process {process.pid}: cat"]
        assert process.wait(PATIENCE) == -9


@pytest.mark.overlay
@pytest.mark.parametrize("inside", [True, False])
def test_container_without_the_mark_is_found(tmp_path: Path, inside: bool) -> None:
    """Only that: a namespace that just has copies of the session's mounts is somebody else's."""
    for name in ("place", "upper", "work"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir=/usr,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    enter = f"chroot {tmp_path}/place" if inside else ""
    script = f"mount -t overlay -o {layers} none {tmp_path}/place && exec {enter} /bin/cat"
    command = ["unshare", "--mount", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    command += ["sh", "-c", script]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE) as process:
        await_cat(process)
        left = leaks.end_processes_of("of-nobody", tmp_path, grace=0.1)
        assert left == ([f"process {process.pid}: /bin/cat"] if inside else [])
        process.kill()


@pytest.mark.root
def test_mount_is_found_and_detached(tmp_path: Path) -> None:
    place = tmp_path / "a mount point"
    place.mkdir()
    mounts.mount("none", place, "tmpfs")
    assert leaks.mounts_below(tmp_path) == [str(place)]
    leaks.detach(leaks.mounts_below(tmp_path))
    assert leaks.mounts_below(tmp_path) == []


@pytest.mark.root
def test_only_dead_sessions_are_swept(tmp_path: Path) -> None:
    for name, owner in (("pytest-1", os.getpid()), ("pytest-2", 1 << 22)):
        (tmp_path / name / "mnt").mkdir(parents=True)
        (tmp_path / name / ".lock").write_text(str(owner))
        mounts.mount("none", tmp_path / name / "mnt", "tmpfs")
    leaks.sweep_dead_sessions(tmp_path)
    assert leaks.mounts_below(tmp_path) == [str(tmp_path / "pytest-1/mnt")]
    leaks.detach(leaks.mounts_below(tmp_path))
