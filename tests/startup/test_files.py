"""The files of an image, found as a program in it would find them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.startup.trees import image_files, write_tree

_FOUND = {
    "/a/b/file": "/a/b/file",
    "/link/b/file": "/a/b/file",
    "/a/up/b/file": "/a/b/file",
    "/a/b/../b/./file": "/a/b/file",
    "//a//b//file": "/a/b/file",
    "/link/up/b": "/a/b",
    "/far/file": "/a/b/file",
    "/far/../file": None,
    "/a/b/file/more": None,
    "/a/b/file/more/still": None,
    "/loop/file": None,
    "/none/b/file": None,
    "/a/none/file": None,
    "/": "/",
    "/a/" + "b/../" * 100 + "b/file": "/a/b/file",
}


@pytest.mark.parametrize("backwards", [False, True], ids=["first", "asked before"])
def test_paths_lead_where_they_lead_in_the_image(tmp_path: Path, backwards: bool) -> None:
    """Whatever has been asked before."""
    root = write_tree(tmp_path / "root", {
        "/a/b/file": "x", "/link": "-> a", "/a/up": "-> ..//a", "/far": "-> /link/b/",
        "/loop": "-> loop",
    })  # fmt: skip
    with image_files(root, tmp_path) as files:
        asked = list(_FOUND)[:: -1 if backwards else 1]
        found = {path: files.find(path) for path in asked}
    assert {path: each and each.path for path, each in found.items()} == _FOUND
