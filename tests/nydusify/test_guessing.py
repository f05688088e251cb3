"""What `nydusify convert` lists to be read first: what it was told, what layers say, or a guess."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fs.format.blobtable import BlobFeature
from fs.format.bootstrap import Bootstrap
from fs.format.versions import open_bootstrap
from nydusify.cli import main
from tests.nydusify.images import nid_at, pull
from tests.parts.layers import LayerTar
from tests.parts.plain import write_plain_image

_FILES = ["/etc/passwd", "/usr/bin/tool", "/bin/interpreter"]


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Two layers; the command is a script of the upper, its interpreter lies in the lower."""
    low = LayerTar().add("bin/interpreter", data=b"i" * 5000).add("etc/passwd", data=b"root")
    low.add("usr/bin/tool", data=b"#!/bin/no\n").add("usr/bin/other", data=b"o" * 9000)
    upper = LayerTar().add("usr/bin/tool", data=b"#!/bin/interpreter\n", mode=0o755)
    place = f"oci:{tmp_path}/in:a"
    write_plain_image(place, [low.tar(), upper.tar()], {"Cmd": ["tool"], "Env": ["PATH=/usr/bin"]})
    return place


def convert(source: str, work: Path, *words: str) -> tuple[Bootstrap, dict[str, Any]]:
    figures = work / "figures.json"
    target = f"oci:{work}/out:b"
    given = ["--source", source, "--target", target, "--output-json", str(figures)]
    assert main(["convert", *given, *words]) == 0
    bootstrap, _ = pull(target, work)
    return open_bootstrap(bootstrap.read_bytes(), "test"), json.loads(figures.read_text())


def nids(bootstrap: Bootstrap, paths: list[str]) -> list[int]:
    return [nid_at(bootstrap, path) for path in paths]


def test_a_guess_is_listed_and_told(source: str, tmp_path: Path) -> None:
    bootstrap, figures = convert(source, tmp_path)
    assert list(bootstrap.prefetch) == nids(bootstrap, _FILES[:2])  # its interpreter cannot be run
    assert figures["startup_files"] == 2
    assert figures["startup_size"] == len(b"root") + len(b"#!/bin/interpreter\n")


def test_nothing_is_guessed_on_request(source: str, tmp_path: Path) -> None:
    bootstrap, figures = convert(source, tmp_path, "--startup", "none")
    assert list(bootstrap.prefetch) == []
    assert figures["startup_files"] == 0


@pytest.mark.parametrize("guess", [True, False])
def test_patterns_come_first(guess: bool, source: str, tmp_path: Path) -> None:
    more = ["--startup", "guess"] if guess else []
    words = ["--prefetch-patterns", "/usr/bin/other", "/usr/bin/tool", *more]
    bootstrap, _ = convert(source, tmp_path, *words)
    expected = ["/usr/bin/other", "/usr/bin/tool"] + (["/etc/passwd"] if guess else [])
    assert list(bootstrap.prefetch) == nids(bootstrap, expected)


def startup_blobs(bootstrap: Bootstrap) -> list[int]:
    return [blob.index for blob in bootstrap.blobs if blob.features & BlobFeature.STARTUP]


def places(bootstrap: Bootstrap, path: str) -> set[int]:
    """The blobs that a file's bytes are in."""
    nid = nid_at(bootstrap, path)
    return {each.blob_index for each in bootstrap.extents(nid, 0, bootstrap.inode(nid).size)}


def test_all_that_is_guessed_is_copied_to_the_last_blob(source: str, tmp_path: Path) -> None:
    bootstrap, figures = convert(source, tmp_path, "--startup", "blob")
    (index,) = startup_blobs(bootstrap)
    assert index == len(bootstrap.blobs) - 1
    assert figures["startup_blob_size"] == bootstrap.blobs[index].compressed_size
    assert {index} == places(bootstrap, "/etc/passwd") | places(bootstrap, "/usr/bin/tool")
    assert places(bootstrap, "/usr/bin/other") == {0}
    table = bootstrap.chunk_table(index)  # in the order of the start
    assert list(table.uncompressed_sizes) == [len(b"root"), len(b"#!/bin/interpreter\n")]


