"""Images that refer into layers where they are, as nydus-image makes them."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.interop.test_nydus import nydusd, run, tree
from tests.kinds.mounted import DRIVERS, served
from tests.nydusify.images import pull
from tests.nydusify.test_convert import convert, publish
from tests.parts.trees import Entry, differences, scan

__all__ = ["tree"]

pytestmark = [pytest.mark.nydusd, pytest.mark.root, pytest.mark.fuse]


@pytest.fixture(scope="module")
def layer(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("layer") / "layer.tar.gz"
    with (
        gzip.GzipFile(path, "wb", 6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        archive.add(tree, ".", filter=lambda member: None if member.isfifo() else member)
    return path


def referring(kind: str, layer: Path, work: Path) -> tuple[Path, Path]:
    """The bootstrap of a reference to `layer`, and the directory of blobs with it."""
    bootstrap, blobs = work / "image.boot", work / "blobs"
    blobs.mkdir()
    arguments: list[str | Path] = ["create", "--log-level", "warn", "--type", kind]
    run("nydus-image", *arguments, "--bootstrap", bootstrap, "--blob-dir", blobs, layer)
    shutil.copy(layer, blobs / hashlib.sha256(layer.read_bytes()).hexdigest())
    return bootstrap, blobs


def seen(scanned: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """What tar and Nydus keep of a tree: no fractions of times, no fifo (headers differ)."""
    return {
        path: entry._replace(mtime_ns=0, xattrs=())
        for path, entry in scanned.items()
        if path != b"fifo"
    }


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_gzip_layer_is_read_where_it_is(
    tree: Path, layer: Path, tmp_path: Path, driver: str
) -> None:
    bootstrap, blobs = referring("targz-ref", layer, tmp_path)
    with served(bootstrap, blobs, tmp_path, driver) as place:
        for _ in range(2):
            assert differences(seen(scan(tree)), seen(scan(place))) == []


@pytest.mark.samples
@pytest.mark.parametrize("kind", ["targz-ref", "estargz-ref"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_an_estargz_layer_is_read_where_it_is(
    samples: Path, tmp_path: Path, kind: str, driver: str
) -> None:
    layer = samples / "alpine.estargz.tar.gz"
    bootstrap, blobs = referring(kind, layer, tmp_path)
    expected = tmp_path / "expected"
    expected.mkdir()
    subprocess.run(["tar", "-xzf", layer, "-C", expected], check=True)
    content = {
        path: entry.content
        for path, entry in scan(expected).items()
        if b"stargz" not in path and b"landmark" not in path
    }
    with served(bootstrap, blobs, tmp_path, driver) as place:
        found = {path: entry.content for path, entry in scan(place).items()}
        assert {path: found.get(path) for path in content} == content


def test_nydusd_reads_the_layers_that_we_refer_to(tree: Path, layer: Path, tmp_path: Path) -> None:
    source, target = f"oci:{tmp_path}/in:1", f"oci:{tmp_path}/out:1"
    publish(source, [gzip.decompress(layer.read_bytes())])
    assert convert(source, target, "--oci-ref") == 0
    bootstrap, _ = pull(target, tmp_path)
    blobs = tmp_path / "out/blobs/sha256"
    with nydusd(bootstrap, blobs, tmp_path / "theirs") as place:
        found = seen(scan(place))
    expected = seen(scan(tree))
    # nydusd shows the names of one inode as several, whoever made the image.
    assert {path: (entry.mode, entry.size, entry.content) for path, entry in found.items()} == {
        path: (entry.mode, entry.size, entry.content) for path, entry in expected.items()
    }
