"""`nydusify pack` and `create`: a directory becomes a file system that shows the directory."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fs.format.blobtable import BlobFeature
from fs.format.versions import open_bootstrap
from nydusify.cli import main
from tests.e2e.commands import succeed
from tests.parts.layers import with_least_names
from tests.parts.stacks import base
from tests.parts.trees import Entry, differences, scan

pytestmark = pytest.mark.root

Captured = pytest.CaptureFixture[str]


def made(capsys: Captured, *words: str) -> Any:  # noqa: ANN401 - JSON
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "a/b").mkdir(parents=True)
    (root / "a/large").write_bytes(bytes(range(256)) * 3000)
    os.link(root / "a/large", root / "again")
    (root / "a/b/small").write_text("small")
    os.symlink("a/large", root / "link")
    os.chown(root / "a/b", 3, 4)
    os.setxattr(root / "a", "user.x", b"1")
    return root


def shown(bootstrap: str, blobs: Path, output: Path) -> dict[bytes, Entry]:
    words = ["unpack", bootstrap, "--blob-dir", str(blobs), "--output-dir", str(output)]
    assert main(words) == 0
    return with_least_names(scan(output))


def test_a_directory(tree: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out"
    told = made(capsys, "pack", "--source-dir", str(tree), "--name", "app", "-o", str(out))
    assert told["bootstrap"] == str(out / "app.meta")
    assert {path.name for path in out.iterdir()} == {"app.meta", *told["blobs"]}
    found = shown(told["bootstrap"], out, tmp_path / "x")
    assert differences(with_least_names(scan(tree)), found) == []
    assert main(["check", told["bootstrap"], "-D", str(out), "--source", f"dir:{tree}"]) == 0
    again = tmp_path / "again"
    words = ("build", "--target-dir", str(tree), "--meta", "app", "-o", str(again))
    assert made(capsys, *words, "--threads", "1")["blobs"] == told["blobs"]


@pytest.mark.fuse
def test_it_can_be_mounted(tree: Path, tmp_path: Path, capsys: Captured) -> None:
    out, point = tmp_path / "out", tmp_path / "mnt"
    made(capsys, "pack", "--source-dir", str(tree), "--name", "x.boot", "-o", str(out))
    point.mkdir()
    own = ("--state-root", tmp_path / "state", "--cache-dir", tmp_path / "cache")
    succeed("nydus-fs", "mount", out / "x.boot", point, "--blob-dir", out, *own)
    try:
        assert differences(with_least_names(scan(tree)), with_least_names(scan(point))) == []
    finally:
        succeed("nydus-fs", "umount", point, "--state-root", tmp_path / "state")


@pytest.mark.parametrize("spec", ["oci", "overlayfs"])
def test_on_a_parent(spec: str, tree: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out"
    lower = made(capsys, "create", "-D", str(out), str(tree))
    upper = tmp_path / "upper"
    (upper / "a/b").mkdir(parents=True)
    (upper / "a/b/new").write_text("new")
    if spec == "oci":
        (upper / ".wh.link").touch()
        (upper / "a/b/.wh..wh..opq").touch()
    else:
        os.mknod(upper / "link", 0o20000, 0)
        os.setxattr(upper / "a/b", "trusted.overlay.opaque", b"y")
    words = ("create", "-D", str(out), "--parent-bootstrap", lower["bootstrap"], str(upper))
    told = made(capsys, *words, "--whiteout-spec", spec)
    assert told["blobs"] == [*lower["blobs"], *told["new"]]
    found = shown(told["bootstrap"], out, tmp_path / "x")
    assert {b"a/b/new", b"a/large", b"again"} <= found.keys()
    assert not {b"link", b"a/b/small"} & found.keys()


def test_a_tar(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "l.tar").write_bytes(base().tar())
    words = ["create", "-t", "tar-rafs", "-B", str(tmp_path / "b"), "-b", str(tmp_path / "blob")]
    told = made(capsys, *words, str(tmp_path / "l.tar"), "-J", str(tmp_path / "told"))
    assert json.loads((tmp_path / "told").read_text()) == told
    words = ["check", "-B", str(tmp_path / "b"), "-b", str(tmp_path / "blob")]
    assert main([*words, "--source", f"layer:{tmp_path}/l.tar"]) == 0


def test_pushed_to_a_backend(tree: Path, tmp_path: Path, capsys: Captured) -> None:
    store = {"dir": str(tmp_path / "store")}
    words = ["pack", "--source-dir", str(tree), "--name", "a.boot", "-o", str(tmp_path / "out")]
    more = ["--backend-push", "--backend-type", "localfs", "--backend-config", json.dumps(store)]
    told = made(capsys, *words, *more)
    assert {p.name for p in (tmp_path / "store").iterdir()} == {"a.boot", *told["blobs"]}
    assert main([*words, "--backend-push"]) == 2


@pytest.mark.parametrize(
    ("kind", "pack"), [("targz-ref", gzip.compress), ("estargz-ref", gzip.compress),
                       ("tar-tarfs", bytes)]
)  # fmt: skip
def test_over_a_layer_as_it_is(
    kind: str, pack: Callable[[bytes], bytes], tmp_path: Path, capsys: Captured
) -> None:
    layer, blobs = tmp_path / "layer", tmp_path / "blobs"
    layer.write_bytes(pack(base().tar()))
    blobs.mkdir()
    own = [] if kind == "tar-tarfs" else ["-D", str(blobs)]
    told = made(capsys, "create", "-t", kind, "-B", str(tmp_path / "b"), *own, str(layer))
    digest = hashlib.sha256(layer.read_bytes()).hexdigest()
    assert told["blobs"] == [digest]
    assert [path.name for path in blobs.iterdir()] == told["new"]
    assert len(told["new"]) == len(own) // 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "blobs", "layer"]
    shutil.copy(layer, blobs / digest)
    words = ["check", "-B", str(tmp_path / "b"), "-D", str(blobs), "--source", f"layer:{layer}"]
    assert main(words) == 0


def test_what_cannot_stay_as_it_is(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "l.tar.gz").write_bytes(gzip.compress(base().tar()))
    layer, boot = str(tmp_path / "l.tar.gz"), ["-B", str(tmp_path / "b")]
    blob = ["-b", str(tmp_path / "blob")]
    for words, said in (
        (["tar-tarfs", *boot], "no plain tar"),
        (["tar-tarfs", *boot, *blob], "makes no blob"),
        (["targz-ref", *boot], "where the blob goes"),
        (["targz-ref", *boot, *blob, "--chunk-dict", "x"], "nothing is stored"),
        (["targz-ref", *boot, *blob, "--blob-id", "0"], "go with --type estargztoc-ref"),
        (["estargztoc-ref", *boot, *blob, "--blob-id", "0"], "needs --blob-id SHA256"),
    ):
        assert main(["create", "-t", *words, layer]) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["l.tar.gz"]


def test_chunks_of_a_dictionary_are_not_stored_again(
    tree: Path, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "out"
    first = made(capsys, "pack", "--source-dir", str(tree), "--name", "a.boot", "-o", str(out))
    (tree / "more").write_text("more")
    words = ["--source-dir", str(tree), "--name", "b.boot", "-o", str(out)]
    told = made(capsys, "pack", *words, "--chunk-dict", str(out / "a.boot"))
    assert told["blobs"] == [*told["new"], *first["blobs"]]
    assert len(told["new"]) == 1
    assert told["size"] < first["size"]
    found = shown(told["bootstrap"], out, tmp_path / "x")
    assert differences(with_least_names(scan(tree)), found) == []
    words = ["create", "-D", str(out), "--chunk-dict", f"bootstrap={out}/a.boot", str(tree)]
    assert made(capsys, *words)["blobs"] == told["blobs"]
    assert main([*words, "--parent-bootstrap", str(out / "a.boot")]) == 2


@pytest.mark.nydusd
def test_nydus_image_accepts_it(tree: Path, tmp_path: Path, capsys: Captured) -> None:
    program = Path(os.environ.get("NYDUS_BIN", "/usr/bin")) / "nydus-image"
    told = made(capsys, "create", "-D", str(tmp_path / "out"), str(tree))
    command: list[str | Path] = [program, "check", "--bootstrap", told["bootstrap"]]
    subprocess.run(command, check=True)
    blob = tmp_path / "out" / told["blobs"][0]
    command = [program, "unpack", "--blob", blob, "--output", tmp_path / "x.tar"]
    subprocess.run([*command, "--bootstrap", told["bootstrap"]], check=True)
    listing = subprocess.run(["tar", "tf", tmp_path / "x.tar"], capture_output=True, text=True)
    assert "a/b/small" in listing.stdout


def test_batches_are_chosen(tree: Path, tmp_path: Path, capsys: Captured) -> None:
    """What nydusd 2.2.0 can read, and what later ones can."""
    for number in range(50):
        (tree / f"f{number}").write_text(f"{number}" * 50)
    for words, batched in (((), True), (("--batch-size", "64KiB"), True),
                           (("--batch-size", "0"), False)):  # fmt: skip
        out = tmp_path / f"out-{words}"
        boot = out / "b"
        made(capsys, "create", "-B", str(boot), "-D", str(out), *words, str(tree))
        blobs = open_bootstrap(boot.read_bytes(), "b").blobs
        assert [bool(blob.features & BlobFeature.BATCH) for blob in blobs] == [batched]
        assert differences(with_least_names(scan(tree)), shown(str(boot), out, out / "x")) == []


def test_patterns_are_put_first(
    tree: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, boot = tmp_path / "out", tmp_path / "out/b"
    words = ("create", "-B", str(boot), "-D", str(out), str(tree), "--prefetch-policy", "fs")
    monkeypatch.setattr("sys.stdin", io.StringIO("/a/b/small\n\n/nothing\n"))
    made(capsys, *words, "--batch-size", "0")
    image = open_bootstrap(boot.read_bytes(), "b")
    (listed,) = image.prefetch
    assert image.inode(listed).size == len("small")
    (table,) = (image.chunk_table(blob.index) for blob in image.blobs)
    (first,) = (n for n in range(len(table)) if table.row(n).compressed_offset == 0)
    assert table.row(first).uncompressed_size == len("small")
    monkeypatch.setattr("sys.stdin", io.StringIO("a/b/small\n"))
    assert main(list(words)) == 2
    assert "not an absolute path" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--digester", "sha256"],
        ["--blob-inline-meta"],
        ["--external-blob", "x"],
        ["--attributes", "x"],
        ["--encrypt"],
        ["--blob-cache-dir", "x"],
    ],
)
def test_what_nydus_image_could_make(
    words: list[str], tree: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["create", "-D", str(tmp_path / "o"), *words, str(tree)]) == 2
    told = capsys.readouterr().err
    assert words[0] in told
    assert told.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_what_nydus_image_would_be_told(tree: Path, tmp_path: Path, capsys: Captured) -> None:
    """Its usual command lines work, and what does nothing is said."""
    words = ["--features", "blob-toc", "--repeatable", "--log-level", "warn", "--aligned-chunk"]
    assert main(["create", "-D", str(tmp_path / "o"), *words, str(tree)]) == 0
    notes = capsys.readouterr().err
    assert [word for word in words if f"{word} has no effect" in notes] == [
        word for word in words if word.startswith("--")
    ]


def test_a_parent_that_does_not_fit(tree: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out"
    made(capsys, "create", "-B", str(out / "low"), "-D", str(out), str(tree))
    words = ["create", "-B", str(out / "up"), "-D", str(out), str(tree), "--parent-bootstrap"]
    for parent, more, code, told in (
        ("layers/low.boot", [], 5, "layers/low.boot: no such file"),
        (str(tmp_path / "none"), [], 5, "none: no such file"),
        (str(out / "low"), ["--chunk-size", "64KiB"], 2, "has chunks of 1048576 bytes"),
        (str(tree / "again"), [], 3, "again"),
    ):
        assert main([*words, parent, *more]) == code
        assert told in capsys.readouterr().err
        assert not (out / "up").exists()


def test_wrong_words(tree: Path, tmp_path: Path) -> None:
    assert main(["pack", "--source-dir", str(tree / "none"), "--name", "x"]) == 2
    assert main(["pack", "--source-dir", str(tree), "--name", "../x"]) == 2
    assert main(["pack", "--source-dir", str(tree / "again"), "--name", "x"]) == 2
    assert main(["create", str(tree)]) == 2
    assert main(["create", "-t", "tar-rafs", "-D", str(tmp_path / "o"), str(tree)]) == 2
    assert main(["create", "-B", str(tmp_path / "b"), str(tree)]) == 2
    assert main(["create", "-D", str(tmp_path / "o"), str(tree), "--chunk-size", "5"]) == 2
    assert not (tmp_path / "o").exists()
