"""`nydusify check`: says nothing of what is right, and finds whatever single bit is wrong."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fs.registry.store import open_reader
from nydusify.cli import main
from tests.nydusify.images import pull
from tests.parts.layers import LayerTar
from tests.parts.plain import write_plain_image
from tests.parts.registry import Registry
from tests.parts.stacks import alpine

PARTS = ("manifest", "config", "bootstrap", "blob")
FLIPS = 12


def digests_of(place: str) -> dict[str, str]:
    image = open_reader(place).resolve(nydus=True)
    blob, bootstrap = image.manifest.layers[0], image.manifest.layers[-1]
    found = (image.descriptor, image.manifest.config, bootstrap, blob)
    return dict(zip(PARTS, (each.digest for each in found), strict=True))


@contextmanager
def flipped(path: Path, rng: random.Random) -> Iterator[str]:
    """A file with one bit changed; yields where, for messages."""
    before = path.read_bytes()
    bit = rng.randrange(8 * len(before))
    content = bytearray(before)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    try:
        yield f"bit {bit} of {path.name[:12]}"
    finally:
        path.write_bytes(before)


def test_what_convert_made_is_right(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["check", "--source", f"oci:{images}:plain", "--target", f"oci:{images}:nydus"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"]
    assert told["rules"] == {"manifest": [], "bootstrap": [], "blobs": [], "filesystem": []}
    assert told["notes"] == []
    assert told["names"] == 23


@pytest.mark.samples
def test_alpine(samples: Path, tmp_path: Path) -> None:
    source, target = f"oci:{tmp_path}/i:p", f"oci:{tmp_path}/i:n"
    write_plain_image(source, alpine(samples))
    assert main(["convert", "--source", source, "--target", target]) == 0
    assert main(["check", "--source", source, "--target", target]) == 0
    # Two Nydus images of one tree, whatever their chunks.
    small = f"oci:{tmp_path}/i:s"
    words = ["convert", "--source", source, "--target", small, "--chunk-size", "0x10000"]
    assert main([*words, "--compressor", "lz4_block"]) == 0
    assert main(["check", "--source", target, "--target", small]) == 0


@pytest.mark.samples
@pytest.mark.parametrize("name", ["rafs-v6-2.2.boot", "rafs-v5-sha256.boot"])
def test_images_that_nydus_made(samples: Path, name: str) -> None:
    assert main(["check", "--bootstrap", str(samples / name), "-D", str(samples)]) == 0


@pytest.mark.parametrize("part", PARTS)
def test_any_bit_in_a_layout(part: str, images: Path, tmp_path: Path) -> None:
    layout = tmp_path / "copy"
    shutil.copytree(images, layout)
    digest = digests_of(f"oci:{layout}:nydus")[part]
    path = layout / "blobs" / digest.replace(":", "/")
    rng = random.Random(part)
    for _ in range(FLIPS):
        with flipped(path, rng) as where:
            assert main(["check", f"oci:{layout}:nydus"]) in (3, 4), where
    assert main(["check", f"oci:{layout}:nydus"]) == 0


def test_any_bit_of_a_layer_that_is_referred_to(images: Path, tmp_path: Path) -> None:
    """Of which files' contents are only a part: headers of tar and gzip are no chunks."""
    layout = tmp_path / "copy"
    shutil.copytree(images, layout)
    source, target = f"oci:{layout}:plain", f"oci:{layout}:ref"
    assert main(["convert", "--oci-ref", "--source", source, "--target", target]) == 0
    layers = open_reader(source).resolve().manifest.layers
    rng = random.Random(5)
    for number in range(FLIPS):
        layer = layout / "blobs" / layers[number % len(layers)].digest.replace(":", "/")
        with flipped(layer, rng) as where:
            assert main(["check", target]) in (3, 4), where
    assert main(["check", target]) == 0


