"""`convert --oci-ref`: layers stay as they are, and are read where they are."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from fs.format.blobtable import BlobFeature
from fs.image.tree import map_bootstrap
from fs.registry.manifest import NYDUS_REFERENCE_ANNOTATION
from fs.registry.mediatypes import NYDUS_BLOB
from fs.registry.store import open_reader
from nydusify.cli import main
from tests.kinds.mounted import DRIVERS, served
from tests.nydusify.images import pull
from tests.nydusify.test_convert import ENCODINGS, as_overlayfs, convert, publish, stack
from tests.parts.layers import LayerTar, expected_tree, unlike, with_least_names
from tests.parts.registry import Registry
from tests.parts.trees import scan

pytestmark = [pytest.mark.root, pytest.mark.overlay, pytest.mark.fuse]

USAGE, FORMAT, VERIFY = 2, 3, 4


def in_members(tar: bytes) -> bytes:
    """gzip in several members of odd lengths, as eStargz and pigz --independent have them."""
    return b"".join(gzip.compress(tar[at : at + 300_001]) for at in range(0, len(tar), 300_001))


def in_frames(tar: bytes) -> bytes:
    """zstd in frames, a skippable one at the end: the seekable format."""
    frames = [zstandard.compress(tar[at : at + 200_003]) for at in range(0, len(tar), 200_003)]
    table = b"\x5e\x2a\x4d\x18" + (9).to_bytes(4, "little") + bytes(9)
    return b"".join(frames) + table


STORED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    **ENCODINGS,
    "gzip members": (ENCODINGS["gzip"][0], in_members),
    "zstd frames": (ENCODINGS["zstd"][0], in_frames),
}


def refer(source: str, target: str, *more: str) -> int:
    return convert(source, target, "--oci-ref", *more)


@pytest.mark.registry
@pytest.mark.parametrize("driver", DRIVERS)
def test_layers_are_read_in_the_registry(registry: Registry, tmp_path: Path, driver: str) -> None:
    source, target = f"{registry.host}/refer/{driver}:1", f"{registry.host}/refer/to-{driver}:1"
    publish(source, stack())
    assert refer(source, target) == 0
    options = {"plain_http": True}
    with as_overlayfs(stack(), tmp_path) as merged:
        expected = expected_tree(merged)
    for _ in range(2):  # cold, then from the cache
        with served(target, None, tmp_path, driver, **options) as place:
            assert unlike(expected, with_least_names(scan(place))) == []


@pytest.mark.parametrize("kind", STORED)
def test_every_encoding(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODINGS, "this", STORED[kind])
    source, target = f"oci:{tmp_path}/in:1", f"oci:{tmp_path}/out:1"
    publish(source, stack(), encoding="this")
    assert refer(source, target) == 0
    with as_overlayfs(stack(), tmp_path) as merged:
        expected = expected_tree(merged)
    with served(target, None, tmp_path, "fuse") as place:
        assert unlike(expected, with_least_names(scan(place))) == []
    assert main(["check", "--source", source, "--target", target]) == 0


def test_only_metadata_is_made_and_names_the_layers(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:1", stack())
    assert refer(f"oci:{tmp_path}/in:1", f"oci:{tmp_path}/out:1") == 0
    original = open_reader(f"oci:{tmp_path}/in:1").resolve().manifest
    made = open_reader(f"oci:{tmp_path}/out:1").resolve(nydus=True)
    *metadata, bootstrap = made.manifest.layers
    referred = [layer.annotations[NYDUS_REFERENCE_ANNOTATION] for layer in metadata]
    assert referred == [layer.digest for layer in original.layers[:2]]  # the others bring nothing
    assert {layer.media_type for layer in metadata} == {NYDUS_BLOB}
    assert made.config.diff_ids[:-1] == [layer.digest for layer in metadata]
    assert made.config.document["config"] == {"Env": ["A=b"], "Cmd": ["x"]}
    sizes = [layer.size for layer in (*metadata, bootstrap)]
    assert sum(sizes) < sum(layer.size for layer in original.layers) / 10
    path, _ = pull(f"oci:{tmp_path}/out:1", tmp_path)
    records = map_bootstrap(str(path)).blobs
    assert [f"sha256:{record.blob_id}" for record in records] == referred
    assert all(record.features & BlobFeature.ZRAN for record in records)


def test_same_digests_each_time(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:1", stack())
    for number in (1, 2):
        target = f"oci:{tmp_path}/out-{number}:1"
        assert refer(f"oci:{tmp_path}/in:1", target, "--threads", str(number)) == 0
    first, second = (open_reader(f"oci:{tmp_path}/out-{n}:1").resolve(nydus=True) for n in (1, 2))
    assert first.descriptor.digest == second.descriptor.digest


def test_a_copy_has_the_layers_too(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:1", stack())
    assert refer(f"oci:{tmp_path}/in:1", f"oci:{tmp_path}/out:1") == 0
    places = ["--source", f"oci:{tmp_path}/out:1", "--target", f"oci:{tmp_path}/copy:1"]
    assert main(["copy", *places]) == 0
    assert main(["check", "--target", f"oci:{tmp_path}/copy:1"]) == 0


def test_a_changed_layer_is_never_served(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:1", stack()[:1])
    assert refer(f"oci:{tmp_path}/in:1", f"oci:{tmp_path}/out:1") == 0
    (layer,) = open_reader(f"oci:{tmp_path}/in:1").resolve().manifest.layers
    path = tmp_path / "out/blobs/sha256" / layer.digest.removeprefix("sha256:")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.chmod(0o644)
    path.write_bytes(content)
    with served(f"oci:{tmp_path}/out:1", None, tmp_path, "fuse") as place:
        with pytest.raises(OSError, match="Input/output"):
            (place / "usr/bin/large").read_bytes()
        assert (place / "usr/f49").read_bytes() == b"49" * 49
    assert main(["check", "--target", f"oci:{tmp_path}/out:1"]) == VERIFY


def test_a_layer_that_cannot_be_entered_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = LayerTar().add("large", data=os.urandom(1 << 20) * 20).tar()
    publish(f"oci:{tmp_path}/in:1", [tar], encoding="zstd")
    assert refer(f"oci:{tmp_path}/in:1", f"oci:{tmp_path}/out:1") == FORMAT
    assert "convert it instead" in capsys.readouterr().err
    assert not (tmp_path / "out/index.json").exists()


def test_a_wrong_diff_id_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = "sha256:" + hashlib.sha256(b"other").hexdigest()
    config = {"rootfs": {"type": "layers", "diff_ids": [wrong]}}
    publish(f"oci:{tmp_path}/in:1", stack()[:1], config=config)
    assert refer(f"oci:{tmp_path}/in:1", f"oci:{tmp_path}/out:1") == VERIFY
    assert wrong in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--chunk-size", "8MiB"], "at most 4 MiB"),
        (["--chunk-dict", "oci:{}/in:1"], "stores no chunks"),
        (["--backend-type", "localfs", "--backend-config", '{"dir": "blobs"}'], "no other backend"),
    ],
)
def test_options_that_do_not_go_with_it(
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    publish(f"oci:{tmp_path}/in:1", stack()[:1])
    (tmp_path / "blobs").mkdir()
    given = [option.replace("{}", str(tmp_path)) for option in options]
    assert refer(f"oci:{tmp_path}/in:1", f"oci:{tmp_path}/out:1", *given) == USAGE
    assert said in capsys.readouterr().err


def test_what_is_no_image_cannot_be_referred_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refer(f"dir:{tmp_path}", f"oci:{tmp_path}/out:1") == USAGE
    assert "no image" in capsys.readouterr().err


def test_report_says_what_was_made(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:1", stack()[:2])
    output = tmp_path / "report.json"
    assert refer(f"oci:{tmp_path}/in:1", f"oci:{tmp_path}/out:1", "--output-json", str(output)) == 0
    report = json.loads(output.read_text())
    layers = open_reader(f"oci:{tmp_path}/out:1").resolve(nydus=True).manifest.layers
    assert [layer["blob_digest"] for layer in report["layers"]] == [
        layer.digest for layer in layers[:-1]
    ]
    assert report["target_size"] < report["source_size"] / 5


def test_a_start_up_set_goes_with_references(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:1", stack())
    assert refer(f"oci:{tmp_path}/in:1", f"oci:{tmp_path}/out:1") == 0
    wanted = tmp_path / "wanted"
    wanted.write_text("/usr/f20\n/usr/f8\n")
    places = ["--source", f"oci:{tmp_path}/out:1", "--target", f"oci:{tmp_path}/fast:1"]
    assert main(["optimize", *places, "--prefetch-files", str(wanted)]) == 0
    for place in ("out", "fast"):
        assert main(["check", "--target", f"oci:{tmp_path}/{place}:1"]) == 0
