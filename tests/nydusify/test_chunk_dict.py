"""convert --chunk-dict: from an image and from a bootstrap, to registries and layouts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from fs.registry.store import open_reader
from nydusify.cli import main
from tests.nydusify.images import pull, pulled_tree
from tests.nydusify.test_convert import publish
from tests.parts.layers import LayerTar
from tests.parts.registry import Registry


def content(seed: int) -> bytes:
    return random.Random(seed).randbytes(20_000)


def old() -> bytes:
    tar = LayerTar()
    for number in range(20):
        tar.add(f"f{number}", data=content(number))
    return tar.tar()


def new() -> bytes:
    tar = LayerTar().add("fresh", data=content(100))
    for number in range(5, 20):
        tar.add(f"again{number}", data=content(number))
    return tar.tar()


def convert(source: str, target: str, *options: str | Path) -> int:
    words = ["--source", source, "--target", target, *map(str, options)]
    return main(["convert", "--no-layer-cache", *words])


@pytest.mark.registry
def test_blobs_of_an_image_are_mounted_from_its_repository(
    registry: Registry, tmp_path: Path
) -> None:
    publish(f"oci:{tmp_path}/in:old", [old()])
    publish(f"oci:{tmp_path}/in:new", [new()])
    known, target = f"{registry.host}/dict/known:1", f"{registry.host}/dict/new:1"
    assert convert(f"oci:{tmp_path}/in:old", known) == 0
    report = tmp_path / "report.json"
    expression = f"bootstrap:registry:{known}"
    assert (
        convert(
            f"oci:{tmp_path}/in:new", target, "--chunk-dict", expression, "--output-json", report
        )
        == 0
    )
    own, foreign, _ = open_reader(target).resolve(nydus=True).manifest.layers
    assert foreign.digest == open_reader(known).resolve(nydus=True).manifest.layers[0].digest
    assert own.size < 30_000
    told = json.loads(report.read_text())
    assert told["known_blobs"] == [foreign.digest]
    assert told["layers"][0]["shared_size"] == 15 * 20_000
    pulled = tmp_path / "pulled"
    pulled.mkdir()
    tree = pulled_tree(target, pulled)
    assert len(tree) == 17
    uploads = [r for r in registry.requests("/dict/new/blobs/uploads") if "mount=" in str(r)]
    assert uploads


def test_the_history_tells_of_every_layer(tmp_path: Path) -> None:
    publish(f"oci:{tmp_path}/in:old", [old()])
    publish(f"oci:{tmp_path}/in:new", [new()])
    assert convert(f"oci:{tmp_path}/in:old", f"oci:{tmp_path}/out:old") == 0
    known = f"oci:{tmp_path}/out:old"
    assert (
        convert(f"oci:{tmp_path}/in:new", f"oci:{tmp_path}/other:new", "--chunk-dict", known) == 0
    )
    image = open_reader(f"oci:{tmp_path}/other:new").resolve(nydus=True)
    filled = [entry for entry in image.config.document["history"] if not entry.get("empty_layer")]
    assert len(filled) == len(image.manifest.layers) == len(image.config.diff_ids) == 3


def test_a_bare_bootstrap_does_where_the_blobs_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(f"oci:{tmp_path}/in:old", [old()])
    publish(f"oci:{tmp_path}/in:new", [new()])
    assert convert(f"oci:{tmp_path}/in:old", f"oci:{tmp_path}/out:old") == 0
    bootstrap, _ = pull(f"oci:{tmp_path}/out:old", tmp_path)
    options = ("--chunk-dict", f"bootstrap:local:{bootstrap}")
    assert convert(f"oci:{tmp_path}/in:new", f"oci:{tmp_path}/out:new", *options) == 0
    capsys.readouterr()
    assert convert(f"oci:{tmp_path}/in:new", f"oci:{tmp_path}/else:new", *options) != 0
    assert "chunk dictionary is not at the target" in capsys.readouterr().err
    assert not (tmp_path / "else/index.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--chunk-dict", "bootstrap:what"), "bootstrap:registry:REFERENCE"),
        (("--chunk-dict", "bootstrap=/nowhere"), "/nowhere"),
        (("--chunk-size", "64KiB"), "for chunks of 1048576 bytes"),
    ],
)
def test_what_is_no_dictionary_is_said(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(f"oci:{tmp_path}/in:old", [old()])
    assert convert(f"oci:{tmp_path}/in:old", f"oci:{tmp_path}/out:old") == 0
    known = () if "--chunk-dict" in options else ("--chunk-dict", f"oci:{tmp_path}/out:old")
    assert convert(f"oci:{tmp_path}/in:old", f"oci:{tmp_path}/out:new", *known, *options) != 0
    assert message in capsys.readouterr().err
