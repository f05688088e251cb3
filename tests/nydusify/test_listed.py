"""Layers that are referred to by their tables of contents, as podman's tools make them."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from fs.registry.descriptor import describe
from fs.registry.manifest import Manifest
from fs.registry.mediatypes import OCI_CONFIG, OCI_LAYER_ZSTD, OCI_MANIFEST
from fs.registry.store import open_reader, open_writer
from nydusify.cli import main
from tests.kinds.mounted import served
from tests.nydusify.test_convert import publish
from tests.parts.layers import LayerTar, expected_tree, overlay_of, unlike, with_least_names
from tests.parts.trees import scan

pytestmark = [pytest.mark.oci_tools, pytest.mark.root, pytest.mark.overlay, pytest.mark.fuse]

FORMAT, VERIFY = 3, 4
CHUNKED = "io.containers.zstd-chunked."
Item = dict[str, Any]


def tar() -> bytes:
    """Files that podman cuts by their content, one larger than our chunks; and holes in one."""
    noise = random.Random(1).randbytes(2_880_000)
    layer = LayerTar().directory("d").add("d/large", data=noise, mode=0o640, uid=7)
    layer.add("d/holes", data=b"x" * 5000 + bytes(300_000) + b"y" * 5000)
    layer.add("d/.wh.gone").symlink("link", "d/large").link("again", "d/holes")
    for number in range(20):
        layer.add(f"d/f{number}", data=b"%d" % number * (number * 7))
    return layer.add("p", b"6").add("tty", b"3", mode=0o620).tar()


@pytest.fixture(scope="module")
def chunked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with one zstd:chunked layer."""
    root = tmp_path_factory.mktemp("chunked")
    publish(f"oci:{root}/in:a", [tar()])
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-compress",
         "--dest-compress-format", "zstd:chunked", f"oci:{root}/in:a", f"oci:{root}/out:a"],
        check=True,
    )  # fmt: skip
    return f"oci:{root}/out:a"


def refer(source: str, target: str) -> int:
    return main(["convert", "--oci-ref", "--source", source, "--target", target])


def manifest_of(place: str) -> Manifest:
    return open_reader(place).resolve().manifest


def changed(place: str, target: str, change: Callable[[list[Item]], object]) -> None:
    """The image with another table of contents, to which its manifest holds."""
    reader, writer = open_reader(place), open_writer(target)
    (layer,) = manifest_of(place).layers
    stored = reader.read_blob(layer, layer.size)
    start, size, *_ = map(int, layer.annotations[f"{CHUNKED}manifest-position"].split(":"))
    decoder = zstandard.ZstdDecompressor().decompressobj()
    table = json.loads(decoder.decompress(stored[start : start + size]))
    change(table["entries"])
    raw = json.dumps(table).encode()
    frame = zstandard.compress(raw)
    stored += b"\x50\x2a\x4d\x18" + len(frame).to_bytes(4, "little") + frame
    (diff_id,) = reader.resolve().config.diff_ids
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [diff_id]}}).encode()
    described = describe(stored, OCI_LAYER_ZSTD).to_json()
    described["annotations"] = {
        f"{CHUNKED}manifest-checksum": f"sha256:{hashlib.sha256(frame).hexdigest()}",
        f"{CHUNKED}manifest-position": f"{len(stored) - len(frame)}:{len(frame)}:{len(raw)}:1",
    }
    writer.push_blob(describe(stored, OCI_LAYER_ZSTD), stored)
    writer.push_blob(describe(config, OCI_CONFIG), config)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": describe(config, OCI_CONFIG).to_json(),
        "layers": [described],
    }
    writer.push_manifest(json.dumps(document).encode(), OCI_MANIFEST, tag=True)


def first_file(entries: list[Item]) -> Item:
    return next(entry for entry in entries if entry["type"] == "reg" and entry.get("size"))


def assert_shows(place: str, work: Path) -> None:
    with overlay_of([tar()], work) as merged:
        expected = expected_tree(merged)
    with served(place, None, work, "fuse") as mounted:
        assert unlike(expected, with_least_names(scan(mounted))) == []


def test_a_digest_that_is_not_right(chunked: str, tmp_path: Path) -> None:
    def change(entries: list[Item]) -> None:
        for entry in entries:
            entry["chunkDigest"] = "sha256:" + "0" * 64

    changed(chunked, f"oci:{tmp_path}/in:a", change)
    assert refer(f"oci:{tmp_path}/in:a", f"oci:{tmp_path}/out:1") == VERIFY


def test_a_layer_of_podman(chunked: str, tmp_path: Path) -> None:
    assert refer(chunked, f"oci:{tmp_path}/out:1") == 0
    assert_shows(f"oci:{tmp_path}/out:1", tmp_path)


def test_a_table_of_little_use_is_not_used(chunked: str, tmp_path: Path) -> None:
    """Neither names that were no UTF-8 nor contents without a digest are believed."""

    def lose_a_digest(entries: list[Item]) -> None:
        first = first_file(entries)
        first.pop("digest", None)
        first.pop("chunkDigest", None)

    def lose_a_name(entries: list[Item]) -> None:
        entries[-1]["name"] = "\ufffd"

    for number, change in enumerate((lose_a_digest, lose_a_name)):
        place = f"oci:{tmp_path}/in:{number}"
        changed(chunked, place, change)
        assert refer(place, f"oci:{tmp_path}/out:{number}") == 0
    assert_shows(f"oci:{tmp_path}/out:0", tmp_path)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        (FORMAT, lambda file: file.update(chunkSize=1 << 50)),
        (FORMAT, lambda file: file.update(offset=1 << 40)),
        (FORMAT, lambda file: file.update(offset=-1)),
        (FORMAT, lambda file: file.update(size=file["size"] + 1, chunkSize=file["size"])),
        (FORMAT, lambda file: file.update(type="what")),
        (FORMAT, lambda file: file.update(modtime="yesterday")),
        (FORMAT, lambda file: file.update(xattrs={"a": "no base64"})),
        (FORMAT, lambda file: file.update(name="../" * 3)),
        (FORMAT, lambda file: file.update(chunkDigest="sha256:ab")),
    ],
)
def test_a_table_that_is_not_right(
    chunked: str,
    code: int,
    change: Callable[[Item], object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = f"oci:{tmp_path}/in:a"
    changed(chunked, place, lambda entries: change(first_file(entries)))
    assert refer(place, f"oci:{tmp_path}/out:1") == code
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out/index.json").exists()
