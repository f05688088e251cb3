"""Every kind of image that we make is served by nydusd, from a directory and from a registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.serving import Images, Programs, rows
from tests.interop.test_nydus import knows_batches, program

pytestmark = [pytest.mark.nydusd, pytest.mark.root, pytest.mark.fuse, pytest.mark.registry]


def test_nydusd_serves_every_kind(tmp_path: Path) -> None:
    theirs = Programs("this", Path(program("nydusd")).parent)
    found = dict(rows(Images(tmp_path), [theirs]))
    without_batches = {kind for kind in found if "-size 0" in kind or kind.endswith("none")}
    expected = found.keys() if knows_batches() else without_batches - {"--startup none"}
    assert {kind: found[kind] for kind in expected} == {kind: ["yes", "yes"] for kind in expected}
