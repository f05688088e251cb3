"""Who is not root mounts by fusermount3, each mount with a daemon of its own."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.mounting import BIN
from tests.parts.waiting import eventually
from tests.reads.mounting import convert

pytestmark = [pytest.mark.root, pytest.mark.fuse]

USER = 65534
#: Where only root may open /dev/fuse, the user has another of it, in a namespace of the test's own.
_DEVICE = "mknod fuse c 10 229 && chmod 666 fuse && mount --bind fuse /dev/fuse"
_USER = (
    f"exec setpriv --reuid {USER} --regid {USER} --clear-groups env -i HOME=$PWD/home PATH=$PATH"
)
_SCRIPT = """
set -e
nydus-fs mount oci:layout:t mnt
cmp mnt/data tree/data
nydus-fs status --json
kill -9 $(nydus-fs status --json | sed 's/.*"worker_pid": \\([0-9]*\\).*/\\1/')
cmp mnt/data tree/data
nydus-fs status --json
nydus-fs umount mnt
nydus-fs mount oci:layout:t mnt >&2
fusermount3 -u mnt
for turn in 1 2 3 4 5 6 7 8 9 10
do nydus-fs status --json | grep -qx '\\[\\]' && break; sleep 0.2
done
nydus-fs status --json
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory of the user, with an image; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="nydus-user-") as name:
        place = Path(name)
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree/data").write_bytes(random.Random(3).randbytes(2_500_000))
        convert(tmp_path / "tree", tmp_path)
        for part in ("tree", "layout"):
            shutil.copytree(tmp_path / part, place / part)
        for part in ("home", "mnt"):
            (place / part).mkdir()
        for path in (place, *place.rglob("*")):
            os.chown(path, USER, USER)
        yield place


def _run(place: Path, device: str, script: str) -> subprocess.CompletedProcess[str]:
    """`script` by the user, with `device` as the way to /dev/fuse."""
    reach = ["setpriv", "--reuid", str(USER), "--clear-groups", f"{BIN}/nydus-fs", "--version"]
    if subprocess.run(reach, capture_output=True).returncode:
        pytest.skip(f"other users cannot run {BIN}/nydus-fs")
    (place / "script").write_text(f"PATH={BIN}:$PATH\n{script}")
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{device} && {_USER} sh script"],
        cwd=place,
        capture_output=True,
        text=True,
    )


def test_user_mounts_and_leaves_nothing(place: Path) -> None:
    done = _run(place, _DEVICE, _SCRIPT)
    assert done.returncode == 0, done.stderr
    mountpoint, first, second, last = done.stdout.splitlines()
    assert mountpoint == str(place / "mnt")
    shown = [json.loads(line)[0] for line in (first, second)]
    assert [each["transport"] for each in shown] == ["fuse", "fuse"]
    assert [each["generation"] for each in shown] == [0, 1]
    assert shown[1]["cached_chunks"] == shown[1]["chunks"] == 3
    assert json.loads(last) == []
    assert list((place / "home/.local/state/nydus-fs").iterdir()) == []


@pytest.mark.parametrize("how", ["", "--foreground"])
def test_device_that_the_user_may_not_open(place: Path, how: str) -> None:
    device = _DEVICE.replace("666", "600")
    done = _run(place, device, f"nydus-fs mount {how} oci:layout:t mnt")
    assert (done.returncode, done.stdout) == (9, "")
    why = "fusermount3: failed to open /dev/fuse: Permission denied"
    assert done.stderr == f"nydus-fs: {place}/mnt: {why}\n"
    state = place / "home/.local/state/nydus-fs"
    eventually(lambda: not any(state.iterdir()), "the daemon has ended")
