"""Mounts of a user who is not root, for whom fusermount3 opens the device: a real change of uid."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.mounting import BIN, eventually
from tests.image.build import build_image

pytestmark = [pytest.mark.root, pytest.mark.fuse]

_USER = "nobody"
_FILES = {"hello": b"hello world\n", "empty": b"", "large": bytes(range(256)) * 12345}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory of the user with an image and its source; pytest's own are closed to others."""
    helper = shutil.which("fusermount3")
    if helper is None or not os.stat(helper).st_mode & stat.S_ISUID:
        pytest.skip("fusermount3 is not set-user-ID")
    seen = subprocess.run(
        ["setpriv", *_as_user(), str(BIN / "nydus-fs"), "--help"], stdout=subprocess.DEVNULL
    )
    if seen.returncode:
        pytest.skip(f"{_USER} cannot run {BIN / 'nydus-fs'}")
    made = Path(tempfile.mkdtemp(prefix="nydus-user-"))
    try:
        source = made / "source"
        source.mkdir(mode=0o755)
        for name, content in _FILES.items():
            (source / name).write_bytes(content)
        image = build_image(source, tmp_path / "image")
        shutil.copytree(image.blobs, made / "blobs")
        shutil.copy(image.bootstrap, made / "image.boot")
        (made / "mnt").mkdir()
        for path in (made, made / "mnt", made / "blobs"):
            os.chown(path, *_ids())
            path.chmod(0o755)
        yield made
    finally:
        shutil.rmtree(made)


def _ids() -> tuple[int, int]:
    entry = pwd.getpwnam(_USER)
    return entry.pw_uid, entry.pw_gid


def _as_user() -> list[str]:
    uid, gid = _ids()
    return [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]


def _run(home: Path, script: str, *, device: int) -> subprocess.CompletedProcess[str]:
    """`script` by the user in a mount namespace whose /dev/fuse has the mode `device`."""
    node = home / "fuse"
    os.mknod(node, stat.S_IFCHR | device, os.stat("/dev/fuse").st_rdev)
    node.chmod(device)
    clean = ["env", "-i", f"HOME={home}", f"PATH={BIN}:/usr/bin:/bin"]
    user = shlex.join([*clean, "sh", "-c", script])
    outer = (
        f"mount --make-rprivate / && mount --bind {node} /dev/fuse"
        f" && cd {home} && exec setpriv {shlex.join(_as_user())} {user}"
    )
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", outer], capture_output=True, text=True, timeout=60
    )


def test_mount_read_and_unmount(home: Path) -> None:
    worker = "nydus-fs status --json | grep -o '\"worker_pid\": *[0-9]*' | grep -o '[0-9]*$'"
    script = (
        "set -e; nydus-fs mount image.boot mnt --blob-dir blobs;"
        " grep ' fuse.nydus ' /proc/self/mountinfo | grep -o 'user_id=[0-9]*';"
        " diff -r mnt source;"
        f" kill -9 $({worker});"
        " cat mnt/hello; nydus-fs umount mnt; ls -A mnt | wc -l"
    )
    done = _run(home, script, device=0o666)
    assert done.returncode == 0, done.stderr
    expected = ["mnt", f"user_id={_ids()[0]}", "hello world", "0"]
    lines = done.stdout.splitlines()
    assert [Path(lines[0]).name, *lines[1:]] == expected
    _assert_nothing_runs(home)


@pytest.mark.parametrize("how", ["", "--foreground"])
def test_device_that_the_user_may_not_open(home: Path, how: str) -> None:
    done = _run(home, f"nydus-fs mount {how} image.boot mnt --blob-dir blobs", device=0o600)
    assert done.returncode == 9
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line == (
        f"nydus-fs: {home}/mnt: fusermount3: failed to open /dev/fuse: Permission denied"
    )
    _assert_nothing_runs(home)


def _assert_nothing_runs(home: Path) -> None:
    """No process of a daemon, and no files of one."""

    def running() -> list[bytes]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                found.append(path.read_bytes())
        return [line for line in found if bytes(home) in line]

    eventually(lambda: not running(), "the daemon has ended")
    state = home / ".local/state/nydus-fs"
    eventually(lambda: not any(state.iterdir()), "it has left no files")
