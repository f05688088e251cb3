"""Mounts of images where images are kept: a real registry, a layout without any server."""

from __future__ import annotations

from pathlib import Path

import pytest

from fs.daemon import launch
from fs.format.errors import NotFoundError, PlainImageError
from fs.registry.store import StoreOptions
from tests.daemon.mounting import Place
from tests.image.build import BuiltImage
from tests.image.publish import CONFIG, publish
from tests.parts.registry import Registry, start_registry
from tests.parts.trees import differences, scan
from tests.parts.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def test_layout(tree: Path, image: BuiltImage, here: Place, tmp_path: Path) -> None:
    place = f"oci:{tmp_path / 'layout'}:app"
    manifest = publish(image, place)
    mounted = launch.mount(place, str(here.mountpoint), here.options)
    assert (mounted.image_config, mounted.manifest_digest) == (CONFIG, manifest.digest)
    assert differences(scan(tree), scan(here.mountpoint)) == []
    here.unmount()


@pytest.mark.registry
def test_registry_is_asked_for_parts_only(
    tree: Path, image: BuiltImage, here: Place, registry: Registry
) -> None:
    place = f"{registry.host}/daemon/parts:1"
    publish(image, place, StoreOptions(plain_http=True))
    options = here.options._replace(plain_http=True)
    launch.mount(place, str(here.mountpoint), options)
    assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
    asked = registry.requests(f"/v2/daemon/parts/blobs/sha256:{image.record.blob_id}")
    fetched = [line for line in asked if line["http.request.method"] == "GET"]
    assert [line["http.response.status"] for line in fetched] == [206]
    assert here.status()["requests"] == 1
    assert 0 < here.status()["fetched_bytes"] < image.blob.stat().st_size // 2
    here.unmount()


@pytest.mark.registry
def test_registry_outage_does_not_end_a_mount(
    tree: Path, image: BuiltImage, here: Place, tmp_path: Path
) -> None:
    with start_registry(tmp_path / "registry") as running:
        place = f"{running.host}/app:1"
        publish(image, place, StoreOptions(plain_http=True))
        options = here.options._replace(plain_http=True, outage_deadline=0.0)
        launch.mount(place, str(here.mountpoint), options)
        assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
    with pytest.raises(OSError, match="Input/output error"):
        (here.mountpoint / "big").read_bytes()
    assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
    here.unmount()


def test_plain_image_and_missing_one(image: BuiltImage, here: Place, tmp_path: Path) -> None:
    place = f"oci:{tmp_path / 'layout'}"
    publish(image, f"{place}:plain", nydus=False)
    with pytest.raises(PlainImageError, match="ordinary OCI image"):
        launch.mount(f"{place}:plain", str(here.mountpoint), here.options)
    with pytest.raises(NotFoundError):
        launch.mount(f"{place}:none", str(here.mountpoint), here.options)
    assert not launch.is_mounted(str(here.mountpoint))
    eventually(lambda: not any(here.state.iterdir()), "the daemon has ended")
