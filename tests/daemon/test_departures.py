"""Mounts that go without `nydus-fs umount`, and a daemon that is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from fs import mounts
from fs.daemon import launch
from fs.daemon.state import read_state
from fs.daemon.unmounts import Unmounts
from tests.daemon.mounting import BIN, Place, is_alive
from tests.image.build import BuiltImage
from tests.parts.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.erofs]

DRIVERS = pytest.mark.parametrize("driver", ["fuse", "erofs"])


def _listed(here: Place) -> list[str]:
    """Mountpoints in the state file: looking there makes no daemon look."""
    state = read_state(str(here.state))
    instances = [] if state is None else state["instances"]
    return [fields["mountpoint"] for fields in instances if not fields["leaving"]]


@contextmanager
def _namespace(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process in a mount namespace of its own, after its command has succeeded."""
    script = f"{' '.join(command) or 'true'} && echo ready && exec sleep 600"
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@DRIVERS
def test_umount_by_others_is_noticed(image: BuiltImage, here: Place, driver: str) -> None:
    mounted = here.mount(image, driver=driver)
    worker = here.status()["worker_pid"]
    assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
    subprocess.run(["umount", here.mountpoint], check=True)
    eventually(lambda: not is_alive(mounted.pid) and not is_alive(worker), "the daemon ends")
    assert list(here.state.iterdir()) == []


def test_another_mount_with_the_device_number_is_not_taken_for_it(
    image: BuiltImage, here: Place, tmp_path: Path
) -> None:
    """The kernel gives a number away as soon as it is free, before the daemon can look."""
    mounted = here.mount(image, driver="erofs")
    worker = here.status()["worker_pid"]
    device = os.stat(here.mountpoint).st_dev
    others: list[Path] = []
    try:
        os.kill(worker, signal.SIGSTOP)
        try:
            mounts.umount(here.mountpoint)
            while not others or os.stat(others[-1]).st_dev != device:
                assert len(others) < 100, "nobody is given the number"
                others.append(tmp_path / f"other{len(others)}")
                others[-1].mkdir()
                mounts.mount("none", others[-1], "tmpfs")
        finally:
            os.kill(worker, signal.SIGCONT)
        eventually(lambda: not is_alive(mounted.pid) and not is_alive(worker), "the daemon ends")
    finally:
        for other in others:
            mounts.umount(other)


@DRIVERS
def test_one_that_stays_is_served_on(
    image: BuiltImage, here: Place, driver: str, tmp_path: Path
) -> None:
    here.mount(image, driver=driver)
    second = tmp_path / "second"
    second.mkdir()
    options = here.options._replace(blob_dir=str(image.blobs), driver=driver)
    launch.mount(str(image.bootstrap), str(second), options)
    subprocess.run(["umount", second], check=True)
    eventually(lambda: _listed(here) == [str(here.mountpoint)], "one is left")
    assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
    here.unmount()


@DRIVERS
def test_namespace_that_dies_takes_its_mounts_along(
    image: BuiltImage, here: Place, driver: str
) -> None:
    """The mount is in a namespace of its own from the beginning, as in a container."""
    mounted = here.mount(image, driver=driver)
    with _namespace() as process:
        os.listdir(here.mountpoint)
        subprocess.run(["umount", here.mountpoint], check=True)
        time.sleep(0.3)
        assert _listed(here) == [str(here.mountpoint)], "it is still mounted in the namespace"
        inside = Path(f"/proc/{process.pid}/root/{here.mountpoint}")
        assert (inside / "hello").read_bytes() == b"hello world\n"
        process.kill()
        process.wait()
        eventually(lambda: not is_alive(mounted.pid), "the daemon ends")


@DRIVERS
def test_copies_in_other_namespaces_are_left_in_peace(
    image: BuiltImage, here: Place, driver: str
) -> None:
    """Whether they use the image is found out without touching what is mounted on it."""
    here.mount(image, driver=driver)
    worker = here.status()["worker_pid"]
    with _namespace(
        f"mount -t tmpfs own {here.mountpoint}/dir && : > {here.mountpoint}/dir/x"
    ) as process:
        root = os.readlink(f"/proc/{process.pid}/root")
        here.unmount()
        time.sleep(0.3)
        inside = Path(f"/proc/{process.pid}/root/{here.mountpoint}")
        assert os.listdir(inside / "dir") == ["x"]
        assert (inside / "hello").read_bytes() == b"hello world\n"
        assert os.readlink(f"/proc/{process.pid}/root") == root
    eventually(lambda: not is_alive(worker), "the daemon ends")


def test_unmounts_are_told_of_on_older_kernels_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mounts, "unmount_listener", refused)
    point = tmp_path / "point"
    point.mkdir()

    async def check() -> None:
        unmounts = Unmounts()
        try:
            mounts.mount("none", point, "tmpfs")
            with trio.fail_after(PATIENCE):
                await unmounts.wait()
            mounts.umount(point)
            with trio.fail_after(PATIENCE):
                await unmounts.wait()
        finally:
            unmounts.close()

    trio.run(check)


def _switches(pid: int) -> int:
    """How often the threads of a process have gone to sleep so far."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        words = status.read_text().split()
        total += int(words[words.index("voluntary_ctxt_switches:") + 1])
    return total


def _slept_through(pids: tuple[int, ...], seconds: int) -> bool:
    before = [_switches(pid) for pid in pids]
    time.sleep(seconds)
    return [_switches(pid) for pid in pids] == before


@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.scale)])
def test_idle_daemon_never_wakes(image: BuiltImage, here: Place, seconds: int) -> None:
    """In a namespace of its own, where nobody else mounts and unmounts."""
    (here.root / "other").mkdir()
    words = f"{image.bootstrap} --blob-dir {image.blobs} --cache-dir {here.root}/cache"
    words += f" --state-root {here.state}"
    script = (
        f"{BIN}/nydus-fs mount {words} --driver fuse {here.mountpoint} >&2"
        f" && {BIN}/nydus-fs mount {words} --driver erofs {here.root}/other >&2"
        f" && cat {here.mountpoint}/hello {here.root}/other/hello >&2"
    )
    with _namespace(script):
        shown = launch.all_status(str(here.state))
        assert [each["transport"] for each in shown] == ["fuse", "erofs"]
        pids = (shown[0]["pid"], shown[0]["worker_pid"])
        # What wakes once more for what was is no matter: trio's threads wait 10 s for more work,
        # a client's first request is awaited for 5. Who wakes by the clock always does again.
        eventually(lambda: _slept_through(pids, seconds), f"nothing for {seconds} s")
        subprocess.run(
            [BIN / "nydus-fs", "daemon", "--stop", "--state-root", here.state], check=True
        )
