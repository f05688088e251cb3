"""`nydusify compact`: the same tree in fewer bytes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fs.format.versions import open_bootstrap
from fs.registry.store import open_reader
from nydusify.cli import main
from tests.nydusify.images import pull, tree_of
from tests.parts.layers import LayerTar
from tests.parts.plain import write_plain_image
from tests.parts.registry import Registry

Captured = pytest.CaptureFixture[str]


def noise(seed: int, size: int) -> bytes:
    """Bytes that no compressor makes smaller."""
    return random.Random(seed).randbytes(size)


@pytest.fixture(params=["0", "0x10000"], ids=["chunk by chunk", "with batches"])
def wasteful(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Three layers: most of the first is deleted by the second, the third is small and alone."""
    low = LayerTar().add("keep", data=noise(1, 90_000)).add("gone", data=noise(2, 400_000))
    upper = LayerTar().add(".wh.gone").add("more", data=noise(3, 300_000))
    tars = [low.tar(), upper.tar(), LayerTar().add("last", data=noise(4, 20_000)).tar()]
    write_plain_image(f"oci:{tmp_path}/i:p", tars)
    words = ["convert", "--source", f"oci:{tmp_path}/i:p", "--target", f"oci:{tmp_path}/i:n"]
    assert main([*words, "--chunk-size", "0x10000", "--batch-size", request.param]) == 0
    return f"oci:{tmp_path}/i:n"


def compact(capsys: Captured, *words: str) -> Any:  # noqa: ANN401 - JSON
    capsys.readouterr()
    assert main(["compact", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_unused_chunks_go(wasteful: str, tmp_path: Path, capsys: Captured) -> None:
    target = f"oci:{tmp_path}/out:t"
    told = compact(capsys, "--source", wasteful, "--target", target, "--compact-blob-size", "0")
    assert (len(told["rewritten"]), len(told["new"])) == (1, 1)
    assert told["stored_before"] - told["stored_after"] > 390_000
    assert main(["check", target, "--source", f"oci:{tmp_path}/i:p"]) == 0
    before = open_reader(wasteful).resolve(nydus=True).manifest.layers
    after = open_reader(target).resolve(nydus=True).manifest.layers
    assert len(after) == len(before)
    assert {layer.digest for layer in before[1:-1]} < {layer.digest for layer in after}


@pytest.mark.registry
def test_small_blobs_are_put_together(
    wasteful: str, registry: Registry, tmp_path: Path, capsys: Captured
) -> None:
    target = f"{registry.host}/compact/small:t"
    told = compact(capsys, "--source", wasteful, "--target", target)
    assert (len(told["rewritten"]), len(told["new"])) == (3, 1)
    assert main(["check", target, "--source", f"oci:{tmp_path}/i:p"]) == 0
    image = open_reader(target).resolve(nydus=True)
    assert len(image.manifest.layers) == 2
    history = image.config.document["history"]
    assert len([entry for entry in history if not entry.get("empty_layer")]) == 2


def test_a_limit_on_size(wasteful: str, tmp_path: Path, capsys: Captured) -> None:
    words = ["--source", wasteful, "--target", f"oci:{tmp_path}/out:t"]
    told = compact(capsys, *words, "--max-compact-size", "350000", "--min-used-ratio", "0")
    assert (len(told["rewritten"]), len(told["new"])) == (2, 1)


def test_nothing_to_do(wasteful: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "config").write_text('{"min_used_ratio": 0, "compact_blob_size": "0"}')
    words = ["--source", wasteful, "--target", f"oci:{tmp_path}/out:t"]
    told = compact(capsys, *words, "--config", str(tmp_path / "config"))
    assert (told["rewritten"], told["new"]) == ([], [])
    told = compact(capsys, *words, "--layers-to-compact", "4")
    assert (told["rewritten"], told["written"]) == ([], 0)
    told = compact(capsys, *words, "--chunk-dict", wasteful)
    assert told["new"] == []


def test_files(wasteful: str, tmp_path: Path, capsys: Captured) -> None:
    bootstrap, blobs = pull(wasteful, tmp_path)
    before = tree_of(open_bootstrap(bootstrap.read_bytes(), "before"), blobs)
    output = tmp_path / "new.boot"
    words = ["-B", str(bootstrap), "-D", str(tmp_path), "-O", str(output)]
    told = compact(capsys, *words)
    (new,) = told["new"]
    image = open_bootstrap(output.read_bytes(), "after")
    assert tree_of(image, {new: tmp_path / new}) == before
    assert main(["check", "-B", str(output), "-D", str(tmp_path)]) == 0


def test_a_damaged_chunk_is_not_copied(wasteful: str, tmp_path: Path) -> None:
    bootstrap, blobs = pull(wasteful, tmp_path)
    path = next(iter(blobs.values()))
    path.write_bytes(b"?" + path.read_bytes()[1:])
    output = tmp_path / "new.boot"
    words = ["compact", "-B", str(bootstrap), "-D", str(tmp_path), "-O", str(output)]
    there = set(tmp_path.iterdir())
    assert main(words) == 4
    assert set(tmp_path.iterdir()) == there


def test_wrong_words(wasteful: str, tmp_path: Path) -> None:
    assert main(["compact", "--source", wasteful]) == 2
    assert main(["compact", "--source", "", "--target", wasteful]) == 2
    assert main(["compact", "-B", "x", "--target", wasteful]) == 2
    words = ["compact", "--source", wasteful, "--target", f"oci:{tmp_path}/o:t"]
    assert main([*words, "--min-used-ratio", "100"]) == 2
    assert main([*words, "--config", str(tmp_path / "none")]) == 5
    (tmp_path / "config").write_text("[1]")
    assert main([*words, "--config", str(tmp_path / "config")]) == 2
