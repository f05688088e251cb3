"""Sources made local: from layouts and registries, whole or not at all."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest
import zstandard

from fs.cache.whole import bootstrap_key, layer_key
from fs.daemon.order import MountOptions
from fs.format.errors import (
    AccessError,
    FormatError,
    NotFoundError,
    PlainImageError,
    UnreachableError,
    UsageError,
    VerifyError,
)
from fs.image.source import layer_of, open_backend, resolve
from fs.registry.store import StoreOptions
from tests.image.build import BuiltImage, build_image, sample_tree
from tests.image.publish import CONFIG, bootstrap_layer, publish
from tests.parts.registry import Registry, free_port


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> BuiltImage:
    root = tmp_path_factory.mktemp("source")
    return build_image(sample_tree(root / "tree"), root / "image")


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


def test_layout(image: BuiltImage, tmp_path: Path) -> None:
    place = f"oci:{tmp_path / 'layout'}:app"
    manifest = publish(image, place)
    resolved = resolve(place, MountOptions(), str(tmp_path / "cache"), {})
    assert Path(resolved.bootstrap).read_bytes() == image.bootstrap.read_bytes()
    assert resolved.manifest_digest == manifest.digest
    assert resolved.image_config == CONFIG
    wanted = sorted(["image.boot", f"{image.record.blob_id}.blob.meta"])
    assert _names(tmp_path / "cache") == wanted
    backend = open_backend(place, MountOptions(), {})
    assert backend.read(image.record.blob_id, 5, 100) == image.blob.read_bytes()[5:105]
    backend.close()


def test_only_a_bootstrap_of_the_cache_has_a_known_layer(image: BuiltImage, tmp_path: Path) -> None:
    place = f"oci:{tmp_path / 'layout'}:app"
    publish(image, place)
    cache = tmp_path / "cache"
    path = Path(resolve(place, MountOptions(), str(cache), {}).bootstrap)
    assert layer_of(str(path), str(cache)) == path.parent.name
    assert layer_of(str(path), str(tmp_path / "other")) is None
    for copy in (
        cache / path.parent.name / path.name,
        path.with_name("other.boot"),
        path.parent.parent / ".new-x" / path.name,
        cache / "bootstraps" / path.name,
    ):
        assert layer_of(str(copy), str(cache)) is None  # fmt: skip


def test_an_image_is_named_by_its_layer_or_else_by_all_its_bytes(
    image: BuiltImage, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.boot"
    copy.write_bytes(image.bootstrap.read_bytes())
    keys = [bootstrap_key(str(image.bootstrap)), bootstrap_key(str(copy))]
    assert keys[0] == keys[1]
    copy.write_bytes(copy.read_bytes()[:-1] + b"\1")
    keys[1:] = [bootstrap_key(str(copy)), layer_key("a" * 64), layer_key("a" * 39 + "b" * 25)]
    assert len(set(keys)) == 4


@pytest.mark.registry
def test_registry_is_asked_for_a_bootstrap_once(
    image: BuiltImage, registry: Registry, tmp_path: Path
) -> None:
    place = f"{registry.host}/source/once:1"
    publish(image, place, StoreOptions(plain_http=True))
    options = MountOptions(plain_http=True)
    counts = []
    for _ in range(2):
        resolve(place, options, str(tmp_path), {})
        requests = registry.requests("/v2/source/once/blobs/")
        counts.append(len([r for r in requests if r["http.request.method"] == "GET"]))
    assert counts[0] == 2  # the configuration and the bootstrap layer
    assert counts[1] == 3  # the configuration
    backend = open_backend(place, options, {})
    assert backend.read(image.record.blob_id, 5, 100) == image.blob.read_bytes()[5:105]
    backend.close()


@pytest.mark.parametrize("kind", ["plain", "zstd"])
def test_layer_compressions(image: BuiltImage, tmp_path: Path, kind: str) -> None:
    layer = bootstrap_layer([("./image/image.boot", image.bootstrap.read_bytes())])
    if kind == "zstd":
        layer = zstandard.ZstdCompressor().compress(layer)
    place = f"oci:{tmp_path / 'layout'}:app"
    publish(image, place, layer=layer)
    resolved = resolve(place, MountOptions(), str(tmp_path / "cache"), {})
    assert Path(resolved.bootstrap).read_bytes() == image.bootstrap.read_bytes()


def test_plain_image_is_told_apart(image: BuiltImage, tmp_path: Path) -> None:
    place = f"oci:{tmp_path / 'layout'}:app"
    publish(image, place, nydus=False)
    with pytest.raises(PlainImageError, match="nydusify convert"):
        resolve(place, MountOptions(), str(tmp_path / "cache"), {})


def _bad_layers(boot: bytes) -> dict[str, bytes]:
    good = bootstrap_layer([("image/image.boot", boot)])
    return {
        "nothing": bootstrap_layer([("image/other", b"x")]),
        "no tar": b"x" * 2000,
        "empty": b"",
        "cut tar": good[:2000],
        "cut gzip": gzip.compress(good)[:-20],
        "damaged gzip": gzip.compress(good)[:100] + b"\xff" * 50 + gzip.compress(good)[150:],
        "twice": bootstrap_layer([("image/image.boot", boot)] * 2),
        "no bootstrap": bootstrap_layer([("image/image.boot", b"y" * 8192)]),
        "many": bootstrap_layer([(f"f{n}", b"") for n in range(5000)]),
    }


@pytest.mark.parametrize("name", sorted(_bad_layers(b"")))
def test_bad_layers_leave_nothing(image: BuiltImage, tmp_path: Path, name: str) -> None:
    layer = _bad_layers(image.bootstrap.read_bytes())[name]
    place = f"oci:{tmp_path / 'layout'}:app"
    publish(image, place, layer=layer)
    with pytest.raises(FormatError):
        resolve(place, MountOptions(), str(tmp_path / "cache"), {})
    assert _names(tmp_path / "cache") == []


def test_names_in_the_layer_choose_no_path(image: BuiltImage, tmp_path: Path) -> None:
    evil = [("../escaped", b"x"), ("/image/image.boot", b"x"), ("image/../escaped", b"x")]
    layer = bootstrap_layer([*evil, ("image/image.boot", image.bootstrap.read_bytes())])
    place = f"oci:{tmp_path / 'layout'}:app"
    publish(image, place, layer=layer)
    resolve(place, MountOptions(), str(tmp_path / "cache"), {})
    assert _names(tmp_path / "cache") == ["image.boot"]
    assert not list(tmp_path.rglob("escaped"))


def test_damaged_layer_is_not_published(image: BuiltImage, tmp_path: Path) -> None:
    place = f"oci:{tmp_path / 'layout'}:app"
    publish(image, place)
    blobs = tmp_path / "layout" / "blobs" / "sha256"
    [layer] = [path for path in blobs.iterdir() if path.read_bytes()[:2] == b"\x1f\x8b"]
    content = bytearray(layer.read_bytes())
    content[4] ^= 1  # the time in gzip's header: it still decompresses
    layer.chmod(0o644)
    layer.write_bytes(content)
    with pytest.raises(VerifyError):
        resolve(place, MountOptions(), str(tmp_path / "cache"), {})
    assert _names(tmp_path / "cache") == []


@pytest.mark.registry
def test_registry_faults(registry: Registry, tmp_path: Path) -> None:
    options = MountOptions(plain_http=True)
    with pytest.raises((NotFoundError, AccessError)):
        resolve(f"{registry.host}/source/none:1", options, str(tmp_path), {})
    with pytest.raises(UnreachableError):
        resolve(f"127.0.0.1:{free_port()}/x:1", options, str(tmp_path), {})
    with pytest.raises(UsageError):
        resolve("Bad Reference!", options, str(tmp_path), {})


def test_bootstrap_file(image: BuiltImage, tmp_path: Path) -> None:
    options = MountOptions(blob_dir=str(image.blobs))
    resolved = resolve(str(image.bootstrap), options, str(tmp_path), {})
    assert resolved.bootstrap == str(image.bootstrap)
    with pytest.raises(UsageError, match="--blob-dir"):
        resolve(str(image.bootstrap), MountOptions(), str(tmp_path), {})
    empty = tmp_path / "empty.boot"
    empty.touch()
    with pytest.raises(FormatError, match="empty"):
        resolve(str(empty), options, str(tmp_path), {})
    shutil.copy(image.bootstrap, tmp_path / "cut.boot")
    with (tmp_path / "cut.boot").open("r+b") as file:
        file.truncate(1200)
    with pytest.raises(FormatError):
        resolve(str(tmp_path / "cut.boot"), options, str(tmp_path), {})
