"""The FUSE connection by itself: how it begins and ends, with and without root."""

from __future__ import annotations

import os
import struct
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from fs import mounts
from fs.daemon import kernel
from fs.daemon.launch import is_mounted, mount_device, unmount_kernel
from fs.format.errors import MountError

pytestmark = [pytest.mark.root, pytest.mark.fuse]

_NOBODY = 65534


def test_mounted_and_unmounted(tmp_path: Path) -> None:
    mountpoint = tmp_path / "a b\\c\nd,e"
    mountpoint.mkdir()
    connection = kernel.connect(str(mountpoint), "source", nosuid=True)
    try:
        device = mount_device(str(mountpoint))
        assert device is not None
        kernel.widen_readahead(device)
        assert Path(f"/sys/class/bdi/{device}/read_ahead_kb").read_text() == "1024\n"
        length, opcode = struct.unpack_from("<II", connection.init)
        assert (length, opcode) == (len(connection.init), 26)
        assert not kernel.is_ended(connection.descriptor)
        unmount_kernel(str(mountpoint), lazy=False)
        assert kernel.is_ended(connection.descriptor)
        assert not is_mounted(str(mountpoint))
    finally:
        os.close(connection.descriptor)


def test_closing_the_last_descriptor_ends_the_connection(tmp_path: Path) -> None:
    connection = kernel.connect(str(tmp_path), "source", nosuid=False)
    os.close(connection.descriptor)
    with pytest.raises(OSError, match="not connected"):
        os.listdir(tmp_path)
    mounts.umount(tmp_path)


def test_mountpoint_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(MountError, match="No such file"):
        kernel.connect(str(tmp_path / "none"), "source", nosuid=False)


def test_without_root_by_the_helper() -> None:
    """fusermount3 hands over a descriptor that begins like our own."""
    mountpoint = Path("/tmp") / f"nydus-fs-{os.getpid()}"
    mountpoint.mkdir()
    os.chown(mountpoint, _NOBODY, _NOBODY)
    try:
        assert _as_nobody(lambda: _mount_and_unmount(str(mountpoint))) == 0
    finally:
        mountpoint.rmdir()


def _mount_and_unmount(mountpoint: str) -> None:
    connection = kernel.connect(mountpoint, "a,source", nosuid=False)
    assert is_mounted(mountpoint)
    assert not kernel.is_ended(connection.descriptor)
    unmount_kernel(mountpoint, lazy=False)
    assert kernel.is_ended(connection.descriptor)
    with pytest.raises(MountError):
        kernel.connect("/proc", "source", nosuid=False)


def _as_nobody(action: Callable[[], None]) -> int:
    """Exit code of a child without privileges in which `action` ran: 0 if it returned."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        action()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
