"""The merged tree equals what containerd itself unpacks and mounts."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nydusify.cli import main
from tests.nydusify.images import pulled_tree
from tests.nydusify.test_convert import publish, stack
from tests.parts.containerd import start_containerd
from tests.parts.layers import unlike, with_least_names
from tests.parts.stacks import UPPERS, base
from tests.parts.trees import scan

pytestmark = [pytest.mark.containerd, pytest.mark.overlay, pytest.mark.root]

Ctr = Callable[..., str]

#: Stacks in which we do what the specification says and containerd's unpacker does not:
#: it follows the order of entries, refuses hard links to lower layers, and
#: lists whiteouts of nothing, and where a directory takes the place of a lower layer's link
#: gives it the attributes of what the link led to.
OTHERWISE = {name for name in UPPERS if name.startswith("hard link") and "through" not in name} - {
    "hard link to a link"
} | {
    "whiteouts",
    "link parent below",
    "whiteout and file",
    "whiteout and directory",
    "opaque root",
    "aufs files",
}


@pytest.fixture(scope="module")
def ctr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ctr]:
    """`ctr` on a containerd of our own."""
    with start_containerd(tmp_path_factory.mktemp("c")) as containerd:
        yield containerd.ctr


def compare(ctr: Ctr, tars: list[bytes], tmp_path: Path) -> list[str]:
    """What differs between our tree and containerd's; a root entry is what it passes over."""
    publish(f"oci:{tmp_path}/in:a", tars)
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        archive.add(tmp_path / "in", ".")
    name = f"example.test/{tmp_path.name}".lower().replace("_", "")
    ctr("image", "import", "--snapshotter", "overlayfs", "--index-name", f"{name}:a",
        tmp_path / "in.tar")  # fmt: skip
    point = tmp_path / "mnt"
    point.mkdir()
    ctr("image", "mount", f"{name}:a", point)
    try:
        expected = with_least_names(scan(point))
    finally:
        ctr("image", "unmount", "--rm", point)
    assert main(["convert", "--source", f"oci:{tmp_path}/in:a",
                 "--target", f"oci:{tmp_path}/out:a"]) == 0  # fmt: skip
    found = pulled_tree(f"oci:{tmp_path}/out:a", tmp_path)
    expected[b"."] = found[b"."]
    return unlike(expected, found)


def test_a_real_stack(ctr: Ctr, tmp_path: Path) -> None:
    assert compare(ctr, stack(), tmp_path) == []


@pytest.mark.parametrize("name", sorted(UPPERS.keys() - OTHERWISE))
def test_two_layers(ctr: Ctr, name: str, tmp_path: Path) -> None:
    assert compare(ctr, [base().tar(), UPPERS[name].tar()], tmp_path) == []
