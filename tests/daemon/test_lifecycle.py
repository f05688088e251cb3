"""How mounts begin, go on through crashes, and end without a trace."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fs.daemon import launch
from fs.format.errors import FormatError, MountError, NotFoundError, UsageError
from tests.backend.servers import blob_server
from tests.daemon.mounting import BIN, Place, is_alive, nydus_fs
from tests.image.build import BuiltImage
from tests.parts.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def _assert_nothing_left(here: Place, *pids: int) -> None:
    assert not launch.is_mounted(str(here.mountpoint))
    eventually(lambda: not any(is_alive(pid) for pid in pids), "all processes gone")
    eventually(lambda: not any(here.state.iterdir()), "all files gone")


def test_umount_leaves_nothing(image: BuiltImage, here: Place) -> None:
    mounted = here.mount(image)
    worker = here.status()["worker_pid"]
    here.unmount()
    _assert_nothing_left(here, mounted.pid, worker)
    with pytest.raises(NotFoundError, match="not mounted"):
        here.unmount()


def test_state_behind_a_symlink_is_left_as_clean(image: BuiltImage, here: Place) -> None:
    here.state.mkdir(0o700)
    link = here.root / "link"
    link.symlink_to("state")
    here.mount(image, state_root=str(link))
    launch.unmount(str(here.mountpoint), state_root=str(link))
    eventually(lambda: not any(here.state.iterdir()), "all files gone")
    assert not launch.is_mounted(str(here.state / "mnt"))


def test_daemon_keeps_nothing_of_its_caller_open(image: BuiltImage, here: Place) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    os.set_blocking(reader, False)
    mounted = here.mount(image)
    os.close(writer)
    assert os.readlink(f"/proc/{mounted.pid}/cwd") == "/"
    assert os.read(reader, 1) == b"", "while the daemon lives the end of the pipe is seen"
    os.close(reader)
    here.unmount()


def test_status_counts(tree: Path, image: BuiltImage, here: Place) -> None:
    mounted = here.mount(image)
    before = here.status()
    assert (before["alive"], before["pid"], before["requests"]) == (True, mounted.pid, 0)
    assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
    after = here.status()
    assert after["requests"] == 1
    assert 0 < after["fetched_bytes"] <= 1 << 20
    assert after["chunks"] == len(image.chunks)
    assert 0 < after["cached_chunks"] < len(image.chunks)
    here.unmount()


def test_second_mount_needs_no_request(tree: Path, image: BuiltImage, here: Place) -> None:
    """It may even come before the image of the first is closed, and then shares its counts."""
    for expected in (True, False):
        here.mount(image)
        before = here.status()["requests"]
        for name in ("big", "hello", "dir/file-299"):
            assert (here.mountpoint / name).read_bytes() == (tree / name).read_bytes()
        assert (here.status()["requests"] > before) is expected
        here.unmount()


def test_busy_mount_is_not_unmounted_but_lazily_is(image: BuiltImage, here: Place) -> None:
    mounted = here.mount(image)
    with (here.mountpoint / "big").open("rb") as file:
        with pytest.raises(MountError, match="in use"):
            here.unmount()
        launch.unmount(str(here.mountpoint), lazy=True, state_root=here.options.state_root)
        assert not launch.is_mounted(str(here.mountpoint))
        assert len(file.read()) == (1 << 20) * 3 + 1_500_001
        assert is_alive(mounted.pid)
    eventually(lambda: not is_alive(mounted.pid), "the daemon ends after its last user")
    _assert_nothing_left(here)


def test_mounting_twice_is_refused(image: BuiltImage, here: Place) -> None:
    here.mount(image)
    with pytest.raises(MountError, match="already mounted"):
        here.mount(image)
    assert (here.mountpoint / "hello").exists()
    here.unmount()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_unmounts_and_ends_well(image: BuiltImage, here: Place, number: int) -> None:
    process = _foreground(image, here)
    assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
    process.send_signal(number)
    assert process.wait(PATIENCE) == 0
    _assert_nothing_left(here)


def _foreground(image: BuiltImage, here: Place) -> subprocess.Popen[str]:
    command: list[str | Path] = [
        BIN / "nydus-fs",
        "mount",
        image.bootstrap,
        here.mountpoint,
        "--foreground",
    ]
    command += ["--blob-dir", image.blobs, "--json"]
    command += ["--cache-dir", here.root / "cache", "--state-root", here.root / "state"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        assert json.loads(process.stdout.readline())["mountpoint"] == str(here.mountpoint)
    return process


def test_sigterm_ends_also_what_is_in_use(image: BuiltImage, here: Place) -> None:
    mounted = here.mount(image)
    descriptor = os.open(here.mountpoint / "big", os.O_RDONLY)
    os.kill(mounted.pid, signal.SIGTERM)
    eventually(lambda: not launch.is_mounted(str(here.mountpoint)), "detached")
    assert len(os.pread(descriptor, 4096, 0)) == 4096  # its user has a grace
    os.kill(mounted.pid, signal.SIGTERM)
    eventually(lambda: not is_alive(mounted.pid), "ended")
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.pread(descriptor, 4096, 3 << 20)
    with pytest.raises(OSError, match="not connected"):
        os.close(descriptor)
    _assert_nothing_left(here, mounted.pid)


def test_killed_worker_costs_readers_only_time(
    tree: Path, image: BuiltImage, here: Place, tmp_path: Path
) -> None:
    with blob_server(image.blobs) as server:
        here.mount(image, backend_url=server.url, outage_deadline=30.0)
        server.hold()
        reader = subprocess.Popen(
            ["sha256sum", here.mountpoint / "big"], stdout=subprocess.PIPE, text=True
        )
        assert reader.stdout is not None
        with reader.stdout:
            eventually(lambda: server.held, "a request waits")
            first = here.status()["worker_pid"]
            os.kill(first, signal.SIGKILL)
            eventually(lambda: here.status()["worker_pid"] != first, "another worker")
            assert reader.poll() is None
            server.release()
            expected = hashlib.sha256((tree / "big").read_bytes()).hexdigest()
            assert reader.stdout.read().split()[0] == expected
        assert reader.wait(PATIENCE) == 0
        assert here.status()["generation"] == 1
        here.unmount()
    assert "killed by signal 9" not in here.log()  # it went with the mount


def test_sigterm_to_the_worker_is_a_hand_over(image: BuiltImage, here: Place) -> None:
    here.mount(image)
    first = here.status()["worker_pid"]
    os.kill(first, signal.SIGTERM)
    eventually(lambda: here.status()["worker_pid"] != first, "another worker")
    assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
    here.unmount()


def test_killed_supervisor_leaves_a_mount_that_serves(
    tree: Path, image: BuiltImage, here: Place
) -> None:
    mounted = here.mount(image)
    worker = here.status()["worker_pid"]
    os.kill(mounted.pid, signal.SIGKILL)
    eventually(lambda: not is_alive(mounted.pid), "the supervisor is dead")
    assert (here.mountpoint / "big").read_bytes() == (tree / "big").read_bytes()
    here.unmount()
    _assert_nothing_left(here, worker)


def test_all_killed_gives_errors_and_can_be_mounted_again(image: BuiltImage, here: Place) -> None:
    mounted = here.mount(image)
    worker = here.status()["worker_pid"]
    for pid in (mounted.pid, worker):
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: not is_alive(pid), "killed")  # type: ignore[misc]
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        (here.mountpoint / "hello").read_bytes()
    assert here.status()["alive"] is False
    here.mount(image)
    assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
    here.unmount()
    _assert_nothing_left(here)


def test_umount_cleans_up_after_a_dead_daemon(image: BuiltImage, here: Place) -> None:
    mounted = here.mount(image)
    worker = here.status()["worker_pid"]
    for pid in (mounted.pid, worker):
        os.kill(pid, signal.SIGKILL)
    here.unmount()
    _assert_nothing_left(here, mounted.pid, worker)


def test_workers_that_keep_dying_end_the_connection(image: BuiltImage, here: Place) -> None:
    mounted = here.mount(image)
    for _ in range(6):
        worker = _worker_of(mounted.pid)
        os.kill(worker, signal.SIGKILL)
        eventually(
            lambda dead=worker: (
                not is_alive(mounted.pid)  # type: ignore[misc]
                or _worker_of(mounted.pid) not in (0, dead)
            ),
            "replaced or given up",
        )
    eventually(lambda: not is_alive(mounted.pid), "given up")
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        (here.mountpoint / "hello").read_bytes()
    assert "6th time" in here.log()
    here.unmount()
    _assert_nothing_left(here)


def _worker_of(supervisor: int) -> int:
    try:
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    except OSError:
        return 0
    return int(children[0]) if children else 0


def test_client_that_dies_while_mounting_leaves_no_mount(
    image: BuiltImage, here: Place, tmp_path: Path
) -> None:
    script = (
        "import sys, os, signal, threading, time\n"
        "from fs.daemon import launch\n"
        "threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\n"
        "launch.mount(sys.argv[1], sys.argv[2], launch.MountOptions(blob_dir=sys.argv[3],"
        " state_root=sys.argv[4], cache_dir=sys.argv[5]))\n"
        "time.sleep(9)\n"
    )
    arguments = [image.bootstrap, here.mountpoint, image.blobs]
    arguments += [here.root / "state", here.root / "cache"]
    done = subprocess.run([BIN / "python", "-c", script, *arguments])
    assert done.returncode == -signal.SIGKILL
    state = here.root / "state"
    eventually(lambda: not state.exists() or not list(state.iterdir()), "nothing left")
    assert not launch.is_mounted(str(here.mountpoint))


def test_failures_cross_to_the_client(image: BuiltImage, here: Place, tmp_path: Path) -> None:
    broken = tmp_path / "broken.boot"
    broken.write_bytes(b"x" * 4096)
    with pytest.raises(FormatError, match=r"broken\.boot"):
        launch.mount(
            str(broken), str(here.mountpoint), here.options._replace(blob_dir=str(image.blobs))
        )
    with pytest.raises(UsageError, match="--blob-dir"):
        launch.mount(str(image.bootstrap), str(here.mountpoint), here.options)
    with pytest.raises(NotFoundError, match="no such directory"):
        launch.mount(str(image.bootstrap), str(here.root / "no"), here.options)
    _assert_nothing_left(here)


def test_commands(image: BuiltImage, here: Place) -> None:
    dirs = ["--state-root", here.root / "state"]
    mount = ["mount", image.bootstrap, here.mountpoint, *dirs, "--cache-dir", here.root / "cache"]
    refused = nydus_fs(*mount)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    done = nydus_fs(*mount, "--blob-dir", image.blobs)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{here.mountpoint}\n", "")
    assert str(here.mountpoint) in nydus_fs("status", *dirs).stdout
    [shown] = json.loads(nydus_fs("status", "--json", here.mountpoint, *dirs).stdout)
    assert shown["requests"] == 0
    assert nydus_fs("umount", here.mountpoint, *dirs).returncode == 0
    again = nydus_fs("umount", here.mountpoint, *dirs)
    assert (again.returncode, again.stderr.startswith("nydus-fs: ")) == (5, True)


def test_detached_mount_is_quick(image: BuiltImage, here: Place) -> None:
    begun = time.monotonic()
    here.mount(image)
    assert time.monotonic() - begun < 10
    here.unmount()
