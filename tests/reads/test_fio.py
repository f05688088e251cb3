"""fio writes a file that proves itself block by block, then verifies it through a mount."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fs.daemon import launch
from nydusify.cli import main as nydusify

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.erofs, pytest.mark.fio]

SIZE = 16 << 20


def fio(file: Path, *flags: str, **options: object) -> None:
    """Run one job on `file`; the check of blocks is fio's own and ends it at the first bad one."""
    wanted = {"name": "job", "filename": file, "size": SIZE, "bs": 4096, "verify": "crc32c"}
    wanted |= {"verify_fatal": 1, "randseed": 7, **options}
    words = [f"--{name}={value}" for name, value in wanted.items()]
    subprocess.run(
        ["fio", "--output-format=terse", *flags, *words], check=True, cwd=file.parent.parent
    )


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with one verifiable file in chunks of 64 KiB."""
    work = tmp_path_factory.mktemp("fio")
    (work / "tree").mkdir()
    fio(work / "tree/data", rw="write", do_verify=0)
    place = ["--source", f"dir:{work}/tree", "--target", f"oci:{work}/layout:t"]
    assert nydusify(["convert", *place, "--chunk-size", "0x10000"]) == 0
    return f"oci:{work}/layout:t"


@pytest.mark.parametrize("engine", ["psync", "mmap", "libaio"])
@pytest.mark.parametrize("driver", ["erofs", "fuse"])
def test_every_block_is_right(image: str, driver: str, engine: str, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    options = launch.MountOptions(
        cache_dir=str(tmp_path / "cache"), state_root=str(tmp_path / "state"), driver=driver
    )
    launch.mount(image, str(mountpoint), options)
    try:
        for order in ("randread", "read"):
            fio(mountpoint / "data", "--readonly", rw=order, ioengine=engine, iodepth=8)
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3\n")
    finally:
        launch.unmount(str(mountpoint), state_root=options.state_root)
