"""What a node does for a long time: nothing may grow, be read wrong, or stay behind.

Two nodes and lazyrun read three images through a registry that is restarted and fails. The
`steady` node's processes live as long as the test: they are what must not grow. The `shaken` one
loses its worker by SIGKILL and its daemon by restarts. After each minute all comes to rest,
and is looked at.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.commands import succeed
from tests.e2e.images import write_image
from tests.parts.waiting import PATIENCE
from tests.soak import images
from tests.soak.footprint import Footprint, growth
from tests.soak.node import QUOTA, Containers, Node
from tests.soak.report import report
from tests.soak.server import Server, start_server

pytestmark = [
    pytest.mark.soak,
    pytest.mark.root,
    pytest.mark.fuse,
    pytest.mark.erofs,
    pytest.mark.overlay,
    pytest.mark.registry,
    pytest.mark.system,
]

IMAGES = ("first", "second", "third")
STEADY = {"a": ("first", "fuse"), "b": ("second", "erofs"), "c": ("third", "fuse")}
SHAKEN = {"a": ("third", "erofs"), "b": ("first", "fuse")}
MINUTE = 60.0
#: Beyond the quota a cache may be by what comes while it is being made smaller.
SLACK = 16 << 20


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("soak")


@pytest.fixture(scope="module")
def server(work: Path, base_layer: bytes) -> Iterator[Server]:
    """With the images, converted."""
    with start_server(work / "registry") as running:
        assert running.upstream
        host, port = running.upstream
        for image in IMAGES:
            write_image([base_layer, images.layer(image)], f"oci:{work}/plain:{image}")
            succeed(
                "nydusify", "convert", "--source", f"oci:{work}/plain:{image}",
                "--target", f"{host}:{port}/soak/{image}:nydus", "--plain-http",
            )  # fmt: skip
        yield running


class Load:
    """What happens at the same time, until a minute is over; `done` counts it."""

    def __init__(self, server: Server, steady: Node, shaken: Node, containers: Containers) -> None:
        self.server, self.steady, self.shaken = server, steady, shaken
        self.containers = containers
        self.done: dict[str, int] = {}
        self._undescribed = threading.Lock()
        self._until = 0.0
        self._drawn = random.Random(7)

    def minute(self) -> None:
        """One minute of it. A failure ends it, is described as it is, and raised."""
        self._until = time.monotonic() + MINUTE
        parts: list[Callable[[random.Random], None]] = [
            *(partial(self._read, self.steady, place) for place in self.steady.mounted),
            self._come_and_go,
            self._run_containers,
            self._shake,
            self._restart_registry,
        ]
        with ThreadPoolExecutor(len(parts)) as pool:
            begun = [pool.submit(self._run, part, self._drawn.random()) for part in parts]
            _, hanging = wait(begun, MINUTE + PATIENCE)
            if hanging:
                self.describe(AssertionError(f"{len(hanging)} parts hang"))
        for part in begun:
            part.result()

    def _run(self, part: Callable[[random.Random], None], seed: float) -> None:
        try:
            part(random.Random(seed))
        except BaseException as error:
            self._until = 0.0
            self.describe(error)
            raise

    def describe(self, error: BaseException) -> None:
        """Print and keep what can be known, once: what fails next fails because of it."""
        if not self._undescribed.acquire(blocking=False):
            return
        roots = [self.steady.state, self.shaken.state, self.containers.state]
        below = self.steady.root.parent
        text = report(roots, below)
        (below / "failure.txt").write_text(f"{error!r}\n{text}\n")
        print(f"\n{error!r}", text, f"--- kept in {below}/failure.txt", sep="\n", flush=True)

    def _again(self, what: str, pause: float) -> bool:
        """Whether to go on, after `pause` seconds."""
        self.done[what] = self.done.get(what, 0) + 1
        left = self._until - time.monotonic()
        time.sleep(max(0.0, min(left, pause)))
        return time.monotonic() < self._until

    def _read(self, node: Node, place: str, drawn: random.Random) -> None:
        while self._again("reads", 0.01):
            node.read_some(drawn, place, node.mounted[place][0])

    def _come_and_go(self, drawn: random.Random) -> None:
        """Mounts of a moment, on the steady node."""
        while self._again("mounts", 0.3):
            image, driver = drawn.choice(IMAGES), drawn.choice(("fuse", "erofs"))
            self.steady.mount("guest", image, driver)
            self.steady.read_some(drawn, "guest", image)
            self.steady.unmount("guest")

    def _run_containers(self, drawn: random.Random) -> None:
        while self._again("containers", 0.3):
            self.containers.run_one(drawn, drawn.choice(IMAGES))

    def _shake(self, drawn: random.Random) -> None:
        """Kill the other node's worker under its readers, then restart the daemon."""
        while self._again("shakes", 2):
            with ThreadPoolExecutor(len(self.shaken.mounted)) as pool:
                killed = threading.Event()
                readers = [
                    pool.submit(self._read_until, killed, random.Random(drawn.random()), place)
                    for place in self.shaken.mounted
                ]
                try:
                    time.sleep(1)  # of reads, before and after
                    self.shaken.kill_worker()
                    time.sleep(1)
                finally:
                    killed.set()
            for reader in readers:
                reader.result()
            self.shaken.restart()

    def _read_until(self, end: threading.Event, drawn: random.Random, place: str) -> None:
        while not end.is_set():
            self.shaken.read_some(drawn, place, self.shaken.mounted[place][0])

    def _restart_registry(self, drawn: random.Random) -> None:
        while self._again("registry restarts", 15):
            self.server.stop()
            time.sleep(2)  # of an outage
            self.server.start()


def test_nothing_grows_and_nothing_stays(
    request: pytest.FixtureRequest, work: Path, server: Server
) -> None:
    minutes: int = request.config.getoption("--minutes", 10)
    assert minutes >= 3, "growth is measured from the second minute on"
    steady = Node(work / "steady", server.host, STEADY)
    shaken = Node(work / "shaken", server.host, SHAKEN)
    containers = Containers(work / "containers", server.host)
    load = Load(server, steady, shaken, containers)
    seen: list[Footprint] = []
    try:
        steady.start()
        shaken.start()
        pids = steady.pids()
        for number in range(1, minutes + 1):
            load.minute()
            assert steady.pids() == pids
            seen.append(steady.footprint())
            print(f"minute {number}: {seen[-1]}; {load.done}; {dict(server.counts)}", flush=True)
            assert seen[-1].mounts == len(STEADY) + 1, "the images', and the daemon's own"
            assert seen[-1].cache < QUOTA + SLACK
            assert shaken.footprint().mounts == len(SHAKEN) + 1
            containers.assert_nothing_left()
        assert growth(seen[1], seen[-1]) == []
        steady.stop()
        shaken.stop()
    except BaseException as error:
        load.describe(error)
        with contextlib.suppress(Exception):
            steady.stop()
        with contextlib.suppress(Exception):
            shaken.stop()
        raise
