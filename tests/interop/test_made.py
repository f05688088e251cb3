"""Images of every kind that nydus-image makes are mounted, checked and unpacked.

Of what is kept here always, of new ones where nydus-image is asked for (`./dev interop`).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fs.format.errors import FormatError
from nydusify.cli import main as nydusify
from tests.interop.making import KINDS, kept_images, make_images, make_tree
from tests.interop.test_nydus import program
from tests.kinds.mounted import served
from tests.parts.trees import Entry, differences, scan

pytestmark = [pytest.mark.root, pytest.mark.fuse]

READ = [name for name in KINDS if not name.startswith("encrypted")]
#: Mounts cost time; what of reading does not depend on them is tried by `check` for all kinds.
WAYS = [
    *(
        ("fuse", name)
        for name in ("v5", "v6-toc", "v6-dictionary", "batch-64k", "tarfs", "zran", "external")
    ),
    *(
        pytest.param("erofs", name, marks=pytest.mark.erofs)
        for name in ("v6-dictionary", "batch-lz4", "tarfs", "zran-64k")
    ),
]


@pytest.fixture(scope="module", params=["kept", pytest.param("new", marks=pytest.mark.nydusd)])
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp(request.param)
    if request.param == "kept":
        kept_images(work)
    else:
        make_images(program("nydus-image"), work)
    return work


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, Entry]:
    return scan(make_tree(tmp_path_factory.mktemp("made") / "tree"))


def is_kept(images: Path) -> bool:
    """Those are by one version of nydus-image; 2.2 writes some things that we would not."""
    return images.name.startswith("kept")


def place_of(images: Path, name: str) -> Path:
    if not (images / name).exists():
        pytest.skip("this nydus-image does not make them")
    return images / name


def part_of(expected: dict[bytes, Entry], name: str) -> dict[bytes, Entry]:
    """What an image of that kind shows of the tree."""
    if name != "external":
        return expected
    return {path: expected[path] for path in (b".", b"dir", b"dir/middle")}


@pytest.mark.parametrize(("driver", "name"), WAYS)
def test_it_is_mounted(
    images: Path, expected: dict[bytes, Entry], name: str, driver: str, tmp_path: Path
) -> None:
    made = place_of(images, name)
    with served(made / "image.boot", made / "blobs", tmp_path, driver) as place:
        assert differences(part_of(expected, name), scan(place)) == []


@pytest.mark.parametrize("name", READ)
def test_it_is_checked_and_unpacked(
    images: Path,
    expected: dict[bytes, Entry],
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = place_of(images, name)
    image = [str(made / "image.boot"), "--blob-dir", str(made / "blobs")]
    for verb in ("check", "inspect", "stat"):
        assert nydusify([verb, *image]) == 0
        said = capsys.readouterr().out
        assert "note: " not in said or not is_kept(images)
    assert nydusify(["unpack", *image, "--output", str(tmp_path / "all.tar")]) == 0
    (tmp_path / "tree").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "all.tar", "-C", tmp_path / "tree"], check=True)
    found = scan(tmp_path / "tree", xattrs=False)
    assert {path: entry.content for path, entry in found.items()} == {
        path: entry.content for path, entry in part_of(expected, name).items()
    }


@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith("encrypted")])
def test_it_is_refused(
    images: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = place_of(images, name)
    with (
        pytest.raises(FormatError, match="encrypted blobs are not supported"),
        served(made / "image.boot", made / "blobs", tmp_path, "auto"),
    ):
        pass
    assert nydusify(["check", str(made / "image.boot"), "--blob-dir", str(made / "blobs")]) == 3
    message = f"nydusify: {made}/image.boot: blob 0: encrypted blobs are not supported"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tarfs", "external"])
def test_a_changed_blob_that_only_the_whole_proves_is_not_served(
    images: Path, name: str, tmp_path: Path
) -> None:
    made = place_of(images, name)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for blob in (made / "blobs").iterdir():
        content = bytearray(blob.read_bytes())
        content[100] ^= 1  # which no file has
        (blobs / blob.name).write_bytes(content)
    with (
        served(made / "image.boot", blobs, tmp_path, "fuse") as place,
        pytest.raises(OSError, match="Input/output error"),
    ):
        (place / "dir/middle").read_bytes()
    assert nydusify(["check", str(made / "image.boot"), "--blob-dir", str(blobs)]) == 4
