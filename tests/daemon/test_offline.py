"""Mounts by digest when the registry is gone: of whole images, and of what is here of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from fs.daemon import launch
from fs.format.errors import UnreachableError
from fs.registry.store import StoreOptions
from tests.daemon.mounting import Place
from tests.image.build import BuiltImage
from tests.image.publish import CONFIG, publish
from tests.parts.registry import start_registry
from tests.parts.trees import differences, scan
from tests.parts.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.registry]


def test_whole_image_needs_no_registry(
    tree: Path, image: BuiltImage, here: Place, tmp_path: Path
) -> None:
    with start_registry(tmp_path / "registry") as running:
        tagged = f"{running.host}/app:1"
        manifest = publish(image, tagged, StoreOptions(plain_http=True))
        by_digest = f"{running.host}/app@{manifest.digest}"
        options = here.options._replace(plain_http=True, prefetch="all")
        launch.mount(by_digest, str(here.mountpoint), options)
        eventually(lambda: here.status()["local"], "all is here")
        eventually(lambda: _is_recorded(here), "and this is written down")
        here.unmount()
        asked = len(running.requests())
        launch.mount(by_digest, str(here.mountpoint), options)
        here.unmount()
        assert len(running.requests()) == asked
    mounted = launch.mount(by_digest, str(here.mountpoint), options._replace(prefetch="none"))
    assert (mounted.image_config, mounted.manifest_digest) == (CONFIG, manifest.digest)
    assert differences(scan(tree), scan(here.mountpoint)) == []
    assert here.status()["requests"] == 0
    here.unmount()
    with pytest.raises(UnreachableError):
        launch.mount(tagged, str(here.mountpoint), options)


def _is_recorded(here: Place) -> bool:
    records = (here.root / "cache" / "images").glob("*.json")
    return any('"local": true' in path.read_text() for path in records)


def test_known_image_mounts_with_what_is_here(
    image: BuiltImage, here: Place, tmp_path: Path
) -> None:
    options = here.options._replace(plain_http=True, outage_deadline=0.0)
    with start_registry(tmp_path / "registry") as running:
        manifest = publish(image, f"{running.host}/app:1", StoreOptions(plain_http=True))
        by_digest = f"{running.host}/app@{manifest.digest}"
        launch.mount(by_digest, str(here.mountpoint), options)
        assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
        here.unmount()
    launch.mount(by_digest, str(here.mountpoint), options)
    assert (here.mountpoint / "hello").read_bytes() == b"hello world\n"
    with pytest.raises(OSError, match="Input/output error"):
        (here.mountpoint / "big").read_bytes()
    here.unmount()
