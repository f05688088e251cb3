"""Mounts' sources and blobs behind mirrors and in configured backends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fs.daemon.order import MountOptions
from fs.format.errors import NotFoundError, UsageError
from fs.image.source import open_backend, resolve
from fs.registry.store import StoreOptions
from tests.image.build import BuiltImage, build_image, sample_tree
from tests.image.publish import publish
from tests.parts.registry import Registry, start_registry


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    root = tmp_path_factory.mktemp("places")
    return build_image(sample_tree(root / "tree"), root / "image")


@pytest.mark.registry
def test_image_from_a_mirror_that_has_lost_bytes(
    image: BuiltImage, registry: Registry, tmp_path: Path
) -> None:
    """A pull-through cache gives wrong bytes of everything: the registry's own are taken."""
    publish(image, f"{registry.host}/places/mirror:1", StoreOptions(plain_http=True))
    (tmp_path / "mirror").mkdir()
    with start_registry(tmp_path / "mirror", upstream=f"http://{registry.host}") as mirror:
        directory = tmp_path / "certs.d/images.invalid"
        directory.mkdir(parents=True)
        (directory / "hosts.toml").write_text(
            f'server = "http://{registry.host}"\n[host."http://{mirror.host}"]'
        )
        options = MountOptions(hosts_dir=str(tmp_path / "certs.d"))
        source = "images.invalid/places/mirror:1"
        resolve(source, options, str(tmp_path / "warm"), {})
        assert mirror.requests("/v2/places/mirror/blobs/")
        backend = open_backend(source, options, {})
        blob, data = image.record.blob_id, image.blob.read_bytes()
        assert backend.read(blob, 5, 100) == data[5:105]
        backend.close()

        for stored in (mirror.storage / "docker/registry/v2/blobs").rglob("data"):
            stored.write_bytes(bytes(stored.stat().st_size))
        resolved = resolve(source, options, str(tmp_path / "cold"), {})
        assert Path(resolved.bootstrap).read_bytes() == image.bootstrap.read_bytes()


def test_bootstrap_file_with_a_configured_backend(image: BuiltImage, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    backend = {"type": "localfs", "config": {"dir": str(image.blob.parent)}}
    config.write_text(json.dumps({"device": {"backend": backend}}))
    options = MountOptions(backend_config=str(config))
    assert resolve(str(image.bootstrap), options, str(tmp_path), {}).bootstrap
    opened = open_backend(str(image.bootstrap), options, {})
    assert opened.read(image.record.blob_id, 5, 100) == image.blob.read_bytes()[5:105]
    opened.close()


def test_mistakes_in_the_configuration_show_at_mount(image: BuiltImage, tmp_path: Path) -> None:
    source = str(image.bootstrap)
    with pytest.raises(NotFoundError):
        resolve(source, MountOptions(backend_config=str(tmp_path / "none")), str(tmp_path), {})
    (tmp_path / "config.json").write_text("{}")
    options = MountOptions(backend_config=str(tmp_path / "config.json"))
    with pytest.raises(UsageError, match="which type"):
        resolve(source, options, str(tmp_path), {})
    with pytest.raises(UsageError, match="dir is missing"):
        resolve(source, options._replace(backend_type="localfs"), str(tmp_path), {})
