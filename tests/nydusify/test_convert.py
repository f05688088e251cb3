"""Whole conversions between every kind of place, and the ways in which they fail."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard

from fs.format.versions import open_bootstrap
from fs.mounts import MNT_DETACH, MS_RDONLY, mount, umount
from fs.registry.descriptor import describe
from fs.registry.mediatypes import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
)
from fs.registry.store import open_reader, open_writer
from nydusify.cli import main
from tests.nydusify.images import decode_blob, pull, pulled_tree
from tests.parts.layers import LayerTar, expected_tree, overlay_of, unlike, with_least_names
from tests.parts.registry import Registry
from tests.parts.trees import differences, scan

pytestmark = [pytest.mark.root, pytest.mark.overlay]

Encode = Callable[[bytes], bytes]


@functools.lru_cache(64)
def gzipped(tar: bytes) -> bytes:
    return gzip.compress(tar, 1, mtime=0)


ENCODINGS: dict[str, tuple[str, Encode]] = {
    "plain": (OCI_LAYER, bytes),
    "gzip": (OCI_LAYER_GZIP, gzipped),
    "zstd": (OCI_LAYER_ZSTD, zstandard.compress),
}


def stack() -> list[bytes]:
    """Four layers: one large file and many small ones, deletions, replacement, nothing new."""
    return list(_stack())


@functools.cache
def _stack() -> tuple[bytes, ...]:
    noise = random.Random(1).randbytes(3_200_000)
    low = LayerTar().directory("usr").directory("usr/bin").add("usr/bin/large", data=noise)
    for number in range(50):
        low.add(f"usr/f{number}", data=b"%d" % number * number, uid=number)
    low.symlink("bin", "usr/bin").link("usr/again", "usr/bin/large").add("pipe", b"6")
    upper = LayerTar().add("usr/.wh.f7").add("usr/f8", data=b"new").add("usr/bin/.wh..wh..opq")
    same = LayerTar().add("copy", data=noise[: 1 << 20]).add("usr/link-to", data=b"")
    nothing = LayerTar().add(".wh.pipe").directory("etc", mode=0o700)
    return tuple(layer.tar() for layer in (low, upper, same, nothing))


def publish(
    place: str,
    tars: list[bytes],
    *,
    encoding: str = "gzip",
    config: dict[str, Any] | None = None,
    **changes: Any,  # noqa: ANN401 - fields of the manifest
) -> str:
    """Put a plain image of `tars` at `place`; returns the manifest's digest."""
    media_type, encode = ENCODINGS[encoding]
    writer = open_writer(place)
    layers = []
    for tar in tars:
        stored = encode(tar)
        layers.append(describe(stored, media_type))
        writer.push_blob(layers[-1], stored)
    diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    document = {
        "architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"], "Cmd": ["x"]},
        "created": "2020-01-01T00:00:00Z", "odd": {"kept": 1},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": f"step {n}"} for n in range(len(tars))],
        **(config or {}),
    }  # fmt: skip
    raw_config = json.dumps(document).encode()
    described = describe(raw_config, OCI_CONFIG)
    writer.push_blob(described, raw_config)
    manifest = {
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described.to_json(),
        "layers": [layer.to_json() for layer in layers], **changes,
    }  # fmt: skip
    descriptor = writer.push_manifest(json.dumps(manifest).encode(), OCI_MANIFEST, tag=True)
    writer.close()
    return descriptor.digest


def convert(source: str, target: str, *more: str) -> int:
    return main(["convert", "--source", source, "--target", target, *more])


@contextmanager
def as_overlayfs(tars: list[bytes], work: Path) -> Iterator[Path]:
    oracle = work / "oracle"
    oracle.mkdir()
    with overlay_of(tars, oracle) as merged:
        yield merged


def assert_shows(place: str, tars: list[bytes], tmp_path: Path) -> None:
    pulled = tmp_path / "pulled"
    pulled.mkdir()
    with as_overlayfs(tars, tmp_path) as merged:
        assert unlike(expected_tree(merged), pulled_tree(place, pulled)) == []


# --- places ------------------------------------------------------------------------------


@pytest.mark.registry
def test_registry_to_registry(registry: Registry, tmp_path: Path) -> None:
    source, target = f"{registry.host}/convert/plain:1", f"{registry.host}/convert/nydus:1"
    publish(source, stack())
    assert convert(source, target) == 0
    assert_shows(target, stack(), tmp_path)
    assert [r for r in registry.requests("/convert/nydus/manifests/") if "PUT" in str(r)]


