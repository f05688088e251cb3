"""The demo image, lazily mounted, is the tree that overlayfs makes of its layers."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from benchmarks.demo import CACHE
from benchmarks.images.build import TAG, cached_image
from benchmarks.images.catalogue.languages import FLASK
from tests.conftest import programs_missing
from tests.e2e.commands import succeed
from tests.e2e.images import blob_path, manifest_of
from tests.parts.layers import expected_tree, overlay_of, unlike, with_least_names
from tests.parts.trees import scan

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.overlay]


@pytest.fixture(scope="module")
def image() -> Path:
    if reason := programs_missing("mmdebstrap"):
        pytest.skip(reason)
    return cached_image(FLASK, CACHE / "images", lambda text: None)


def test_tree_is_that_of_overlayfs(image: Path, tmp_path: Path) -> None:
    target = tmp_path / "nydus"
    succeed(
        "nydusify", "convert", "--source", f"oci:{image}:{TAG}", "--target", f"oci:{target}:nydus"
    )
    layers = [blob_path(image, layer["digest"]) for layer in manifest_of(image, TAG)["layers"]]
    tars = [gzip.decompress(path.read_bytes()) for path in layers]
    (tmp_path / "overlay").mkdir()
    with overlay_of(tars, tmp_path / "overlay") as merged:
        expected = expected_tree(merged)

    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    succeed(
        "nydus-fs", "mount", f"oci:{target}:nydus", mountpoint, "--cache-dir", tmp_path / "cache"
    )
    try:
        actual = with_least_names(scan(mountpoint))
    finally:
        succeed("nydus-fs", "umount", mountpoint)
    assert len(actual) > 5000
    assert unlike(expected, actual) == []
