"""`nydusify check`: says nothing of what is right, and finds whatever single bit is wrong."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fs.format.blobtable import BLOB_SIZE, BlobFeature
from fs.format.erofs import SUPERBLOCK_OFFSET
from fs.format.errors import Failure
from fs.format.rafs6 import EXTENDED_OFFSET, SuperFlag
from fs.format.versions import open_bootstrap
from fs.registry.store import open_reader
from nydusify.checks.bootstrap import check_bootstrap
from nydusify.checks.checking import check
from nydusify.checks.findings import Findings
from nydusify.cli import main
from nydusify.images.opened import ImagePlace
from nydusify.report import Silence
from tests.nydusify.images import pull
from tests.parts.layers import LayerTar
from tests.parts.plain import write_plain_image
from tests.parts.registry import Registry
from tests.parts.stacks import alpine

#: Of the first blob's record in our bootstraps, the bits of its digester and features.
FEATURES = range(8 * (4096 + 80), 8 * (4096 + 88))
#: Bits that nobody misses who only reads files: a flag of the superblock; of the first blob's
#: record the sizes of its table of contents and chunk information, and its metadata's own blob; of
#: the first chunk's record the flags, the place of what lies in a batch, and the checksum.
RECORD, CHUNK = 4096, 16384
#: What Nydus's builders say in the superblock, and nydusify does not.
ENCRYPTION_NONE = 8 * EXTENDED_OFFSET + SuperFlag.ENCRYPTION_NONE.bit_length() - 1
ASIDE = [
    ENCRYPTION_NONE,
    *range(8 * (RECORD + 104), 8 * (RECORD + 108)),
    *range(8 * (RECORD + 120), 8 * (RECORD + 128)),
    *range(8 * (RECORD + 168), 8 * (RECORD + 208), 9),
    *range(8 * (CHUNK + 36), 8 * (CHUNK + 44), 5),
    *range(8 * (CHUNK + 48), 8 * (CHUNK + 56), 5),
    *range(8 * (CHUNK + 76), 8 * (CHUNK + 80), 5),
]
PARTS = ("manifest", "config", "bootstrap", "blob")
#: In how many parts of a file a bit is changed.
REGIONS = 16


def digests_of(place: str) -> dict[str, str]:
    image = open_reader(place).resolve(nydus=True)
    blob, bootstrap = image.manifest.layers[0], image.manifest.layers[-1]
    found = (image.descriptor, image.manifest.config, bootstrap, blob)
    return dict(zip(PARTS, (each.digest for each in found), strict=True))


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[str]:
    """A file with this bit changed; yields where, for messages."""
    before = path.read_bytes()
    content = bytearray(before)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    try:
        yield f"bit {bit} of {path.name[:12]}"
    finally:
        path.write_bytes(before)


def bits_of(path: Path, regions: int | None = None) -> Iterator[int]:
    """One bit, by chance, of each of so many equal parts of the file, or of every byte."""
    size = path.stat().st_size
    count = min(regions or size, size)
    rng = random.Random(path.name)
    for number in range(count):
        yield rng.randrange(8 * (number * size // count), 8 * ((number + 1) * size // count))


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
    for bit in bits_of(path, REGIONS):
        with flipped(path, bit) as where:
            assert main(["check", f"oci:{layout}:nydus"]) in (3, 4), where
    assert main(["check", f"oci:{layout}:nydus"]) == 0


def test_any_bit_of_a_layer_that_is_referred_to(images: Path, tmp_path: Path) -> None:
    """Of which files' contents are only a part: headers of tar and gzip are no chunks."""
    layout = tmp_path / "copy"
    shutil.copytree(images, layout)
    source, target = f"oci:{layout}:plain", f"oci:{layout}:ref"
    assert main(["convert", "--oci-ref", "--source", source, "--target", target]) == 0
    layers = open_reader(source).resolve().manifest.layers
    for layer in layers:
        stored = layout / "blobs" / layer.digest.replace(":", "/")
        for bit in bits_of(stored, REGIONS):
            with flipped(stored, bit) as where:
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
    for bit in bits_of(stored, 4):
        with flipped(stored, bit) as where:
            assert main(["check", target]) not in (0, 1), where
    assert main(["check", target, "--source", source]) == 0


