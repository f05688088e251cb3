"""`nydusify chunkdict generate`: exactly the chunks that images share, at places where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fs.format.bootstrap import Bootstrap
from fs.format.versions import open_bootstrap
from fs.registry.store import open_reader
from nydusify.cli import main
from tests.nydusify.images import pull
from tests.parts.layers import LayerTar
from tests.parts.plain import write_plain_image
from tests.parts.registry import Registry
from tests.verbs.test_compact import noise

Captured = pytest.CaptureFixture[str]


def nydus_image(place: str, plain: str, *files: int) -> None:
    """An image of files of noise, by their seeds."""
    tar = LayerTar()
    for seed in files:
        tar.add(f"f{seed}", data=noise(seed, 50_000 + seed))
    write_plain_image(plain, [tar.tar()])
    assert main(["convert", "--source", plain, "--target", place, "--chunk-size", "0x8000"]) == 0


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    places = [f"oci:{tmp_path}/i:{name}" for name in ("a", "b", "c")]
    for place, files in zip(places, [(1, 2, 3), (2, 3, 4), (3, 4, 5)], strict=True):
        nydus_image(place, f"{place}-plain", *files)
    return places


def generate(capsys: Captured, *words: str) -> Any:  # noqa: ANN401 - JSON
    capsys.readouterr()
    assert main(["chunkdict", "generate", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def digests(image: Bootstrap) -> set[bytes]:
    tables = [image.chunk_table(blob.index) for blob in image.blobs]
    return {table.row(n).digest for table in tables for n in range(len(table))}


def opened(place: str, work: Path) -> Bootstrap:
    work.mkdir(exist_ok=True)
    bootstrap, _ = pull(place, work)
    return open_bootstrap(bootstrap.read_bytes(), place)


@pytest.mark.registry
def test_what_images_share(
    three: list[str], registry: Registry, tmp_path: Path, capsys: Captured
) -> None:
    target = f"{registry.host}/chunkdict/shared:t"
    told = generate(capsys, "--sources", ",".join(three), "--target", target)
    a, b, c = (digests(opened(place, tmp_path / place[-1])) for place in three)
    found = opened(target, tmp_path / "dict")
    assert digests(found) == (a & b) | (b & c) | (a & c)
    assert told["chunks"] == len(digests(found)) == 6
    assert told["saved"] >= 3 * 50_000
    # Every blob is there, and every chunk can be read from it.
    assert main(["check", target]) == 0
    assert len(open_reader(target).resolve(nydus=True).manifest.layers) == len(told["blobs"]) + 1


def test_what_all_have(three: list[str], tmp_path: Path, capsys: Captured) -> None:
    boot = tmp_path / "dict.boot"
    words = ["--sources", ",".join(three), "-B", str(boot), "--min-images", "3"]
    told = generate(capsys, *words)
    found = open_bootstrap(boot.read_bytes(), "dict")
    a, b, c = (digests(opened(place, tmp_path / place[-1])) for place in three)
    assert digests(found) == a & b & c
    assert (len(told["blobs"]), told["chunks"]) == (1, 2)


def test_nothing_to_share(three: list[str], tmp_path: Path, capsys: Captured) -> None:
    nydus_image(f"oci:{tmp_path}/i:d", f"oci:{tmp_path}/i:p", 9)
    words = ["chunkdict", "generate", "--sources", f"{three[0]},oci:{tmp_path}/i:d"]
    assert main([*words, "-B", str(tmp_path / "x")]) == 2
    assert "no chunk in common" in capsys.readouterr().err
    assert main(words) == 2
    assert main([*words, "-B", str(tmp_path / "x"), "--min-images", "3"]) == 2
    assert not (tmp_path / "x").exists()
