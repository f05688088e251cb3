"""`nydusify merge`: bootstraps of layers give the tree that overlayfs shows of the layers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from fs.format.versions import open_bootstrap
from fs.format.walk import load_tree
from nydusify.cli import main
from tests.nydusify.images import pull, tree_of
from tests.parts.layers import LayerTar, expected_tree, overlay_of, unlike
from tests.parts.stacks import UPPERS, base
from tests.parts.trees import Entry


def bootstrap_of(tar: bytes, work: Path) -> tuple[Path, dict[str, Path]]:
    """What convert makes of one layer."""
    work.mkdir()
    (work / "l.tar").write_bytes(tar)
    words = ["convert", "--source", f"layer:{work}/l.tar", "--target", f"oci:{work}/o"]
    assert main(words) == 0
    return pull(f"oci:{work}/o", work)


def uncounted(tree: dict[bytes, Entry]) -> dict[bytes, Entry]:
    return {path: entry._replace(nlink=0) for path, entry in tree.items()}


@pytest.mark.overlay
@pytest.mark.parametrize("upper", ["implied directories", "file over directory", "odd names"])
def test_layers_of_convert(upper: str, tmp_path: Path) -> None:
    """Layers that hide nothing: convert applies whiteouts itself, so none is left to merge."""
    tars = [base().tar(), UPPERS[upper].tar()]
    parts = [bootstrap_of(tar, tmp_path / str(n)) for n, tar in enumerate(tars)]
    output = tmp_path / "merged.boot"
    assert main(["merge", "-B", str(output), *(str(path) for path, _ in parts)]) == 0
    image = open_bootstrap(output.read_bytes(), "merged")
    (tmp_path / "work").mkdir()
    with overlay_of(tars, tmp_path / "work") as merged:
        expected = uncounted(expected_tree(merged))
    found = uncounted(tree_of(image, {k: v for _, blobs in parts for k, v in blobs.items()}))
    # A bootstrap of its own has attributes even for directories that its layer only implies.
    implied = {b"dir", b"dir/sub", b".", b"fresh", b"fresh/one"}
    for path in implied & expected.keys() & found.keys():
        expected[path] = found[path]
    assert unlike(expected, found) == []


def whiteouts(tmp_path: Path) -> Path:
    """A bootstrap as nydus-image makes it of a layer, with the layer's marks as files in it."""
    program = Path(os.environ.get("NYDUS_BIN", "/usr/bin")) / "nydus-image"
    tar = tmp_path / "upper.tar"
    upper = LayerTar().directory("./").add(".wh.top").directory("dir/").add("dir/.wh..wh..opq")
    tar.write_bytes(upper.add("dir/new").add("empty", data=b"no more").tar())
    command: list[str | Path] = [program, "create", "-t", "tar-rafs", "--whiteout-spec", "none"]
    subprocess.run([*command, "-B", tmp_path / "upper.boot", "-D", tmp_path, tar], check=True)
    return tmp_path / "upper.boot"


@pytest.mark.nydusd
def test_layers_of_nydus_image(tmp_path: Path) -> None:
    """The same tree as its own merge makes."""
    program = Path(os.environ.get("NYDUS_BIN", "/usr/bin")) / "nydus-image"
    upper = whiteouts(tmp_path)
    (tmp_path / "lower.tar").write_bytes(base().tar())
    command: list[str | Path] = [program, "create", "-t", "tar-rafs", "--whiteout-spec", "none"]
    lower = tmp_path / "lower.boot"
    subprocess.run([*command, "-B", lower, "-D", tmp_path, tmp_path / "lower.tar"], check=True)
    theirs, ours = tmp_path / "theirs.boot", tmp_path / "ours.boot"
    told = tmp_path / "told"
    assert main(["merge", "-B", str(ours), str(lower), str(upper), "-J", str(told)]) == 0
    blobs = ",".join(json.loads(told.read_text())["blobs"])
    command = [program, "merge", "-B", theirs, "--blob-digests", blobs, lower, upper]
    subprocess.run(command, check=True)
    trees = [load_tree(open_bootstrap(path.read_bytes(), path.name)) for path in (theirs, ours)]
    assert names_of(trees[0]) == names_of(trees[1])


def names_of(root: object) -> dict[bytes, tuple[object, ...]]:
    from fs.format.tree import Node

    assert isinstance(root, Node)
    found: dict[bytes, tuple[object, ...]] = {}
    todo = [(b"", root)]
    while todo:
        path, node = todo.pop()
        found[path] = (node.mode, node.uid, node.gid, node.size, node.target,
                       [chunk.digest for chunk in node.chunks])  # fmt: skip
        todo += [(path + b"/" + name, child) for name, child in node.children.items()]
    return found


def test_into_a_directory_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, blobs = bootstrap_of(base().tar(), tmp_path / "a")
    other, more = bootstrap_of(LayerTar().add("n", data=b"n" * 9000).tar(), tmp_path / "b")
    capsys.readouterr()
    assert main(["merge", "-D", str(tmp_path / "out"), str(path), str(other), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["blobs"] == [*blobs, *more]
    assert Path(told["bootstrap"]).parent == tmp_path / "out"
    assert len(Path(told["bootstrap"]).name) == 64


def test_blobs_that_are_covered_are_dropped(tmp_path: Path) -> None:
    path, _ = bootstrap_of(LayerTar().add("n", data=b"old" * 3000).tar(), tmp_path / "a")
    other, more = bootstrap_of(LayerTar().add("n", data=b"n" * 9000).tar(), tmp_path / "b")
    output = tmp_path / "merged.boot"
    assert main(["merge", "-B", str(output), str(path), str(other)]) == 0
    image = open_bootstrap(output.read_bytes(), "merged")
    assert [blob.blob_id for blob in image.blobs] == list(more)


def test_digests_given_by_hand(tmp_path: Path) -> None:
    path, _ = bootstrap_of(base().tar(), tmp_path / "a")
    words = ["merge", "-B", str(tmp_path / "m"), str(path)]
    assert main([*words, "--blob-digests", "ab" * 32, "--blob-sizes", "12345"]) == 0
    (blob,) = open_bootstrap((tmp_path / "m").read_bytes(), "merged").blobs
    assert (blob.blob_id, blob.compressed_size) == ("ab" * 32, 12345)
    assert main([*words, "--blob-digests", "ab" * 32 + "," + "cd" * 32]) == 2
    assert main([*words, "--blob-digests", "xyz"]) == 2


def test_what_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = bootstrap_of(base().tar(), tmp_path / "a")
    (tmp_path / "l.tar").write_bytes(LayerTar().add("n", data=b"n").tar())
    words = ["convert", "--source", f"layer:{tmp_path}/l.tar", "--target", f"oci:{tmp_path}/o:t"]
    assert main([*words, "--chunk-size", "0x1000"]) == 0
    output = tmp_path / "merged.boot"
    assert main(["merge", "-B", str(output), str(path), f"oci:{tmp_path}/o:t"]) == 3
    assert "chunk size 4096, but 1048576" in capsys.readouterr().err
    assert main(["merge", "-B", str(output), str(tmp_path / "l.tar")]) == 3
    assert main(["merge", "-B", str(output), str(tmp_path / "nothing")]) in (2, 5, 7)
    assert not output.exists()