@pytest.mark.parametrize("file", ["image.boot", "blob"])
def test_any_bit_without_a_manifest(file: str, images: Path, tmp_path: Path) -> None:
    """No manifest has a digest of a bare bootstrap: it has one itself."""
    bootstrap, blobs = pull(f"oci:{images}:nydus", tmp_path)
    blob = next(iter(blobs.values()))
    words = ["check", "-B", str(bootstrap), "-D", str(tmp_path), "--source", f"oci:{images}:plain"]
    told = tmp_path / "told.json"
    words += ["--output-json", str(told)]
    assert main(words) == 0
    assert json.loads(told.read_text())["notes"] == []
    damaged = bootstrap if file == "image.boot" else blob
    for bit in bits_of(damaged, 2 * REGIONS):
        with flipped(damaged, bit) as where:
            told.unlink(missing_ok=True)
            code = main(words)
            notes = json.loads(told.read_text())["notes"] if told.exists() else []
            assert code in (3, 4) or notes, where
            assert code in (3, 4) or file == "image.boot", where


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout in which `plain` and `nydus` are so small that every byte can be tried."""
    layout = tmp_path_factory.mktemp("small") / "images"
    tar = LayerTar().add("a", data=b"small" * 20).add("dir/b", data=bytes(range(200)))
    write_plain_image(f"oci:{layout}:plain", [tar.symlink("l", "a").tar()])
    words = ["convert", "--source", f"oci:{layout}:plain", "--target", f"oci:{layout}:nydus"]
    assert main(words) == 0
    return layout


@pytest.mark.scale
@pytest.mark.parametrize("part", PARTS)
def test_every_byte(part: str, small: Path) -> None:
    digest = digests_of(f"oci:{small}:nydus")[part]
    path = small / "blobs" / digest.replace(":", "/")
    image = ImagePlace(f"oci:{small}:nydus")
    for bit in bits_of(path, None if part != "blob" else 1000):
        with flipped(path, bit) as where:
            assert is_found(image, None), where
    assert not is_found(image, None)


@pytest.mark.scale
def test_every_byte_of_a_blob_without_a_manifest(small: Path, tmp_path: Path) -> None:
    bootstrap, blobs = pull(f"oci:{small}:nydus", tmp_path)
    (blob,) = blobs.values()
    assert_all_found(bits_of(blob), blob, bootstrap, small)


@pytest.mark.scale
def test_every_byte_of_a_bootstrap_without_a_manifest(small: Path, tmp_path: Path) -> None:
    bootstrap, _ = pull(f"oci:{small}:nydus", tmp_path)
    assert_all_found(bits_of(bootstrap), bootstrap, bootstrap, small)


@pytest.fixture(scope="module")
def started(stack: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with `plain`, and as `nydus` what convert made with a start-up blob, and a list."""
    layout = tmp_path_factory.mktemp("started") / "images"
    write_plain_image(f"oci:{layout}:plain", stack)
    words = ["convert", "--source", f"oci:{layout}:plain", "--target", f"oci:{layout}:nydus"]
    words += ["--startup", "blob", "--prefetch-patterns", "/top", "/usr/more"]
    assert main([*words, "--chunk-size", "0x10000"]) == 0
    return layout


def test_any_bit_of_what_is_said_of_a_layer_that_is_referred_to(
    images: Path, tmp_path: Path
) -> None:
    layout = tmp_path / "copy"
    shutil.copytree(images, layout)
    words = ["convert", "--oci-ref", "--source", f"oci:{layout}:plain"]
    assert main([*words, "--target", f"oci:{layout}:ref"]) == 0
    places = tmp_path / "blobs"
    shutil.copytree(layout / "blobs/sha256", places)
    bootstrap, _ = pull(f"oci:{layout}:ref", places)
    record = range(8 * (RECORD + 76), 8 * (RECORD + 216), 5)
    hint = 8 * (RECORD + 84) + BlobFeature.STARTUP.bit_length() - 1
    assert_all_found([*record, hint, ENCRYPTION_NONE], bootstrap, bootstrap, layout)


