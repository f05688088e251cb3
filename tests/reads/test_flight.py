"""A thousand readers of one cold chunk ask a real registry once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fs.daemon import launch
from fs.registry.store import StoreOptions
from tests.daemon.mounting import Place, place
from tests.image.build import BuiltImage, build_image
from tests.image.publish import publish
from tests.parts.registry import Registry, start_registry
from tests.parts.waiting import PATIENCE, eventually
from tests.reads.mounting import DRIVERS

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.erofs, pytest.mark.registry]

READERS = 1000
CONTENT = b"the same content of all files\n" * 3000


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    """Of a thousand names for one chunk: the kernel itself would merge reads of one file."""
    work = tmp_path_factory.mktemp("flight")
    (work / "tree").mkdir()
    for number in range(READERS):
        (work / f"tree/{number:04}").write_bytes(CONTENT)
    image = build_image(work / "tree", work / "image")
    assert len(image.chunks) == 1
    return image


@contextmanager
def _held(registry: Registry) -> Iterator[None]:
    """It takes connections and answers none."""
    os.kill(registry.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(registry.pid, signal.SIGCONT)


def _waiting() -> int:
    """Threads of this process that wait in the kernel."""
    states = [path.read_text() for path in Path("/proc/self/task").glob("*/stat")]
    return sum(state.rpartition(")")[2].split()[0] in "DS" for state in states)


@pytest.mark.parametrize("driver", DRIVERS)
def test_thousand_readers_make_one_request(image: BuiltImage, driver: str, tmp_path: Path) -> None:
    with start_registry(tmp_path / "registry") as registry, place(tmp_path / "place") as here:
        _read_by_many(image, driver, registry, here)


def _read_by_many(image: BuiltImage, driver: str, registry: Registry, here: Place) -> None:
    source = f"{registry.host}/flight:1"
    publish(image, source, StoreOptions(plain_http=True))
    options = here.options._replace(plain_http=True, driver=driver, outage_deadline=60.0)
    launch.mount(source, str(here.mountpoint), options)
    outcomes: list[bool] = []
    threads = [
        threading.Thread(target=lambda path=path: outcomes.append(path.read_bytes() == CONTENT))
        for path in sorted(here.mountpoint.iterdir())
    ]
    assert len(threads) == READERS
    with _held(registry):
        for thread in threads:
            thread.start()
        eventually(lambda: _waiting() >= READERS, "all wait")
        time.sleep(0.3)
        assert outcomes == []
    for thread in threads:
        thread.join(PATIENCE)
    assert outcomes == [True] * READERS
    asked = registry.requests(f"/v2/flight/blobs/sha256:{image.record.blob_id}")
    fetched = [line for line in asked if line["http.request.method"] == "GET"]
    assert [line["http.response.status"] for line in fetched] == [206]
    here.unmount()