def test_what_is_told_is_copied_with_the_guess(source: str, tmp_path: Path) -> None:
    words = ["--prefetch-patterns", "/usr/bin/other", "--startup", "blob"]
    bootstrap, _ = convert(source, tmp_path, *words)
    (index,) = startup_blobs(bootstrap)
    assert places(bootstrap, "/usr/bin/other") == {index} == places(bootstrap, "/etc/passwd")
    assert bootstrap.chunk_table(index).uncompressed_sizes[0] == 9000


@pytest.fixture
def scattered(tmp_path: Path) -> str:
    """A large layer with much that does not compress, and a small file that the start reads."""
    generator = random.Random(5)
    layer = LayerTar().add("etc/passwd", data=b"root")
    for number in range(40):
        layer.add(f"lib/{number}", data=generator.randbytes(50_000))
    layer.add("usr/bin/tool", data=b"tool" + generator.randbytes(5000), mode=0o755)
    layer.add("usr/bin/large", data=generator.randbytes(600_000), mode=0o755)
    place = f"oci:{tmp_path}/in:a"
    config = {"Entrypoint": ["tool"], "Cmd": ["large"], "Env": ["PATH=/usr/bin"]}
    write_plain_image(place, [layer.tar()], config)
    return place


def test_little_is_copied_where_the_rest_of_its_batch_is_not_read(
    scattered: str, tmp_path: Path
) -> None:
    bootstrap, figures = convert(scattered, tmp_path)
    (index,) = startup_blobs(bootstrap)
    assert places(bootstrap, "/etc/passwd") == places(bootstrap, "/usr/bin/tool") == {index}
    assert places(bootstrap, "/usr/bin/large") == {0}
    wanted = nids(bootstrap, ["/etc/passwd", "/usr/bin/tool", "/usr/bin/large"])
    assert list(bootstrap.prefetch) == wanted
    data = sum(blob.compressed_size for blob in bootstrap.blobs[:index])
    assert 0 < figures["startup_blob_size"] < data / 160


def test_a_small_image_gets_no_blob_of_its_own_accord(source: str, tmp_path: Path) -> None:
    bootstrap, figures = convert(source, tmp_path)
    assert startup_blobs(bootstrap) == []
    assert figures["startup_files"] == 2


@pytest.mark.parametrize(("words", "copied"), [([], False), (["--startup", "auto"], True)])
def test_a_shell_is_no_start_to_store_anything_twice_for(
    words: list[str], copied: bool, tmp_path: Path
) -> None:
    generator = random.Random(7)
    layer = LayerTar().add("bin/sh", data=b"sh", mode=0o755)
    for number in range(10):
        layer.add(f"lib/{number}", data=generator.randbytes(90_000))
    place = f"oci:{tmp_path}/in:a"
    write_plain_image(place, [layer.tar()], {"Cmd": ["/bin/sh"]})
    bootstrap, figures = convert(place, tmp_path, *words)
    assert figures["startup_files"] == 1
    assert bool(startup_blobs(bootstrap)) == copied


@pytest.mark.parametrize("mode", ["guess", "none"])
def test_nothing_is_copied(mode: str, scattered: str, tmp_path: Path) -> None:
    bootstrap, figures = convert(scattered, tmp_path, "--startup", mode)
    assert startup_blobs(bootstrap) == []
    assert figures["startup_blob_size"] == 0


@pytest.mark.parametrize("mode", ["auto", "blob"])
def test_a_copied_image_is_the_same_image(mode: str, scattered: str, tmp_path: Path) -> None:
    convert(scattered, tmp_path, "--startup", mode, "--batch-size", "64KiB")
    assert main(["check", "--source", scattered, "--target", f"oci:{tmp_path}/out:b"]) == 0


def test_equal_digests_of_two_guesses(source: str, tmp_path: Path) -> None:
    digests = set()
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        _, figures = convert(source, tmp_path / str(number), "--threads", str(number))
        digests.add(figures["target_digest"])
    assert len(digests) == 1
