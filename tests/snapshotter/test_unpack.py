"""Unpacked plain layers against the kernel's overlayfs over an independent unpacking."""

from __future__ import annotations

import gzip
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs import mounts
from fs.format.errors import FormatError, VerifyError
from fs.registry.store import open_reader
from snapshotter.images import DirectoryImages
from snapshotter.overlay import mount_layers
from snapshotter.pull import pull
from snapshotter.store import Store
from tests.parts.examples import examples
from tests.parts.layers import LayerTar, expected_tree, overlay_of, unlike
from tests.parts.plain import publish, write_plain_image
from tests.parts.stacks import ENTRIES, UPPERS, alpine, base, layer_of
from tests.parts.trees import Entry, differences, scan

pytestmark = [pytest.mark.overlay, pytest.mark.root]


def pulled_tree(target: str, work: Path) -> dict[bytes, Entry]:
    """The tree of an image that is pulled into a store of its own below `work`."""
    reader = open_reader(target)
    point = work / "point"
    point.mkdir()
    with Store(str(work / "store"), DirectoryImages()) as store:
        top, _ = pull(store, reader, None, lambda message: None)
        store.prepare("look", top)
        mount_layers(store.layers("look"), str(point))
        try:
            return expected_tree(point)
        finally:
            mounts.umount(point)
            reader.close()


def unpacked(tars: Sequence[bytes], work: Path) -> dict[bytes, Entry]:
    target = f"oci:{work}/layout:tag"
    write_plain_image(target, tars)
    return pulled_tree(target, work)


def assert_as_overlayfs(tars: Sequence[bytes], tmp_path: Path) -> None:
    oracle = tmp_path / "oracle"
    oracle.mkdir()
    with overlay_of(tars, oracle) as merged:
        expected = expected_tree(merged)
    assert unlike(expected, unpacked(tars, tmp_path)) == []


@pytest.mark.parametrize("name", UPPERS)
def test_two_layers(name: str, tmp_path: Path) -> None:
    assert_as_overlayfs([base().tar(), UPPERS[name].tar()], tmp_path)


def test_alpine(samples: Path, tmp_path: Path) -> None:
    assert_as_overlayfs(alpine(samples), tmp_path)


def test_every_entry_type(samples: Path, tmp_path: Path) -> None:
    assert_as_overlayfs([(samples / "all-entry-type.tar").read_bytes()], tmp_path)


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.lists(ENTRIES, max_size=8), min_size=1, max_size=3))
def test_generated_stacks(stack: list[Any]) -> None:
    """The same tree; or, where the kernel refuses to unpack a layer, a FormatError."""
    tars = [layer_of(entries) for entries in stack]
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        (work / "oracle").mkdir()
        try:
            with overlay_of(tars, work / "oracle") as merged:
                expected = expected_tree(merged)
        except OSError:
            with pytest.raises(FormatError):
                unpacked(tars, work)
            return
        assert unlike(expected, unpacked(tars, work)) == []


@pytest.mark.oci_tools
def test_umoci_unpacks_the_same(samples: Path, tmp_path: Path) -> None:
    tar = gzip.decompress((samples / "alpine.estargz.tar.gz").read_bytes())
    upper = LayerTar().add("etc/.wh.passwd").directory("opt/new", mode=0o750, uid=5).tar()
    target = f"oci:{tmp_path}/layout:tag"
    write_plain_image(target, [tar, upper])
    ours = pulled_tree(target, tmp_path)
    command = ["umoci", "raw", "unpack", "--image", f"{tmp_path}/layout:tag", f"{tmp_path}/umoci"]
    subprocess.run(command, check=True, capture_output=True)
    theirs = expected_tree(tmp_path / "umoci")
    del ours[b"."], theirs[b"."]  # umoci gives its own time to a root that has no entry
    for tree in (ours, theirs):  # and to directories that it writes into
        for path in (b"etc", b"opt"):
            tree[path] = tree[path]._replace(mtime_ns=0)
    assert differences(ours, theirs) == []


@pytest.mark.parametrize("packing", ["gzip", "zstd", "none"])
def test_packings(packing: str, tmp_path: Path) -> None:
    write_plain_image(f"oci:{tmp_path}/layout:tag", [base().tar()], packing=packing)
    assert pulled_tree(f"oci:{tmp_path}/layout:tag", tmp_path)[b"empty"].size == 0


