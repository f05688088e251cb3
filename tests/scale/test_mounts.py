"""Many mounts and containers, at once and one after another: when they are gone, all is gone."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from fs.daemon import launch
from tests.daemon.mounting import is_alive
from tests.e2e.commands import call, succeed
from tests.e2e.images import upper_layer, write_image
from tests.parts import leaks
from tests.parts.waiting import eventually
from tests.scale.layers import MIB
from tests.scale.processes import own_memory

pytestmark = [
    pytest.mark.scale,
    pytest.mark.root,
    pytest.mark.fuse,
    pytest.mark.overlay,
    pytest.mark.system,
]

MOUNTS = 300
RUNS, PARALLEL = 30, 10


@pytest.fixture(scope="module")
def image(work: Path, base_layer: bytes) -> str:
    write_image([base_layer, upper_layer()], f"oci:{work}/plain:plain")
    succeed("nydusify", "convert", "--source", f"oci:{work}/plain:plain",
            "--target", f"oci:{work}/image:nydus")  # fmt: skip
    return f"oci:{work}/image:nydus"


def test_hundreds_of_mounts_at_once(image: str, work: Path) -> None:
    state, cache = work / "state", work / "cache"
    points = [work / f"mnt-{number}" for number in range(MOUNTS)]
    for point in points:
        point.mkdir()
    options = ["--cache-dir", cache, "--state-root", state]
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda point: succeed("nydus-fs", "mount", image, point, *options), points))
    seconds = time.monotonic() - started
    try:
        assert {(point / "etc/motd").read_text() for point in points} == {"replaced\n"}
        statuses = launch.all_status(str(state))
        assert sorted(status["mountpoint"] for status in statuses) == sorted(map(str, points))
        daemons = {pid for status in statuses for pid in (status["pid"], status["worker_pid"])}
        assert len(daemons) == 2
        memory = sum(map(own_memory, daemons)) / MIB
        print(f"{MOUNTS} mounts: {seconds:.1f} s, {memory:.0f} MiB of their daemon")
    finally:
        with ThreadPoolExecutor(4) as pool:
            unmount = partial(call, "nydus-fs", "umount", "--state-root", state)
            done = list(pool.map(unmount, points))
    assert [one.stderr for one in done] == [""] * MOUNTS
    assert_nothing_left(work, [status["pid"] for status in statuses])
    assert list(state.iterdir()) == []


def test_containers_one_after_another(image: str, work: Path) -> None:
    root = work / "one"
    started = time.monotonic()
    for number in range(RUNS):
        assert run(root, image, number).stdout == f"{number}\nreplaced\n"
    print(f"{RUNS} containers: {(time.monotonic() - started) / RUNS:.2f} s each")
    assert_nothing_left_by_containers(root)


def test_containers_at_the_same_time(image: str, work: Path) -> None:
    root = work / "many"
    with ThreadPoolExecutor(PARALLEL) as pool:
        done = list(pool.map(lambda number: run(root, image, number), range(PARALLEL)))
    assert [one.stderr for one in done] == [""] * PARALLEL
    assert [one.stdout for one in done] == [f"{n}\nreplaced\n" for n in range(PARALLEL)]
    assert_nothing_left_by_containers(root)


def run(root: Path, image: str, number: int) -> subprocess.CompletedProcess[str]:
    script = f"echo {number} > /own; cat /own /etc/motd"
    done = call("lazyrun", "run", "--rm", "--root", root, image, script)
    assert done.returncode == 0, done.stderr
    return done


def assert_nothing_left(root: Path, pids: list[int]) -> None:
    assert leaks.mounts_below(root) == []
    eventually(lambda: not any(map(is_alive, pids)), "the daemons end")


def assert_nothing_left_by_containers(root: Path) -> None:
    """No mount, no process, no state of a container; layers of images may be kept."""
    assert leaks.mounts_below(root) == []
    assert processes_naming(root) == []
    assert list(root.glob("containers/*")) == []
    assert list(root.glob("store/snapshots/*")) == []
    assert launch.all_status(str(root / "nydus-fs")) == []
    printed = succeed("lazyrun", "ps", "--root", root, "-a")
    assert len(printed.splitlines()) <= 1, printed


def processes_naming(root: Path) -> list[str]:
    """Command lines of all processes with `root` in their words, `ps` itself left out."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if f"{root}/" in line]
