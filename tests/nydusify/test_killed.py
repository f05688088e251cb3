"""A conversion that is killed: no tag, and what has arrived is not pushed again."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fs.format.errors import Failure
from fs.registry.store import open_reader
from nydusify.cli import main
from tests.nydusify.test_convert import publish
from tests.parts.layers import LayerTar
from tests.parts.registry import Registry
from tests.parts.waiting import eventually

pytestmark = pytest.mark.registry

LAYERS = 6


def layers() -> list[bytes]:
    """Layers whose blobs take a while: content that does not compress."""
    return [
        LayerTar().add(f"f{number}", data=random.Random(number).randbytes(3 << 20)).tar()
        for number in range(LAYERS)
    ]


def command(source: str, target: str, work: Path) -> list[str]:
    words = ["convert", "--no-layer-cache", "--source", source, "--target", target]
    return [sys.executable, "-m", "nydusify.cli", *words, "--work-dir", str(work)]


def pushed(registry: Registry, repository: str) -> list[str]:
    """The digests of the blobs whose upload was completed, in order."""
    done = [
        request["http.request.uri"]
        for request in registry.requests(f"/{repository}/blobs/uploads/")
        if request["http.request.method"] == "PUT" and request["http.response.status"] == 201
    ]
    return [uri.partition("digest=")[2].partition("&")[0] for uri in done]


def test_killed_at_any_point(registry: Registry, tmp_path: Path) -> None:
    """Each run is killed when one more blob has arrived, until one ends before that."""
    source, repository = f"oci:{tmp_path}/in:a", "killed/app"
    target = f"{registry.host}/{repository}:1"
    publish(source, layers())
    killed = 0
    while True:
        arrived = len(pushed(registry, repository))
        with subprocess.Popen(
            command(source, target, tmp_path / "work"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            while process.poll() is None and len(pushed(registry, repository)) == arrived:
                time.sleep(0.005)
            process.kill()
            _, said = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, said
            break
        if is_tagged(target):
            break
        killed += 1
    assert killed >= 3
    uploads = pushed(registry, repository)
    assert len(uploads) == len(set(uploads)), "a blob was pushed twice"
    image = open_reader(target).resolve(nydus=True)
    assert len(image.manifest.layers) == LAYERS + 1
    again = f"{target}-again"
    assert main(command(source, again, tmp_path)[3:]) == 0
    assert open_reader(again).resolve(nydus=True).manifest.digest == image.manifest.digest
    assert pushed(registry, repository) == uploads


def is_tagged(target: str) -> bool:
    try:
        open_reader(target).resolve(nydus=True)
    except Failure:
        return False
    return True


def test_blobs_travel_while_the_next_layer_is_converted(registry: Registry, tmp_path: Path) -> None:
    """The second layer cannot be read to its end, and the first blob is there all the same."""
    first, second = layers()[:2]
    source, repository = f"oci:{tmp_path}/in:a", "early/app"
    publish(source, [first, second], encoding="plain")
    blobs = sorted((tmp_path / "in/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    damaged = next(path for path in blobs if path.read_bytes() == second)
    damaged.write_bytes(second[:-20_000] + bytes(20_000))
    assert main(command(source, f"{registry.host}/{repository}:1", tmp_path)[3:]) != 0
    eventually(lambda: pushed(registry, repository), "the registry's log tells of it")
    assert len(pushed(registry, repository)) == 1
    assert not is_tagged(f"{registry.host}/{repository}:1")
