"""Many images by one daemon: how it starts, serves, survives and ends."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fs import mounts
from fs.daemon import control, launch
from fs.daemon.order import Order
from fs.daemon.state import read_state
from fs.format.errors import Failure, MountError
from tests.daemon.mounting import BIN, Place, is_alive, nydus_fs
from tests.image.build import BuiltImage, build_image
from tests.parts.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture
def images(tmp_path: Path) -> list[BuiltImage]:
    """Three images that tell which one they are."""
    built = []
    for number in range(3):
        source = tmp_path / f"source-{number}"
        source.mkdir()
        (source / "name").write_text(f"image {number}\n")
        (source / "data").write_bytes(random.Random(number).randbytes(300_000))
        built.append(build_image(source, tmp_path / f"image-{number}", chunk_size=64 << 10))
    return built


def _points(here: Place, count: int) -> list[Path]:
    found = [here.root / "many" / str(number) for number in range(count)]
    for point in found:
        point.mkdir(parents=True)
    return found


def _mount(here: Place, image: BuiltImage, point: Path, driver: str = "fuse") -> launch.Mounted:
    options = here.options._replace(blob_dir=str(image.blobs), driver=driver)
    return launch.mount(str(image.bootstrap), str(point), options)


def _unmount(here: Place, point: Path) -> None:
    launch.unmount(str(point), state_root=str(here.state))


def _data(number: int) -> bytes:
    return random.Random(number).randbytes(300_000)


def test_one_daemon_serves_many_and_ends_with_the_last(
    images: list[BuiltImage], here: Place
) -> None:
    points = _points(here, 6)
    mounted = [_mount(here, images[number % 3], point) for number, point in enumerate(points)]
    assert len({each.pid for each in mounted}) == 1
    for number, point in enumerate(points):
        assert (point / "name").read_text() == f"image {number % 3}\n"
        assert (point / "data").read_bytes() == _data(number % 3)
    shown = launch.all_status(str(here.state))
    assert sorted(each["mountpoint"] for each in shown) == sorted(map(str, points))
    assert all(each["alive"] and each["cached_chunks"] == each["chunks"] for each in shown)
    for point in points[:-1]:
        _unmount(here, point)
    assert is_alive(mounted[0].pid)
    assert (points[-1] / "data").read_bytes() == _data(5 % 3)
    _unmount(here, points[-1])
    eventually(lambda: not is_alive(mounted[0].pid), "ended")
    assert list(here.state.iterdir()) == []


def test_equal_mounts_share_what_was_fetched(images: list[BuiltImage], here: Place) -> None:
    first, second = _points(here, 2)
    _mount(here, images[0], first)
    assert (first / "data").read_bytes() == _data(0)
    requests = launch.status(str(first), state_root=str(here.state))["requests"]
    _mount(here, images[0], second)
    assert (second / "data").read_bytes() == _data(0)
    assert launch.status(str(second), state_root=str(here.state))["requests"] == requests
    _unmount(here, first)
    assert (second / "name").read_text() == "image 0\n"
    _unmount(here, second)


@pytest.fixture
def reading(images: list[BuiltImage], here: Place) -> Iterator[list[str]]:
    """A reader that never stops, in a mount of its own; the list gets what went wrong."""
    wrong: list[str] = []
    over = threading.Event()
    here.mount(images[0])
    rounds = 0

    def read() -> None:
        nonlocal rounds
        while not over.is_set():
            try:
                with (here.mountpoint / "data").open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    if file.read() != _data(0):
                        wrong.append("other bytes")
            except OSError as error:
                wrong.append(str(error))
            rounds += 1

    reader = threading.Thread(target=read)
    reader.start()
    yield wrong
    over.set()
    reader.join()
    assert rounds > 10
    here.unmount()


@pytest.mark.parametrize("count", [60, pytest.param(400, marks=pytest.mark.scale)])
def test_many_come_and_go_while_others_are_read(
    images: list[BuiltImage], here: Place, reading: list[str], count: int
) -> None:
    points = _points(here, count)

    def come(number: int) -> None:
        _mount(here, images[number % 3], points[number])
        assert (points[number] / "name").read_text() == f"image {number % 3}\n"

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(come, range(count)))
        assert len(launch.all_status(str(here.state))) == count + 1
        worker = here.status()["worker_pid"]
        assert _resident(worker) < 120 << 20
        list(clients.map(lambda point: _unmount(here, point), points))
    assert reading == []
    eventually(lambda: len(_instances(here)) == 1, "the others are dropped")
    assert here.status()["worker_pid"] == worker


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _instances(here: Place) -> list[object]:
    state = read_state(str(here.state))
    return [] if state is None else list(state["instances"])


def test_two_clients_at_once_start_one_daemon(images: list[BuiltImage], here: Place) -> None:
    options: list[str | Path] = ["--blob-dir", images[0].blobs]
    options += ["--state-root", here.state, "--cache-dir", here.root / "cache"]
    for _ in range(3):
        points = sorted((here.root / "many").glob("*")) or _points(here, 6)
        commands = [
            [BIN / "nydus-fs", "mount", images[0].bootstrap, point, "--json", *options]
            for point in points
        ]
        clients = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for command in commands
        ]
        told = [client.communicate(timeout=PATIENCE) for client in clients]
        assert [stderr for _, stderr in told] == [""] * len(points)
        assert len({json.loads(stdout)["pid"] for stdout, _ in told}) == 1
        for point in points:
            _unmount(here, point)
        assert list(here.state.iterdir()) == []


def test_failed_start_is_told(images: list[BuiltImage], here: Place) -> None:
    here.state.mkdir()
    (here.state / "mnt").write_text("in the way")
    with pytest.raises(Failure, match="mnt"):
        here.mount(images[0])
    (here.state / "mnt").unlink()
    here.mount(images[0])
    here.unmount()


@pytest.mark.parametrize("driver", ["fuse", "auto"])
def test_killed_worker_is_replaced_with_all_instances(
    images: list[BuiltImage], here: Place, driver: str
) -> None:
    points = _points(here, 5)
    mounted = [
        _mount(here, images[number % 3], point, driver) for number, point in enumerate(points)
    ]
    held = [(point / "data").open("rb") for point in points]
    launch.unmount(str(points[0]), lazy=True, state_root=str(here.state))
    first = launch.status(str(points[1]), state_root=str(here.state))["worker_pid"]
    os.kill(first, signal.SIGKILL)
    for number, file in enumerate(held):
        with file:
            assert file.read() == _data(number % 3)
    for number, point in enumerate(points[1:], 1):
        assert (point / "name").read_text() == f"image {number % 3}\n"
        shown = launch.status(str(point), state_root=str(here.state))
        assert (shown["generation"], shown["pid"]) == (1, mounted[0].pid)
        assert shown["worker_pid"] != first
    eventually(lambda: len(_instances(here)) == 4, "the lazy one is dropped when it is closed")
    _mount(here, images[0], points[0])
    for point in points:
        _unmount(here, point)
    eventually(lambda: not is_alive(mounted[0].pid), "ended")


@pytest.mark.parametrize("driver", ["fuse", "auto"])
def test_client_killed_at_any_moment_leaves_no_instance(
    images: list[BuiltImage], here: Place, driver: str
) -> None:
    kept, target = _points(here, 2)
    _mount(here, images[0], kept)
    command: list[str | Path] = [BIN / "nydus-fs", "mount", images[1].bootstrap, target]
    command += ["--blob-dir", images[1].blobs, "--state-root", here.state]
    command += ["--cache-dir", here.root / "cache", "--driver", driver]
    begun = time.monotonic()
    subprocess.run(command, check=True)
    usual = time.monotonic() - begun
    _unmount(here, target)
    for part in range(12):
        client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(usual * (part + 3) / 14)
        client.kill()
        client.wait()
        if launch.is_mounted(str(target)):  # it had got that far
            assert (target / "name").read_text() == "image 1\n"
            eventually(lambda: len(_instances(here)) == 2, "its instance is known")
            _unmount(here, target)
        eventually(lambda: len(_instances(here)) == 1, "dropped")
    assert (kept / "name").read_text() == "image 0\n"
    _unmount(here, kept)


def test_descriptor_that_nobody_takes_is_no_mount(images: list[BuiltImage], here: Place) -> None:
    kept, target = _points(here, 2)
    _mount(here, images[0], kept)
    fields = {
        "source": str(images[1].bootstrap),
        "mountpoint": str(target),
        "options": here.options._replace(blob_dir=str(images[1].blobs))._asdict(),
    }
    with control.Line(str(here.state)) as line:
        _, descriptor = line.ask("mount", **fields)
        assert descriptor is not None
        with pytest.raises(MountError, match="already mounted"):
            control.call(str(here.state), "mount", replace=True, **fields)
        os.close(descriptor)
    eventually(lambda: len(_instances(here)) == 1, "dropped")
    _unmount(here, kept)


def test_started_by_hand_it_stays_until_told(images: list[BuiltImage], here: Place) -> None:
    root = ("--state-root", here.state)
    started = json.loads(nydus_fs("daemon", "--json", *root).stdout)
    mounted = here.mount(images[0])
    assert mounted.pid == started["pid"]
    here.unmount()
    time.sleep(0.3)
    assert is_alive(started["pid"])
    here.mount(images[0])
    assert nydus_fs("daemon", "--stop", *root).returncode == 0
    eventually(lambda: not is_alive(started["pid"]), "ended")
    assert not launch.is_mounted(str(here.mountpoint))
    assert list(here.state.iterdir()) == []
    assert nydus_fs("daemon", "--stop", *root).returncode == 5


def test_cache_size_of_a_daemon_is_for_mounts_that_do_not_say(
    images: list[BuiltImage], here: Place
) -> None:
    """And it is remembered by the next worker, as is that the daemon stays."""
    limit = 2 * (64 << 10)
    here.mount(images[0])
    root = ("--state-root", here.state)
    assert nydus_fs("daemon", "--cache-size", "128K", *root).returncode == 0
    os.kill(here.status()["worker_pid"], signal.SIGKILL)
    assert here.status()["generation"] == 1
    told = control.call(str(here.state), "status")["daemon"]
    assert (told["stay"], told["cache_size"]) == (True, limit)
    here.unmount()
    here.mount(images[1])
    assert (here.mountpoint / "data").read_bytes() == _data(1)
    eventually(lambda: f"limit {limit}; chunks are not kept" in here.log(), "the limit is kept")
    here.unmount()
    here.mount(images[2], cache_size=1 << 30, cache_dir=str(here.root / "other"))
    assert (here.mountpoint / "data").read_bytes() == _data(2)
    assert (here.mountpoint / "name").read_text() == "image 2\n"
    assert here.status()["cached_chunks"] == here.status()["chunks"]
    assert nydus_fs("daemon", "--stop", *root).returncode == 0


def test_foreground_mount_fails_as_the_others_do(images: list[BuiltImage], here: Place) -> None:
    done = nydus_fs(
        "mount", images[0].bootstrap, here.mountpoint, "--foreground", "--state-root", here.state
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert list(here.state.iterdir()) == []


def test_client_in_another_mount_namespace_and_root(
    images: list[BuiltImage], here: Place, tmp_path: Path
) -> None:
    """Its mount is in its own namespace only, and goes with that."""
    kept, target = _points(here, 2)
    _mount(here, images[0], kept)
    command: list[str | Path] = [BIN / "nydus-fs", "mount", images[1].bootstrap, target]
    command += ["--blob-dir", images[1].blobs, "--state-root", here.state]
    script = f"{' '.join(map(str, command))} --cache-dir {here.root}/cache && cat {target}/name"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [str(target), "image 1"], done.stderr
    assert not launch.is_mounted(str(target))
    _mount(here, images[2], target)  # in place of the one that nobody can see any more
    assert (target / "name").read_text() == "image 2\n"
    eventually(lambda: len(_instances(here)) == 2, "the unseen one is dropped")
    bare = tmp_path / "bare"
    bare.mkdir()
    mounts.mount("/", bare, None, mounts.MS_BIND | mounts.MS_REC)
    try:
        mounts.mount(None, bare, None, mounts.MS_PRIVATE | mounts.MS_REC)
        inside = here.root / "many" / "inside"
        inside.mkdir()
        chrooted = " ".join(map(str, command)).replace(str(target), str(inside))
        script = f"{chrooted} --cache-dir {here.root}/cache && cat {inside}/name"
        done = subprocess.run(["chroot", bare, "sh", "-c", script], capture_output=True, text=True)
        assert done.stdout.splitlines() == [str(inside), "image 1"], done.stderr
        ended = subprocess.run(
            ["chroot", bare, BIN / "nydus-fs", "umount", inside, "--state-root", here.state],
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
    finally:
        mounts.umount(bare, mounts.MNT_DETACH)
    for point in (kept, target):
        _unmount(here, point)


def test_daemon_that_may_not_share_shows_its_image_at_the_mountpoint(
    images: list[BuiltImage], here: Place
) -> None:
    """What mounts of others than root are: one FUSE mount each, right where it is wanted."""
    options = here.options._replace(blob_dir=str(images[0].blobs))
    order = Order(str(images[0].bootstrap), str(here.mountpoint), options)
    daemon = launch.private_daemon(order, single=str(here.mountpoint))
    mounted = launch.mount_by(daemon, order)
    assert (here.mountpoint / "data").read_bytes() == _data(0)
    worker = here.status()["worker_pid"]
    os.kill(worker, signal.SIGKILL)
    assert (here.mountpoint / "name").read_text() == "image 0\n"
    assert here.status()["generation"] == 1
    here.unmount()
    eventually(lambda: not is_alive(mounted.pid), "ended")
    assert list(here.state.iterdir()) == []
    with pytest.raises(Failure):
        launch.mount_by(daemon, order._replace(source=str(images[0].blob)))
    eventually(lambda: not any(here.state.iterdir()), "the daemon has ended")
    assert not launch.is_mounted(str(here.mountpoint))