def test_any_bit_of_a_bootstrap_with_a_startup_blob(started: Path, tmp_path: Path) -> None:
    bootstrap, blobs = pull(f"oci:{started}:nydus", tmp_path)
    startup = 8 * (RECORD + 84) + BlobFeature.STARTUP.bit_length() - 1
    marks = [startup + 8 * BLOB_SIZE * index for index in range(len(blobs))]
    assert len(marks) == 3
    bits = [ENCRYPTION_NONE, *marks, *bits_of(bootstrap, 2 * REGIONS)]
    assert_all_found(bits, bootstrap, bootstrap, started)


@pytest.mark.scale
def test_every_byte_of_a_bootstrap_with_a_startup_blob(started: Path, tmp_path: Path) -> None:
    """And every bit of its superblock and tables."""
    bootstrap, blobs = pull(f"oci:{started}:nydus", tmp_path)
    tables = range(8 * RECORD, 8 * (RECORD + BLOB_SIZE * len(blobs) + 8))
    headers = range(8 * SUPERBLOCK_OFFSET, 8 * (EXTENDED_OFFSET + 92))
    bits = [*tables, *headers, *bits_of(bootstrap)]
    assert_all_found(bits, bootstrap, bootstrap, started)


@pytest.mark.scale
def test_every_byte_of_what_a_blob_says_of_itself(started: Path, tmp_path: Path) -> None:
    bootstrap, blobs = pull(f"oci:{started}:nydus", tmp_path)
    with closing(open_bootstrap(bootstrap.read_bytes(), "")) as image:
        blob = blobs[image.blobs[1].blob_id]
        end = 8 * image.blobs[1].ci_offset
    bits = (bit for bit in bits_of(blob) if bit >= end)
    assert_all_found(bits, blob, bootstrap, started)


def test_every_bit_that_says_what_a_blob_is(small: Path, tmp_path: Path) -> None:
    bootstrap, _ = pull(f"oci:{small}:nydus", tmp_path)
    assert_all_found([*FEATURES, *ASIDE], bootstrap, bootstrap, small)


@pytest.mark.parametrize("at", [RECORD + 125, RECORD + 127])
def test_absurd_sizes_are_one_line(
    at: int, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of chunk information as long as memory, or longer than any blob."""
    bootstrap, _ = pull(f"oci:{small}:nydus", tmp_path)
    with flipped(bootstrap, 8 * at):
        assert main(["check", "-B", str(bootstrap), "-D", str(tmp_path)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "chunk information" in line


def assert_all_found(bits: Iterable[int], damaged: Path, bootstrap: Path, layout: Path) -> None:
    image = ImagePlace(str(bootstrap), blob_dir=str(bootstrap.parent))
    source = ImagePlace(f"oci:{layout}:plain")
    assert not is_found(image, source)
    for bit in bits:
        with flipped(damaged, bit) as where:
            assert is_seen_in(bootstrap) or is_found(image, source), where


def is_seen_in(path: Path) -> bool:
    """Whether what `check` looks at first says anything, which takes a tenth of the time of all."""
    findings = Findings()
    try:
        with closing(open_bootstrap(path.read_bytes(), "")) as bootstrap:
            check_bootstrap(bootstrap, path, findings)
    except Failure:
        return True
    return not findings.ok or bool(findings.notes)


def is_found(image: ImagePlace, source: ImagePlace | None) -> bool:
    """Whether anything is said about the image, as by `check`."""
    try:
        found = check(image, source, Silence()).findings
    except Failure:
        return True
    return not found.ok or bool(found.notes)


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
