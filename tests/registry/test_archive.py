"""Image archives, of both shapes, ours and others'."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from fs.format.errors import Failure, FormatError, NotFoundError, UsageError, VerifyError
from fs.registry.descriptor import describe
from fs.registry.mediatypes import (
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    NYDUS_BLOB,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)
from fs.registry.store import open_reader, open_writer
from tests.registry.images import Sample, push_image, tar_layer

needs_skopeo = pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo not installed")


@pytest.fixture
def archive(tmp_path: Path, sample: Sample) -> Path:
    writer = open_writer(f"docker-archive:{tmp_path}/image.tar:app:v1")
    push_image(writer, sample)
    writer.close()
    return tmp_path / "image.tar"


def legacy(path: Path, layers: list[bytes], *, named: str = "", **links: str) -> Path:
    """What `docker save` wrote: plain layers in directories, and the configuration by digest."""
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {
                "diff_ids": [
                    f"sha256:{hashlib.sha256(_plain(layer)).hexdigest()}" for layer in layers
                ]
            },
        }
    ).encode()
    name = named or f"{hashlib.sha256(config).hexdigest()}.json"
    paths = [f"layer{i}/layer.tar" for i in range(len(layers))]
    entry = {"Config": name, "RepoTags": ["app:v1", "q.io/app:v2"], "Layers": paths}
    with tarfile.open(path, "w") as tar:
        for member, data in [(name, config), ("manifest.json", json.dumps([entry]).encode())]:
            _add(tar, member, data)
        for member, data in zip(paths, layers, strict=True):
            if member in links:
                link = tarfile.TarInfo(member)
                link.type, link.linkname = tarfile.SYMTYPE, links[member]
                tar.addfile(link)
            else:
                _add(tar, f"./{member}", data)
    return path


def _plain(layer: bytes) -> bytes:
    return gzip.decompress(layer) if layer.startswith(b"\x1f\x8b") else layer


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("image", ["", ":app:v1", ":docker.io/library/app:v1"])
def test_round_trip(archive: Path, sample: Sample, image: str) -> None:
    reader = open_reader(f"docker-archive:{archive}{image}")
    resolved = reader.resolve()
    assert resolved.manifest.raw == sample.raw
    for layer in resolved.manifest.layers:
        with reader.open_blob(layer) as stream:
            assert stream.read() == sample.blobs[layer.digest]
        assert reader.read_range(layer, 5, 7) == sample.blobs[layer.digest][5:12]
    with pytest.raises(VerifyError, match="ends before"):
        reader.read_range(resolved.manifest.layers[0], 0, 1 << 20)
    reader.close()


def test_writing_is_deterministic(archive: Path, tmp_path: Path, sample: Sample) -> None:
    writer = open_writer(f"docker-archive:{tmp_path}/again.tar:app:v1")
    push_image(writer, sample)
    writer.close()
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_nydus_layers_round_trip(tmp_path: Path) -> None:
    """Layers that are no tar files come back as they went in."""
    blob, config = os.urandom(100_000), b'{"rootfs":{"diff_ids":[]}}'
    layer, config_descriptor = describe(blob, NYDUS_BLOB), describe(config, OCI_CONFIG)
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "config": config_descriptor.to_json(),
            "layers": [layer.to_json()],
        }
    ).encode()
    writer = open_writer(f"docker-archive:{tmp_path}/n.tar")
    writer.push_blob(layer, blob)
    writer.push_blob(layer, blob)
    writer.push_blob(config_descriptor, config)
    writer.push_manifest(raw, OCI_MANIFEST, tag=True)
    writer.close()
    for kind in ("docker-archive", "oci-archive"):
        reader = open_reader(f"{kind}:{tmp_path}/n.tar")
        assert reader.read_blob(reader.resolve().manifest.layers[0], 1 << 20) == blob
        reader.close()


def test_nothing_appears_before_the_tag(tmp_path: Path, sample: Sample) -> None:
    target = tmp_path / "image.tar"
    target.write_text("precious")
    writer = open_writer(f"docker-archive:{target}:app:v1")
    push_image(writer, sample, tag=False)
    assert target.read_text() == "precious"
    writer.close()
    assert target.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [target]


def test_incomplete_image_is_not_published(tmp_path: Path, sample: Sample) -> None:
    writer = open_writer(f"docker-archive:{tmp_path}/image.tar:app:v1")
    writer.push_blob(sample.config, sample.blobs[sample.config.digest])
    with pytest.raises(NotFoundError, match="was not written"):
        writer.push_manifest(sample.raw, OCI_MANIFEST, tag=True)
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_body_is_taken_out_again(tmp_path: Path, sample: Sample) -> None:
    writer = open_writer(f"docker-archive:{tmp_path}/image.tar:app:v1")
    for body in (b"wrong", sample.blobs[sample.layers[0].digest] + b"!"):
        with pytest.raises(VerifyError):
            writer.push_blob(sample.layers[0], body)
    push_image(writer, sample)
    writer.close()
    reader = open_reader(f"docker-archive:{tmp_path}/image.tar")
    assert reader.resolve().manifest.raw == sample.raw
    reader.close()


@pytest.mark.parametrize("image", ["", ":app:v1", ":q.io/app:v2", ":docker.io/library/app:v1"])
def test_legacy(tmp_path: Path, image: str) -> None:
    layers = [tar_layer({"a": b"1"}), gzip.compress(tar_layer({"b": b"2"}))]
    path = legacy(tmp_path / "old.tar", layers)
    reader = open_reader(f"docker-archive:{path}{image}")
    manifest = reader.resolve().manifest
    assert [layer.media_type for layer in manifest.layers] == [DOCKER_LAYER, DOCKER_LAYER_GZIP]
    for descriptor, data in zip(manifest.layers, layers, strict=True):
        assert reader.read_blob(descriptor, 1 << 20) == data
        assert reader.read_range(descriptor, 1, 2) == data[1:3]
    reader.close()


def test_legacy_layer_that_is_a_link_to_another(tmp_path: Path) -> None:
    layer = tar_layer({"a": b"1"})
    link = {"layer1/layer.tar": "../layer0/layer.tar"}
    path = legacy(tmp_path / "old.tar", [layer, layer], **link)
    reader = open_reader(f"docker-archive:{path}")
    assert reader.read_blob(reader.resolve().manifest.layers[1], 1 << 20) == layer
    reader.close()


def test_legacy_damage(tmp_path: Path) -> None:
    layer = tar_layer({"a": b"1"})
    path = legacy(tmp_path / "old.tar", [layer])
    path.write_bytes(path.read_bytes().replace(b"amd64", b"amd65"))
    with pytest.raises(VerifyError, match="has digest"):
        open_reader(f"docker-archive:{path}")
    path = legacy(tmp_path / "old.tar", [layer], named="config")
    path.write_bytes(path.read_bytes().replace(b"a\0\0\0\0", b"b\0\0\0\0"))
    reader = open_reader(f"docker-archive:{path}")
    with pytest.raises(VerifyError, match="promised"):
        reader.read_blob(reader.resolve().manifest.layers[0], 1 << 20)
    reader.close()


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "no list of images"),
        (b"[1]", "no list of images"),
        (b"[{}]", "without Config"),
        (b'[{"Config":"c","Layers":[1]}]', "no list of texts"),
        (b'[{"Config":"../../etc/passwd","Layers":[]}]', "not in the archive"),
        (b'[{"Config":"manifest.json","Layers":[]}]', "no JSON object"),
        (b'[{"Config":"c","Layers":["x"]}]', "1 layers, 0 diff IDs"),
        (b'[{"Config":"c","Layers":[]},{"Config":"c","Layers":[]}]', "say which image"),
    ],
)
def test_broken_legacy(tmp_path: Path, manifest: bytes, says: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        _add(tar, "manifest.json", manifest)
        _add(tar, "c", b"{}")
    with pytest.raises(Failure, match=says):
        open_reader(f"docker-archive:{tmp_path}/a.tar")


def test_unknown_image(archive: Path, tmp_path: Path) -> None:
    reader = open_reader(f"docker-archive:{archive}:other")
    with pytest.raises(NotFoundError, match=r"there are: docker\.io/library/app:v1"):
        reader.resolve()
    reader.close()
    path = legacy(tmp_path / "old.tar", [])
    with pytest.raises(NotFoundError, match=r"there are: app:v1, q\.io/app:v2"):
        open_reader(f"docker-archive:{path}:other")


def test_no_archive(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(NotFoundError, match="No such file"):
        open_reader(f"oci-archive:{tmp_path}/absent.tar")
    compressed = tmp_path / "image.tar.gz"
    compressed.write_bytes(gzip.compress(archive.read_bytes()))
    with pytest.raises(UsageError, match="compressed with gzip; unpack it first"):
        open_reader(f"docker-archive:{compressed}")
    os.truncate(archive, archive.stat().st_size // 2 // 512 * 512)
    with pytest.raises(FormatError, match=r"ends in the middle|no image archive"):
        open_reader(f"docker-archive:{archive}")
    with pytest.raises(UsageError, match="reading only"):
        open_writer(f"oci-archive:{tmp_path}/x.tar")


@needs_skopeo
def test_skopeo_reads_ours_and_we_read_skopeos(
    archive: Path, tmp_path: Path, sample: Sample
) -> None:
    old = tmp_path / "skopeo.tar"
    copies = [
        (f"docker-archive:{archive}:app:v1", f"oci:{tmp_path}/l1:v1"),
        (f"oci:{tmp_path}/l1:v1", f"docker-archive:{old}:app:v3"),
    ]
    for source, target in copies:
        subprocess.run(["skopeo", "copy", "-q", "--insecure-policy", source, target], check=True)
    for place in (f"oci:{tmp_path}/l1:v1", f"docker-archive:{old}:app:v3"):
        reader = open_reader(place)
        image = reader.resolve()
        assert image.config.cmd == ["x"]
        plain = [_plain(reader.read_blob(layer, 1 << 20)) for layer in image.manifest.layers]
        assert plain == [_plain(sample.blobs[layer.digest]) for layer in sample.layers]
        assert all(layer.media_type != OCI_LAYER_GZIP for layer in image.manifest.layers) == (
            place.startswith("docker-archive")
        )
        reader.close()