@pytest.mark.registry
@pytest.mark.parametrize("part", PARTS)
def test_any_bit_that_a_registry_serves(part: str, images: Path, registry: Registry) -> None:
    """Whose disk is damaged: docker-registry sends what it has."""
    target = f"{registry.host}/check/{part}:nydus"
    source = f"oci:{images}:plain"
    assert main(["convert", "--source", source, "--target", target]) == 0
    algorithm, _, encoded = digests_of(target)[part].partition(":")
    stored = registry.storage / f"docker/registry/v2/blobs/{algorithm}/{encoded[:2]}/{encoded}/data"
    rng = random.Random(part)
    for _ in range(4):
        with flipped(stored, rng) as where:
            assert main(["check", target]) not in (0, 1), where
    assert main(["check", target, "--source", source]) == 0


@pytest.mark.parametrize("file", ["image.boot", "blob"])
def test_any_bit_without_a_manifest(file: str, images: Path, tmp_path: Path) -> None:
    """No digest seals a bare bootstrap: its meaning, or at least its form, is another then."""
    bootstrap, blobs = pull(f"oci:{images}:nydus", tmp_path)
    blob = next(iter(blobs.values()))
    words = ["check", "-B", str(bootstrap), "-D", str(tmp_path), "--source", f"oci:{images}:plain"]
    told = tmp_path / "told.json"
    words += ["--output-json", str(told)]
    assert main(words) == 0
    assert json.loads(told.read_text())["notes"] == []
    rng = random.Random(file)
    for _ in range(2 * FLIPS):
        with flipped(bootstrap if file == "image.boot" else blob, rng) as where:
            told.unlink(missing_ok=True)
            code = main(words)
            notes = json.loads(told.read_text())["notes"] if told.exists() else []
            assert code in (3, 4) or notes, where
            assert code in (3, 4) or file == "image.boot", where


CHANGES: dict[str, tuple[Callable[[LayerTar], LayerTar], str]] = {
    "content": (lambda tar: tar.add("usr/more", data=b"M" * 5000), "usr/more: other content"),
    "mode": (lambda tar: tar.add("empty", mode=0o600), "empty: mode 100644, in the source 100600"),
    "owner": (lambda tar: tar.add("empty", uid=5), "empty: uid 0, in the source 5"),
    "time": (lambda tar: tar.add("empty", mtime_ns=1), "empty: mtime"),
    "name": (lambda tar: tar.add("other"), "other: only in the source"),
    "gone": (lambda tar: tar.add(".wh.empty"), "empty: only in the target"),
    "type": (lambda tar: tar.symlink("empty", "x"), "empty: mode"),
    "xattr": (lambda tar: tar.add("empty", xattrs={b"user.a": b"1"}), "empty: xattrs"),
    "link": (lambda tar: tar.link("empty", "top"), "linked to other names"),
    "target": (lambda tar: tar.symlink("lnk", "else"), "lnk: "),
    "device": (lambda tar: tar.add("dev", b"3", device=(1, 5)), "dev: rdev"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_difference_from_the_source(
    change: str,
    stack: list[bytes],
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alter, line = CHANGES[change]
    write_plain_image(f"oci:{tmp_path}/i:other", [*stack, alter(LayerTar()).tar()])
    words = ["check", "--source", f"oci:{tmp_path}/i:other", "--target", f"oci:{images}:nydus"]
    assert main(words) == 4
    assert line in capsys.readouterr().out


def test_another_configuration(
    stack: list[bytes], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plain_image(f"oci:{tmp_path}/i:other", stack, {"Cmd": ["other"]})
    words = ["check", "--source", f"oci:{tmp_path}/i:other", "--target", f"oci:{images}:nydus"]
    assert main(words) == 4
    assert "configuration: Cmd" in capsys.readouterr().out


def test_what_cannot_be_checked(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", f"oci:{images}:plain"]) == 10
    assert main(["check"]) == 2
    assert main(["check", f"oci:{tmp_path}:nothing"]) == 4 + 1
    assert main(["check", f"oci:{images}:nydus", "--source", f"oci:{images}:no"]) == 5
    assert "source: " in capsys.readouterr().err