@pytest.mark.registry
def test_target_suffix(registry: Registry) -> None:
    source = f"{registry.host}/convert/suffix:1"
    publish(source, stack()[1:2])
    assert main(["convert", "--source", source, "--target-suffix", "-nydus"]) == 0
    assert open_reader(f"{source}-nydus").resolve(nydus=True).manifest.layers


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_layout_to_layout(encoding: str, tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:a", stack(), encoding=encoding)
    assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:b") == 0
    assert_shows(f"oci:{tmp_path}/out:b", stack(), tmp_path)


@pytest.mark.parametrize("config_type", [DOCKER_CONFIG, "application/octet-stream"])
def test_docker_schema_2(config_type: str, tmp_path: Path) -> None:
    """As docker pushes it, and as it did before configurations had a type."""
    publish(f"oci:{tmp_path}/in:a", stack())
    reader, writer = open_reader(f"oci:{tmp_path}/in:a"), open_writer(f"oci:{tmp_path}/in:b")
    document = json.loads(reader.resolve().manifest.raw)
    document |= {"mediaType": DOCKER_MANIFEST}
    document["config"]["mediaType"] = config_type
    for layer in document["layers"]:
        layer["mediaType"] = DOCKER_LAYER_GZIP
    writer.push_manifest(json.dumps(document).encode(), DOCKER_MANIFEST, tag=True)
    assert convert(f"oci:{tmp_path}/in:b", f"oci:{tmp_path}/out:b") == 0
    assert_shows(f"oci:{tmp_path}/out:b", stack(), tmp_path)


def test_archive_to_layout(tmp_path: Path) -> None:
    archive = tmp_path / "saved.tar"
    tars = stack()
    config = {
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers",
                   "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
    }  # fmt: skip
    names = [f"{number}/layer.tar" for number in range(len(tars))]
    files = dict(zip(names, tars, strict=True))
    files["config.json"] = json.dumps(config).encode()
    entry = {"Config": "config.json", "RepoTags": ["x:1"], "Layers": names}
    files["manifest.json"] = json.dumps([entry]).encode()
    with tarfile.open(archive, "w") as out:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    assert main(["convert", "--source-archive", str(archive),
                 "--target", f"oci:{tmp_path}/out"]) == 0  # fmt: skip
    assert_shows(f"oci:{tmp_path}/out", tars, tmp_path)


def test_layout_to_archive(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:a", stack())
    target = f"docker-archive:{tmp_path}/out.tar"
    assert convert(f"oci:{tmp_path}/in:a", target) == 0
    assert_shows(target, stack(), tmp_path)


def test_target_archive(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:a", stack())
    archive = tmp_path / "out.tar"
    for _ in range(2):  # the second time, an older archive is replaced
        assert main(["convert", "--source", f"oci:{tmp_path}/in:a",
                     "--target-archive", str(archive)]) == 0  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.tar"]
    assert_shows(f"docker-archive:{archive}", stack(), tmp_path)
    with tarfile.open(archive) as opened:
        assert {"manifest.json", "index.json", "oci-layout"} <= set(opened.getnames())


def test_layer_file(samples: Path, tmp_path: Path) -> None:
    source = samples / "alpine.estargz.tar.gz"
    assert convert(f"layer:{source}", f"oci:{tmp_path}/out") == 0
    assert_shows(f"oci:{tmp_path}/out", [gzip.decompress(source.read_bytes())], tmp_path)


def test_directory(tmp_path: Path) -> None:
    with as_overlayfs(stack()[:2], tmp_path) as merged:
        assert convert(f"dir:{merged}", f"oci:{tmp_path}/out") == 0
        expected = expected_tree(merged)
    pulled = tmp_path / "pulled"
    pulled.mkdir()
    found = pulled_tree(f"oci:{tmp_path}/out", pulled)
    # A name that overlayfs hides is no name of the directory that was converted.
    counted = {path: entry._replace(nlink=found[path].nlink) for path, entry in expected.items()}
    assert differences(counted, found) == []


@pytest.mark.erofs
@pytest.mark.parametrize("compressor", ["zstd", "lz4_block", "gzip", "none"])
def test_the_kernel_mounts_it(compressor: str, tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:a", stack())
    options = ("--compressor", compressor, "--fs-chunk-size", "64KiB", "--fs-version", "6")
    assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:b", *options) == 0
    bootstrap, blobs = pull(f"oci:{tmp_path}/out:b", tmp_path)
    image = open_bootstrap(bootstrap.read_bytes(), "test")
    devices = []
    for index, record in enumerate(image.blobs):
        devices.append(tmp_path / f"device{index}")
        decode_blob(image, index, blobs[record.blob_id], devices[-1])
    point = tmp_path / "mnt"
    point.mkdir()
    mount(bootstrap, point, "erofs", MS_RDONLY, ",".join(f"device={d}" for d in devices))
    try:
        found = with_least_names(scan(point))
    finally:
        umount(point, MNT_DETACH)
    with as_overlayfs(stack(), tmp_path) as merged:
        assert unlike(expected_tree(merged), found) == []


# --- what is published ---------------------------------------------------------------------


def test_manifest_and_config(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:a", stack(), annotations={"note": "kept"})
    report_file = tmp_path / "report.json"
    assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:b",
                   "--output-json", str(report_file)) == 0  # fmt: skip
    reader = open_reader(f"oci:{tmp_path}/out:b")
    image = reader.resolve(nydus=True)
    *blobs, bootstrap = image.manifest.layers
    assert len(blobs) == 2  # the third layer repeats content, the fourth has none
    assert {blob.media_type for blob in blobs} == {"application/vnd.oci.image.layer.nydus.blob.v1"}
    assert all(b.annotations == {"containerd.io/snapshot/nydus-blob": "true"} for b in blobs)
    hexes = [blob.digest.removeprefix("sha256:") for blob in blobs]
    tar = gzip.decompress(reader.read_blob(bootstrap, bootstrap.size))
    diff_id = f"sha256:{hashlib.sha256(tar).hexdigest()}"
    assert bootstrap.annotations == {
        "containerd.io/snapshot/nydus-bootstrap": "true",
        "containerd.io/snapshot/nydus-fs-version": "6",
        "containerd.io/uncompressed": diff_id,
        "containerd.io/snapshot/nydus-reference-blob-ids": json.dumps(hexes, separators=(",", ":")),
    }
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        found = [(member.name, member.mode, member.mtime) for member in archive]
    metas = [(f"image/{blob_id}.blob.meta", 0o444, 0) for blob_id in hexes]
    assert found == [("image", 0o755, 0), ("image/image.boot", 0o444, 0), *metas]
    document = image.config.document
    assert document["config"] == {"Env": ["A=b"], "Cmd": ["x"]}
    assert document["odd"] == {"kept": 1}
    assert document["rootfs"]["diff_ids"] == [*(blob.digest for blob in blobs), diff_id]
    filled = [entry for entry in document["history"] if not entry.get("empty_layer")]
    assert len(filled) == len(image.manifest.layers)
    assert image.manifest.annotations == {"note": "kept"}
    report = json.loads(report_file.read_text())
    assert report["target_digest"] == image.manifest.digest
    assert [layer["blob_size"] for layer in report["layers"]] == [b.size for b in blobs] + [0, 0]
    assert [layer["shared_chunks"] for layer in report["layers"]] == [0, 0, 1, 0]
    reader.close()


def test_blobs_of_which_nothing_is_left_are_not_published(tmp_path: Path) -> None:
    """The second of four layers is hidden whole, the third partly; the fourth hides them."""
    low = LayerTar().add("low", data=b"low")
    gone = LayerTar().directory("d").add("d/a", data=b"a" * 5000).add("d/b", data=b"b")
    half = LayerTar().add("d/c", data=b"c").add("kept", data=b"kept")
    top = LayerTar().add("d/.wh..wh..opq").add("new", data=b"new").link("again", "low")
    tars = [layer.tar() for layer in (low, gone, half, top)]
    publish(f"oci:{tmp_path}/in:a", tars)
    digests = []
    for number in range(2):
        target = f"oci:{tmp_path}/out{number}:b"
        report = tmp_path / "report.json"
        assert convert(f"oci:{tmp_path}/in:a", target, "--output-json", str(report)) == 0
        image = open_reader(target).resolve(nydus=True)
        digests.append(image.manifest.digest)
    assert digests[0] == digests[1]
    assert len(image.manifest.layers) == 4  # three blobs and the bootstrap
    filled = [entry for entry in image.config.document["history"] if not entry.get("empty_layer")]
    assert [entry["created_by"] for entry in filled[:3]] == ["step 0", "step 2", "step 3"]
    told = [bool(layer["blob_digest"]) for layer in json.loads(report.read_text())["layers"]]
    assert told == [True, False, True, True]
    assert_shows(target, tars, tmp_path)


def test_an_image_of_which_no_content_is_left(tmp_path: Path) -> None:
    tars = [LayerTar().add("a", data=b"a").tar(), LayerTar().add(".wh.a").directory("d").tar()]
    publish(f"oci:{tmp_path}/in:a", tars)
    assert convert(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:b") == 0
    assert len(open_reader(f"oci:{tmp_path}/out:b").resolve(nydus=True).manifest.layers) == 1
    assert_shows(f"oci:{tmp_path}/out:b", tars, tmp_path)


def test_prefetch_patterns(tmp_path: Path) -> None:
    (tmp_path / "l.tar").write_bytes(stack()[0])
    assert convert(f"layer:{tmp_path}/l.tar", f"oci:{tmp_path}/out",
                   "--prefetch-patterns", "/bin/large", "/usr", "/nothing") == 0  # fmt: skip
    bootstrap, _ = pull(f"oci:{tmp_path}/out", tmp_path)
    image = open_bootstrap(bootstrap.read_bytes(), "test")
    usr = image.lookup(image.root, b"usr")
    assert usr is not None
    binaries = image.lookup(usr, b"bin")
    assert binaries is not None
    assert list(image.prefetch) == [image.lookup(binaries, b"large"), usr]


def test_same_digests_whatever_the_threads_and_hash_seed(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:a", stack())
    found = set()
    for number, (threads, seed) in enumerate([("1", "0"), ("4", "1"), ("4", "2")]):
        target = f"oci:{tmp_path}/out{number}:b"
        command = [sys.executable, "-m", "nydusify.cli", "convert", "--source",
                   f"oci:{tmp_path}/in:a", "--target", target, "--threads", threads,
                   "--fs-chunk-size", "0x10000", "--work-dir", str(tmp_path / "work")]  # fmt: skip
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        found.add(open_reader(target).resolve(nydus=True).manifest.digest)
    assert len(found) == 1
    assert list((tmp_path / "work").iterdir()) == []