ESCAPES = {
    "dots": LayerTar().add("../../../evil", data=b"x"),
    "absolute": LayerTar().add("/evil", data=b"x"),
    "link out": LayerTar().symlink("out", "../../../../../..").add("out/evil", data=b"x"),
    "absolute link": LayerTar().symlink("out", "/").add("out/evil", data=b"x"),
    "link replaced by directory": LayerTar().directory("d").symlink("d/s", "/tmp")
        .add("d/s/evil", data=b"x"),
    "write through link": LayerTar().symlink("evil", "/tmp/evil").add("evil", data=b"x"),
    "hard link out": LayerTar().symlink("out", "/etc").link("h", "out/passwd"),
    "hard link up": LayerTar().link("h", "../../../../etc/passwd"),
    "proc": LayerTar().symlink("out", "/proc/self/root/tmp").add("out/evil", data=b"x"),
    "whiteout through link": LayerTar().symlink("out", "/tmp").add("out/.wh.precious"),
}  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_is_written_outside(name: str, tmp_path: Path) -> None:
    """All that may change is the layer's own directory."""
    outside = Path("/tmp/evil")
    assert not outside.exists()
    passwd = Path("/etc/passwd").stat()
    before = scan(tmp_path)
    try:
        unpacked([ESCAPES[name].tar()], tmp_path)
    except FormatError:
        assert list((tmp_path / "store/snapshots").iterdir()) == []
    assert not outside.exists()
    assert not Path("/evil").exists()
    assert Path("/etc/passwd").stat() == passwd
    allowed = (b"store", b"layout", b"point")
    rest = {path for path in scan(tmp_path) if not path.startswith(allowed)}
    assert rest == before.keys()


def test_a_layer_that_ends_early_leaves_nothing(tmp_path: Path) -> None:
    tar = base().tar()
    cut = gzip.compress(tar[: len(tar) // 2])
    publish(
        f"oci:{tmp_path}/layout:tag",
        [("application/vnd.oci.image.layer.v1.tar+gzip", cut)],
        ["sha256:" + "0" * 64],
    )
    with pytest.raises(FormatError):
        pulled_tree(f"oci:{tmp_path}/layout:tag", tmp_path)
    assert list((tmp_path / "store/snapshots").iterdir()) == []


def test_the_diff_id_is_verified(tmp_path: Path) -> None:
    layer = ("application/vnd.oci.image.layer.v1.tar", base().tar())
    publish(f"oci:{tmp_path}/layout:tag", [layer], ["sha256:" + "0" * 64])
    with pytest.raises(VerifyError, match="decompressed"):
        pulled_tree(f"oci:{tmp_path}/layout:tag", tmp_path)
    assert list((tmp_path / "store/snapshots").iterdir()) == []


def test_the_stored_digest_is_verified(tmp_path: Path) -> None:
    write_plain_image(f"oci:{tmp_path}/layout:tag", [base().tar()], packing="none")
    for blob in (tmp_path / "layout/blobs/sha256").iterdir():
        content = blob.read_bytes()
        if b"aaaaaaaa" in content:
            blob.write_bytes(content.replace(b"aaaaaaaa", b"aaaabaaa", 1))
    with pytest.raises(VerifyError):
        pulled_tree(f"oci:{tmp_path}/layout:tag", tmp_path)
    assert list((tmp_path / "store/snapshots").iterdir()) == []


def test_layers_are_pulled_once(tmp_path: Path) -> None:
    upper = LayerTar().add("new").tar()
    write_plain_image(f"oci:{tmp_path}/one:tag", [base().tar()])
    write_plain_image(f"oci:{tmp_path}/two:tag", [base().tar(), upper])
    said: list[str] = []
    with Store(str(tmp_path / "store"), DirectoryImages()) as store:
        for name in ("one", "two", "two"):
            reader = open_reader(f"oci:{tmp_path}/{name}:tag")
            pull(store, reader, None, said.append)
            reader.close()
        assert len(list(store.walk())) == 2
    told = [message.partition("(")[2].partition(",")[0] for message in said]
    assert told == ["1 of 1 layers missing", "1 of 2 layers missing", "0 of 2 layers missing"]
