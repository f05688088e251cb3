"""OCI layouts: ours read by others, others' read by us, damaged ones refused."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fs.format.errors import (
    Failure,
    FormatError,
    NotFoundError,
    StorageError,
    UsageError,
    VerifyError,
)
from fs.registry.descriptor import describe
from fs.registry.files import blob_path
from fs.registry.mediatypes import OCI_INDEX, OCI_LAYER
from fs.registry.platform import parse_platform
from fs.registry.store import ImageReader, open_reader, open_writer
from tests.registry.images import Sample, make_image, make_index, push_image

needs_skopeo = pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo not installed")
needs_umoci = pytest.mark.skipif(not shutil.which("umoci"), reason="umoci not installed")


@pytest.fixture
def layout(tmp_path: Path, sample: Sample) -> Path:
    writer = open_writer(f"oci:{tmp_path}/layout:v1")
    push_image(writer, sample)
    writer.close()
    return tmp_path / "layout"


def test_round_trip(layout: Path, sample: Sample) -> None:
    reader = open_reader(f"oci:{layout}:v1")
    image = reader.resolve()
    assert image.descriptor.digest == sample.descriptor.digest
    assert image.manifest.raw == sample.raw
    assert image.config.cmd == ["x"]
    assert reader.index() is None
    for layer in image.manifest.layers:
        with reader.open_blob(layer) as stream:
            assert stream.read() == sample.blobs[layer.digest]
        assert reader.read_blob(layer, 1 << 20) == sample.blobs[layer.digest]
        assert reader.read_range(layer, 3, 9) == sample.blobs[layer.digest][3:12]
        assert reader.read_range(layer.digest, 0, 0) == b""


@pytest.mark.parametrize("place", ["oci:{}", "oci:{}:v1", "oci:{}@{digest}"])
def test_names(layout: Path, sample: Sample, place: str) -> None:
    reader = open_reader(place.format(layout, digest=sample.descriptor.digest))
    assert reader.resolve().descriptor.digest == sample.descriptor.digest


def test_tags_are_kept_and_replaced(layout: Path) -> None:
    other, newer = make_image(b"other"), make_image(b"newer")
    push_image(open_writer(f"oci:{layout}:a/b:2"), other)
    push_image(open_writer(f"oci:{layout}:v1"), newer)
    assert open_reader(f"oci:{layout}:a/b:2").resolve().descriptor.digest == other.descriptor.digest
    assert open_reader(f"oci:{layout}:v1").resolve().descriptor.digest == newer.descriptor.digest
    with pytest.raises(UsageError, match="say which image; there are: a/b:2, v1"):
        open_reader(f"oci:{layout}").resolve()
    with pytest.raises(NotFoundError, match="there are: a/b:2, v1"):
        open_reader(f"oci:{layout}:v2").resolve()


def test_the_unnamed_image_is_one(tmp_path: Path) -> None:
    first, second = make_image(b"1"), make_image(b"2")
    push_image(open_writer(f"oci:{tmp_path}"), first)
    push_image(open_writer(f"oci:{tmp_path}"), second)
    assert open_reader(f"oci:{tmp_path}").resolve().descriptor.digest == second.descriptor.digest


def test_index_of_platforms(tmp_path: Path) -> None:
    arm, amd = parse_platform("linux/arm64"), parse_platform("linux/amd64")
    samples = [make_image(b"a", platform=arm), make_image(b"b", platform=amd)]
    writer = open_writer(f"oci:{tmp_path}:multi")
    for one in samples:
        push_image(writer, one, tag=False)
    assert not (tmp_path / "index.json").exists()
    raw = make_index((samples[0], arm), (samples[1], amd))
    writer.push_manifest(raw, OCI_INDEX, tag=True)
    reader = open_reader(f"oci:{tmp_path}:multi")
    index = reader.index()
    assert index
    assert index.raw == raw
    assert reader.resolve(arm).descriptor.digest == samples[0].descriptor.digest
    assert reader.resolve(amd).descriptor.digest == samples[1].descriptor.digest
    with pytest.raises(NotFoundError, match="no image for linux/s390x"):
        reader.resolve(parse_platform("linux/s390x"))


def test_asked_platform_must_be_the_images(layout: Path) -> None:
    with pytest.raises(NotFoundError, match="not for linux/s390x"):
        open_reader(f"oci:{layout}:v1").resolve(parse_platform("linux/s390x"))


def _read_everything(reader: ImageReader) -> None:
    for layer in reader.resolve().manifest.layers:
        with reader.open_blob(layer) as stream:
            stream.read()


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (Path.unlink, NotFoundError),
        (_truncate, VerifyError),
        (_flip, VerifyError),
        (_fifo, StorageError),
    ],
)
@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
def test_damage(
    layout: Path,
    sample: Sample,
    part: str,
    damage: Callable[[Path], None],
    error: type[Failure],
) -> None:
    target = {
        "manifest": sample.descriptor,
        "config": sample.config,
        "layer": sample.layers[0],
    }[part]
    damage(layout / blob_path(target.digest))
    reader = open_reader(f"oci:{layout}:v1")
    with pytest.raises(error, match=target.digest.removeprefix("sha256:")):
        _read_everything(reader)
    with pytest.raises(error):
        reader.read_blob(target, 1 << 20)


def test_range_past_the_end(layout: Path, sample: Sample) -> None:
    with pytest.raises(VerifyError, match="ends before"):
        open_reader(f"oci:{layout}:v1").read_range(sample.layers[0], sample.layers[0].size, 1)


def test_large_document_is_not_read(layout: Path, sample: Sample) -> None:
    with pytest.raises(FormatError, match="at most 10"):
        open_reader(f"oci:{layout}:v1").read_blob(sample.layers[0], 10)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("oci-layout", "{}", "layout version None"),
        ("oci-layout", '{"imageLayoutVersion":"2.0.0"}', "2.0.0"),
        ("index.json", "{", "not JSON"),
        ("index.json", '{"schemaVersion":2,"manifests":[]}', "holds no image"),
        ("index.json", '{"schemaVersion":2,"manifests":[{"digest":"../x"}]}', "descriptor"),
    ],
)
def test_broken_layout(layout: Path, file: str, content: str, says: str) -> None:
    (layout / file).write_text(content)
    with pytest.raises(Failure, match=says):
        open_reader(f"oci:{layout}").resolve()


def test_no_layout(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such directory"):
        open_reader(f"oci:{tmp_path}/absent")
    with pytest.raises(NotFoundError, match="oci-layout"):
        open_reader(f"oci:{tmp_path}").resolve()
    (tmp_path / "precious").touch()
    writer = open_writer(f"oci:{tmp_path}:v1")
    with pytest.raises(UsageError, match="not empty and no OCI layout"):
        writer.check()
    with pytest.raises(UsageError, match="not empty and no OCI layout"):
        writer.push_blob(describe(b"x", OCI_LAYER), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    with pytest.raises(UsageError, match="lacks a path"):
        open_reader("oci:")


@pytest.mark.parametrize("place", ["dir:/rootfs", "layer:/layer.tar"])
def test_sources_that_are_no_images(place: str) -> None:
    with pytest.raises(UsageError, match="only a source of nydusify convert"):
        open_reader(place)
    with pytest.raises(UsageError, match="only a source of nydusify convert"):
        open_writer(place)
    assert open_reader(f"docker://{place.partition(':')[0]}:tag").name


def test_a_wrong_body_leaves_nothing(layout: Path) -> None:
    before = sorted(layout.rglob("*"))
    writer = open_writer(f"oci:{layout}:v1")
    descriptor = describe(b"promised", OCI_LAYER)
    for body in (b"delivered", b"promise", b"promised more"):
        with pytest.raises(VerifyError):
            writer.push_blob(descriptor, body)
        assert not writer.has_blob(descriptor)
    assert sorted(layout.rglob("*")) == before


@pytest.mark.root
def test_full_disk_publishes_nothing(tmp_path: Path, sample: Sample) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "t", tmp_path], check=True)
    try:
        writer = open_writer(f"oci:{tmp_path}/l:v1")
        body = os.urandom(1 << 20)
        with pytest.raises(StorageError, match="No space left"):
            writer.push_blob(describe(body, OCI_LAYER), body)
        assert [path.name for path in (tmp_path / "l").rglob("*") if path.is_file()] == [
            "oci-layout"
        ]
        push_image(writer, sample)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_concurrent_writers_keep_each_others_tags(tmp_path: Path) -> None:
    def write(i: int) -> None:
        push_image(open_writer(f"oci:{tmp_path}:tag{i}"), make_image(b"%d" % i))

    open_writer(f"oci:{tmp_path}:x")
    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        assert open_reader(f"oci:{tmp_path}:tag{i}").resolve()
    assert not list(tmp_path.glob(".tmp-*"))


def test_files_can_be_read_by_others(layout: Path) -> None:
    for path in layout.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) in (0o644, 0o755)


@needs_skopeo
def test_skopeo_reads_ours_and_we_its(layout: Path, tmp_path: Path, sample: Sample) -> None:
    copy = tmp_path / "copy"
    for target in (f"oci:{copy}:q.io/a:b", f"oci-archive:{copy}.tar:v3"):
        subprocess.run(
            ["skopeo", "copy", "-q", "--insecure-policy", f"oci:{layout}:v1", target], check=True
        )
        reader = open_reader(target)
        image = reader.resolve()
        assert image.config.cmd == ["x"]
        for layer in image.manifest.layers:
            assert reader.read_blob(layer, 1 << 20) == sample.blobs[layer.digest]
        reader.close()


@needs_umoci
def test_umoci_reads_ours_and_adds_to_it(layout: Path, tmp_path: Path) -> None:
    image, made = f"{layout}:v1", f"{layout}:v2"
    bundle = tmp_path / "bundle"
    subprocess.run(["umoci", "config", "--image", image, "--tag", "v2"], check=True)
    subprocess.run(["umoci", "unpack", "--rootless", "--image", made, bundle], check=True)
    assert (bundle / "rootfs/file1").read_bytes() == b"upper"
    (bundle / "rootfs/new").write_text("new")
    subprocess.run(["umoci", "repack", "--image", made, bundle], check=True)
    reader = open_reader(f"oci:{made}")
    resolved = reader.resolve()
    assert len(resolved.manifest.layers) == 3
    assert reader.read_blob(resolved.manifest.layers[-1], 1 << 20)


@needs_umoci
def test_umocis_own_images_have_no_media_type(tmp_path: Path) -> None:
    layout, bundle = tmp_path / "umoci", tmp_path / "bundle"
    subprocess.run(["umoci", "init", "--layout", layout], check=True)
    subprocess.run(["umoci", "new", "--image", f"{layout}:a"], check=True)
    subprocess.run(["umoci", "unpack", "--rootless", "--image", f"{layout}:a", bundle], check=True)
    (bundle / "rootfs/new").write_text("new")
    subprocess.run(["umoci", "repack", "--image", f"{layout}:a", bundle], check=True)
    image = open_reader(f"oci:{layout}:a").resolve()
    assert "mediaType" not in json.loads(image.manifest.raw)
    assert len(image.manifest.layers) == len(image.config.diff_ids) == 1
    push_image(open_writer(f"oci:{layout}:b"), make_image(b"x"))
    listed = subprocess.run(["umoci", "ls", "--layout", layout], check=True, capture_output=True)
    assert listed.stdout.split() == [b"a", b"b"]


def test_a_path_alone_names_no_image(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="/nowhere: no such file"):
        open_reader(f"{tmp_path}/nowhere")
    with pytest.raises(NotFoundError, match=f"{tmp_path}: a directory; is it oci:DIR?"):
        open_reader(str(tmp_path))
