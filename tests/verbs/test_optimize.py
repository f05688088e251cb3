"""`nydusify optimize`: the start-up set in a blob of its own, and the same tree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

from fs.format.blobtable import BlobFeature
from fs.format.bootstrap import Bootstrap
from fs.format.chunkinfo import ChunkFlag
from fs.image.tree import map_bootstrap
from nydusify.cli import main
from nydusify.images.opened import ImagePlace, open_image
from nydusify.startup.startup_set import StartupSet
from tests.nydusify.images import nid_at

_CHUNK = 0x10000


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with an image `nydus`; no two chunks of its large file are alike."""
    work = tmp_path_factory.mktemp("optimize")
    (work / "root/etc").mkdir(parents=True)
    (work / "root/usr").mkdir()
    (work / "root/etc/passwd").write_text("root")
    (work / "root/usr/less").write_text("less")
    (work / "root/usr/more").write_text("more")
    (work / "root/usr/link").symlink_to("../etc/passwd")
    (work / "root/usr/big").write_bytes(b"".join(b"%9d\n" % n for n in range(128_000)))
    words = ["convert", "--source", f"dir:{work}/root", "--target", f"oci:{work}/images:nydus"]
    assert main([*words, "--fs-chunk-size", hex(_CHUNK)]) == 0
    return work / "images"


def optimize(images: Path, target: Path, *words: object) -> dict[str, Any]:
    """Optimize the image `nydus`; the figures."""
    figures = target.with_suffix(".json")
    given = ["--source", f"oci:{images}:nydus", "--target", f"oci:{target}:fast"]
    given += ["--output-json", str(figures), *map(str, words)]
    assert main(["optimize", *given]) == 0
    found: dict[str, Any] = json.loads(figures.read_text())
    return found


def bootstrap_of(place: str, work: Path) -> Bootstrap:
    work.mkdir()
    with open_image(ImagePlace(place), work) as opened:
        copy = work / "copy.boot"
        copy.write_bytes(opened.path.read_bytes())
    return map_bootstrap(str(copy))


def file_list(path: Path, *files: tuple[str, list[list[int]] | None]) -> Path:
    entries = [{"path": name} | ({"ranges": r} if r else {}) for name, r in files]
    path.write_text(json.dumps({"version": "v1", "files": entries}))
    return path


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """The second and the last chunk of a file of twenty, by a link, and a small file before it."""
    ranges = [[_CHUNK + 5, 10], [19 * _CHUNK, 1]]
    return file_list(tmp_path / "list.json", ("/usr/link", None), ("/usr/../usr/big", ranges))


def test_only_what_is_wanted_is_moved(images: Path, listed: Path, tmp_path: Path) -> None:
    done = optimize(images, tmp_path / "out", "--prefetch-files", listed)
    bootstrap = bootstrap_of(f"oci:{tmp_path}/out:fast", tmp_path / "boot")
    startup = bootstrap.blobs[-1]
    assert startup.features & BlobFeature.STARTUP
    assert not bootstrap.blobs[0].features & BlobFeature.STARTUP
    assert startup.blob_id == done["startup_blob"].removeprefix("sha256:")
    index = len(bootstrap.blobs) - 1
    table = bootstrap.chunk_table(index)
    assert len(table) == done["chunks"] == 3
    assert table.uncompressed_sizes[0] == len(b"root")
    assert done["startup_size"] == sum(table.uncompressed_sizes)
    big = nid_at(bootstrap, "/usr/big")
    moved = [
        number
        for number in range(20)
        if bootstrap.extents(big, number * _CHUNK, 1)[0].blob_index == index
    ]
    assert moved == [1, 19]


def test_tree_and_other_blobs_stay(images: Path, listed: Path, tmp_path: Path) -> None:
    optimize(images, tmp_path / "out", "--prefetch-files", listed)
    for number, place in enumerate((f"oci:{images}:nydus", f"oci:{tmp_path}/out:fast")):
        assert main(["unpack", place, "-o", str(tmp_path / f"{number}.tar")]) == 0
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()
    before = bootstrap_of(f"oci:{images}:nydus", tmp_path / "before")
    after = bootstrap_of(f"oci:{tmp_path}/out:fast", tmp_path / "after")
    assert [blob.blob_id for blob in after.blobs[:-1]] == [blob.blob_id for blob in before.blobs]


def test_of_a_large_set_chunks_are_packed_together(images: Path, tmp_path: Path) -> None:
    listed = file_list(tmp_path / "list.json", ("/usr/big", None))
    optimize(images, tmp_path / "out", "--prefetch-files", listed)
    bootstrap = bootstrap_of(f"oci:{tmp_path}/out:fast", tmp_path / "boot")
    flags = bootstrap.chunk_table(len(bootstrap.blobs) - 1).flags
    batched = [bool(flag & ChunkFlag.BATCH) for flag in flags]
    assert not any(batched[:16])
    assert all(batched[-3:-1])
    assert main(["check", f"oci:{tmp_path}/out:fast"]) == 0
    for number, place in enumerate((f"oci:{images}:nydus", f"oci:{tmp_path}/out:fast")):
        assert main(["unpack", place, "-o", str(tmp_path / f"{number}.tar")]) == 0
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()


