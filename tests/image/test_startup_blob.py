"""What was made for the start is asked for together with what says how to read it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fs.daemon.order import MountOptions
from fs.image.source import open_backend, resolve
from tests.image.build import BuiltImage, build_image, sample_tree
from tests.image.publish import publish
from tests.parts.waiting import PATIENCE
from tests.registry.faulty import Faulty, Reply, Request, start_faulty


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    root = tmp_path_factory.mktemp("startup")
    return build_image(sample_tree(root / "tree"), root / "image")


class _Published:
    """A registry of one image, whose blobs wait for one another until `together` have come."""

    def __init__(self, image: BuiltImage, layout: Path, *, startup: bool, together: int) -> None:
        publish(image, f"oci:{layout}:app", startup=startup)
        [entry] = json.loads((layout / "index.json").read_bytes())["manifests"]
        self._blobs = layout / "blobs/sha256"
        self._manifest = self._content(entry["digest"])
        self._type = {"Content-Type": entry["mediaType"]}
        self._count, self._together = together, threading.Barrier(together)
        self._come: list[str] = []

    def _content(self, digest: str) -> bytes:
        return (self._blobs / digest.removeprefix("sha256:")).read_bytes()

    def __call__(self, request: Request) -> Reply:
        if "/manifests/" in request.path:
            return Reply(200, self._type, self._manifest)
        if len(self._come) < self._count:
            self._come.append(request.path)
            self._together.wait(PATIENCE)
        content = self._content(request.path.rpartition("/")[2])
        asked = request.headers.get("range")
        if asked is None:
            return Reply(200, {}, content)
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        headers = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        return Reply(206, headers, content[first : last + 1])


@pytest.fixture
def served(image: BuiltImage, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Faulty]:
    startup, together = request.param
    behave = _Published(image, tmp_path / "layout", startup=startup, together=together)
    with start_faulty(behave) as server:
        yield server


def _read(server: Faulty, image: BuiltImage, cache: Path, options: MountOptions) -> list[str]:
    """Resolve the image and read its blob; what was asked for of the blob by then."""
    source, blob = f"{server.host}/startup:app", image.record.blob_id
    content = image.blob.read_bytes()
    with closing(open_backend(source, options, {})) as backend:
        resolved = resolve(source, options, str(cache), {}, backend)
        assert Path(resolved.bootstrap).read_bytes() == image.bootstrap.read_bytes()
        assert backend.read(blob, 0, len(content)) == content
    return [each.headers["range"] for each in server.to(blob)]


@pytest.mark.parametrize("served", [(True, 3)], indirect=True)
def test_three_things_are_asked_for_at_once(
    image: BuiltImage, served: Faulty, tmp_path: Path
) -> None:
    size = image.blob.stat().st_size
    asked = _read(served, image, tmp_path / "cache", MountOptions(plain_http=True))
    assert asked == [f"bytes=0-{size - 1}"]


@pytest.mark.parametrize("served", [(False, 2)], indirect=True)
def test_a_blob_of_another_kind_waits_for_the_bootstrap(
    image: BuiltImage, served: Faulty, tmp_path: Path
) -> None:
    _resolved_alone(image, served, tmp_path / "cache", MountOptions(plain_http=True))


@pytest.mark.parametrize("served", [(True, 2)], indirect=True)
def test_so_does_what_is_not_to_be_fetched_ahead(
    image: BuiltImage, served: Faulty, tmp_path: Path
) -> None:
    options = MountOptions(plain_http=True, prefetch="none")
    _resolved_alone(image, served, tmp_path / "cache", options)


@pytest.mark.parametrize("served", [(True, 2)], indirect=True)
def test_and_what_is_here_already(image: BuiltImage, served: Faulty, tmp_path: Path) -> None:
    here = tmp_path / "cache/blobs" / f"{image.record.blob_id}.blob.data"
    here.parent.mkdir(parents=True)
    here.touch()
    _resolved_alone(image, served, tmp_path / "cache", MountOptions(plain_http=True))


def _resolved_alone(image: BuiltImage, server: Faulty, cache: Path, options: MountOptions) -> None:
    source = f"{server.host}/startup:app"
    with closing(open_backend(source, options, {})) as backend:
        resolve(source, options, str(cache), {}, backend)
        assert server.to(image.record.blob_id) == []
        assert backend.read(image.record.blob_id, 0, 1)
