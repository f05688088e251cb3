"""A test that fails fails alone, whatever it left running, mounted or open."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.root

_TESTS = """
import gc, os, socket, subprocess
from pathlib import Path
import pytest
from fs import mounts

STUBBORN = "trap '' TERM; echo ready; read answer"


@pytest.fixture
def own():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process
        process.stdin.close()
        assert process.wait() == 0


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    place = tmp_path_factory.mktemp("shared")
    mounts.mount("none", place, "tmpfs")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process, place
        mounts.umount(place)
        process.stdin.close()
        assert process.wait() == 0


def test_that_fails(own, shared, tmp_path):
    held = socket.create_server(("127.0.0.1", 0))
    sleeper = subprocess.Popen(["sleep", "1000"])
    stubborn = subprocess.Popen(
        ["sh", "-c", STUBBORN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    stubborn.stdout.readline()
    os.environ["LEFT"] = f"{sleeper.pid} {stubborn.pid} {tmp_path}"
    mounts.mount("none", tmp_path, "tmpfs")
    assert own.pid == 0


def test_that_fails_in_teardown(tmp_path, request):
    mounts.mount("none", tmp_path, "tmpfs")
    request.addfinalizer(lambda: subprocess.Popen(["sleep", "1000"]).pid / 0)


def test_after_it(shared):
    process, place = shared
    gc.collect()
    assert process.poll() is None and os.path.ismount(place)
    *pids, mounted = os.environ.pop("LEFT").split()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not os.path.ismount(mounted)


def test_last(tmp_path):
    mounts.mount("none", tmp_path, "tmpfs")
    subprocess.Popen(["sleep", "1000"])
    raise ValueError
"""


def test_failing_test_fails_alone(tmp_path: Path) -> None:
    file = tmp_path / "test_two.py"
    file.write_text(_TESTS)
    pytest_of_ours = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-q"]
    done = subprocess.run(
        [*pytest_of_ours, f"--rootdir={REPOSITORY}", f"--basetemp={tmp_path}/base", file],
        cwd=REPOSITORY,
        env={**os.environ, "NYDUS_TESTS_COMPLETE": "0"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1].startswith("2 failed, 2 passed, 1 error"), done.stdout
    assert "assert own.pid == 0" in done.stdout