def test_equal_however_many_threads(images: Path, listed: Path, tmp_path: Path) -> None:
    digests = {
        optimize(images, tmp_path / f"out{threads}", "--prefetch-files", listed, "--threads",
                 threads)["target_digest"]
        for threads in (1, 3)
    }  # fmt: skip
    assert len(digests) == 1


def test_a_higher_level_makes_the_set_smaller(images: Path, listed: Path, tmp_path: Path) -> None:
    words = ("--prefetch-files", listed)
    default = optimize(images, tmp_path / "default", *words)
    quick = optimize(images, tmp_path / "quick", *words, "--level", 3)
    assert default["startup_blob_size"] < quick["startup_blob_size"]
    assert default["startup_size"] == quick["startup_size"]


@pytest.mark.parametrize("level", [0, 20])
def test_a_level_that_zstd_does_not_have(
    images: Path, listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], level: int
) -> None:
    given = ["--source", f"oci:{images}:nydus", "--target", f"oci:{tmp_path}/out:fast"]
    words = ["--prefetch-files", str(listed), "--level", str(level)]
    assert main(["optimize", *given, *words]) == 2
    assert f"--level {level}: not of 1 to 19" in capsys.readouterr().err


def test_again_makes_the_older_set_an_ordinary_blob(
    images: Path, listed: Path, tmp_path: Path
) -> None:
    optimize(images, tmp_path / "out", "--prefetch-files", listed)
    second = tmp_path / "second"
    second.write_text("/usr/more\n")
    words = ["--source", f"oci:{tmp_path}/out:fast", "--target", f"oci:{tmp_path}/out:faster"]
    assert main(["optimize", *words, "--prefetch-files", str(second)]) == 0
    bootstrap = bootstrap_of(f"oci:{tmp_path}/out:faster", tmp_path / "boot")
    marked = [bool(blob.features & BlobFeature.STARTUP) for blob in bootstrap.blobs]
    assert marked[-2:] == [False, True]
    assert marked.count(True) == 1


def trace(path: Path, blobs: list[str], *touches: tuple[int, int, int]) -> Path:
    heading = {"format": "nydus-fs trace 1", "source": "x", "bootstrap": "y", "blobs": blobs,
               "manifest_digest": None, "started": 0.0}  # fmt: skip
    records = [[0, index, offset, length, 0] for index, offset, length in touches]
    path.write_bytes(b"".join(map(msgpack.packb, [heading, *records])))
    return path


def test_a_trace_gives_chunks_in_order_of_touch(images: Path, tmp_path: Path) -> None:
    bootstrap = bootstrap_of(f"oci:{images}:nydus", tmp_path / "boot")
    blobs = [blob.blob_id for blob in bootstrap.blobs]
    chosen = StartupSet(bootstrap)
    big = nid_at(bootstrap, "/usr/big")
    extent = bootstrap.extents(big, 0, 20 * _CHUNK)[0]
    late, early = extent.blob_offset + 3 * _CHUNK + 1, extent.blob_offset + _CHUNK - 1
    file = trace(tmp_path / "t", blobs, (extent.blob_index, late, 1), (extent.blob_index, early, 2))
    done = optimize(images, tmp_path / "out", "--trace", file)
    assert done["chunks"] == 3
    chosen.add_file(big, 3 * _CHUNK, 1)
    chosen.add_file(big, _CHUNK - 1, 2)
    assert chosen.size == done["startup_size"]
    after = bootstrap_of(f"oci:{tmp_path}/out:fast", tmp_path / "after")
    places = [after.extents(big, number * _CHUNK, 1)[0].blob_offset for number in (3, 0, 1)]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("option", "content", "code", "words"),
    [
        ("--prefetch-files", b"/usr/nothing\n", 5, "'/usr/nothing': no such file"),
        ("--prefetch-files", b"\n", 2, "nothing of it is in the start-up set"),
        ("--prefetch-files", b"/usr\n", 2, "nothing of it is in the start-up set"),
        ("--prefetch-files", b'{"version": "v2", "files": []}', 3, "version 'v2' is not v1"),
        ("--prefetch-files", b'{"version": "v1", "files": 3}', 3, "no list of files"),
        ("--prefetch-files", b'{"version": "v1", "files": [{"path": "/x", "ranges": [[-1, 2]]}]}',
         3, "no list of files"),
        ("--trace", b"rubbish", 3, "not a trace"),
    ],
)  # fmt: skip
def test_what_cannot_be(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    option: str, content: bytes, code: int, words: str,
) -> None:  # fmt: skip
    (tmp_path / "given").write_bytes(content)
    target = tmp_path / "out"
    given = ["--source", f"oci:{images}:nydus", "--target", f"oci:{target}:fast"]
    assert main(["optimize", *given, option, str(tmp_path / "given")]) == code
    assert words in capsys.readouterr().err
    assert not target.exists()


def test_a_trace_of_another_image_is_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trace(tmp_path / "t", ["ab" * 32], (0, 0, 1))
    given = ["--source", f"oci:{images}:nydus", "--target", f"oci:{tmp_path}/out:fast"]
    assert main(["optimize", *given, "--trace", str(file)]) == 3
    assert "is a trace of another image" in capsys.readouterr().err


def test_a_guess_takes_what_every_start_reads(images: Path, tmp_path: Path) -> None:
    done = optimize(images, tmp_path / "out", "--guess")
    assert done["chunks"] == 1  # of etc/passwd; the image names no command
    assert done["startup_size"] == len(b"root")
