"""Images that Nydus's own builder made, through the kernel."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from fs.daemon import launch
from tests.daemon.mounting import Place

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture
def mounted(samples: Path, here: Place, request: pytest.FixtureRequest) -> Path:
    options = here.options._replace(blob_dir=str(samples))
    launch.mount(str(samples / request.param), str(here.mountpoint), options)
    return here.mountpoint


def _md5_sums(root: Path) -> dict[str, str]:
    return {
        f"/{path.relative_to(root)}": hashlib.md5(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@pytest.mark.parametrize("mounted", ["rafs-v6-2.2.boot"], indirect=True)
def test_v6(mounted: Path, here: Place) -> None:
    assert _md5_sums(mounted) == {
        "/lib.rs": "4709cf8873e419ecedc7d43fdee4a75f",
        "/sync_io.rs": "5442bc7dc9dc5f985c7594e23866ae6f",
    }
    here.unmount()


@pytest.mark.parametrize("mounted", ["rafs-v5-sha256.boot"], indirect=True)
def test_v5(mounted: Path, samples: Path, here: Place) -> None:
    report = (samples / "rafs-v5-sha256.result.json").read_text()
    sums = re.findall(r"^([0-9a-f]{32})  (/.*)$", report, re.MULTILINE)
    assert len(sums) == 23
    assert _md5_sums(mounted) == {path: md5 for md5, path in sums}
    names = ["hardlink-test/foo", "hardlink-test/test.sh", "normal-file-test/test.sh"]
    assert len({(mounted / name).stat().st_ino for name in names}) == 1
    here.unmount()
