"""Blobs hardly smaller than their gzip layer are packed again: as small as wanted, and true."""

from __future__ import annotations

import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nydusify.cli import main
from nydusify.layers.converted_layer import ConvertedLayer
from nydusify.layers.layer_conversion import LayerOptions, convert_layer
from nydusify.layers.sources import open_source
from nydusify.options import ConvertOptions
from tests.nydusify.images import pulled_tree
from tests.nydusify.test_convert import ENCODINGS, publish
from tests.parts.layers import LayerTar

KIB = 1 << 10
#: What no compressor makes smaller.
NOISE = random.Random(1).randbytes(600 * KIB)
#: A program that every machine with these tests has, which zstd packs at level 3 as gzip does.
CODE = Path(sys.executable).read_bytes()[: 1500 * KIB]


def layer_of_code() -> bytes:
    """A large file, many small ones, of which some repeat, and one that stays as it is."""
    tar = LayerTar().add("program", data=CODE).add("noise", data=NOISE)
    for number in range(30):
        tar.add(f"small-{number}", data=CODE[number % 20 * 9000 :][: 5000 + number % 20])
    return tar.tar()


def convert(work: Path, target: str, *more: str) -> dict[str, Any]:
    """Convert `in` of the layout in `work`; the report."""
    place = f"oci:{work}/{target}:t"
    report = work / f"{target}.json"
    words = ["--source", f"oci:{work}/in:s", "--target", place, "--output-json", str(report)]
    if "--layer-cache" not in more:
        more = (*more, "--no-layer-cache")
    assert main(["convert", *words, *more]) == 0
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def repacked(report: dict[str, Any]) -> list[int]:
    return [layer["repacked_size"] for layer in report["layers"]]


def assert_same_tree(work: Path, *targets: str) -> None:
    trees = []
    for target in targets:
        pulled = work / f"pulled-{target}"
        pulled.mkdir()
        trees.append(pulled_tree(f"oci:{work}/{target}:t", pulled))  # verifies each chunk
    assert all(tree == trees[0] for tree in trees)
    assert trees[0]


def test_machine_code_becomes_smaller_than_with_gzip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(f"oci:{tmp_path}/in:s", [layer_of_code()])
    plain = convert(tmp_path, "plain", "--compressor", "zstd")
    assert repacked(plain) == [0]
    assert "packed again" not in capsys.readouterr().out
    small = convert(tmp_path, "small")
    assert "packed again" in capsys.readouterr().out
    assert len(CODE) <= repacked(small)[0] < len(layer_of_code()) - len(NOISE)
    assert small["layers"][0]["blob_size"] < plain["layers"][0]["blob_size"]
    assert main(["check", "--target", f"oci:{tmp_path}/small:t"]) == 0
    assert_same_tree(tmp_path, "plain", "small")


@pytest.mark.parametrize(
    "options",
    [(), ("--prefetch-patterns", "/small-7", "/noise"), ("--chunk-size", "65536")],
    ids=["plain", "ranked", "chunks"],
)
def test_the_result_does_not_depend_on_threads(options: tuple[str, ...], tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:s", [layer_of_code()])
    one = convert(tmp_path, "one", "--threads", "1", *options)
    many = convert(tmp_path, "many", "--threads", "7", *options)
    assert one["target_digest"] == many["target_digest"]
    assert repacked(one) == repacked(many) != [0]
    convert(tmp_path, "other", "--compressor", "zstd", *options)
    assert_same_tree(tmp_path, "one", "other")


def test_a_kept_layer_tells_that_it_was_packed_again(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:s", [layer_of_code()])
    cache = ("--layer-cache", str(tmp_path / "cache"))
    first = convert(tmp_path, "first", *cache)
    again = convert(tmp_path, "again", *cache)
    assert again["layers"][0]["kept"]
    assert repacked(again) == repacked(first) != [0]
    assert again["target_digest"] == first["target_digest"]
    other = convert(tmp_path, "other", "--compressor", "zstd", *cache)
    assert not other["layers"][0]["kept"]


@pytest.mark.parametrize(
    ("encoding", "tar"),
    [
        ("zstd", layer_of_code()),
        ("gzip", LayerTar().add("noise", data=NOISE).tar()),
        ("gzip", LayerTar().add("little", data=CODE[: 100 * KIB]).tar()),
    ],
    ids=["not gzip", "incompressible", "little"],
)
def test_what_is_left_alone(encoding: str, tar: bytes, tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:s", [tar], encoding=encoding)
    assert repacked(convert(tmp_path, "out")) == [0]


def test_no_more_is_packed_again_than_it_takes(tmp_path: Path) -> None:
    """The first pieces, and those that were begun when these were not known yet."""
    tar = LayerTar().add("program", data=CODE).tar()
    stored = ENCODINGS["gzip"][1](tar)
    plain = converted(stored, tmp_path / "plain", 0)
    assert plain.blob
    size = plain.blob.path.stat().st_size
    share = (size - 10 * KIB) * 1000 // len(stored)
    small = converted(stored, tmp_path / "small", share)
    assert small.blob
    assert small.blob.path.stat().st_size < size
    assert 0 < small.repacked <= len(CODE) // 2


def converted(stored: bytes, work: Path, wanted: int) -> ConvertedLayer:
    work.mkdir()
    (work / "layer").write_bytes(stored)
    options = LayerOptions(64 * KIB, 64 * KIB, wanted=wanted)
    place, store = f"layer:{work / 'layer'}", ConvertOptions("", "").source_store
    with open_source(place, None, store) as source, ThreadPoolExecutor(2) as pool:
        return convert_layer(source.layers[0], options, work / "blob", pool, lambda _: None)


def test_the_less_is_wanted_the_harder_a_blob_is_packed(tmp_path: Path) -> None:
    """Each share here takes another way to pack than that before."""
    stored = ENCODINGS["gzip"][1](LayerTar().add("program", data=CODE).tar())
    sizes: list[int] = []
    for share in (0, 1000, 940, 850):
        if share:  # of what level 3 makes
            share = sizes[0] * share // len(stored)
        blob = converted(stored, tmp_path / str(share), share).blob
        assert blob
        sizes.append(blob.path.stat().st_size)
    assert sizes == sorted(set(sizes), reverse=True)
