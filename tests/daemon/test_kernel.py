"""The FUSE connection by itself: how it begins and ends, with and without root."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from fs import mounts
from fs.daemon import kernel
from fs.daemon.launch import is_mounted, mount_device, unmount_kernel
from fs.format.errors import MountError

pytestmark = [pytest.mark.root, pytest.mark.fuse]


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


def test_without_root_by_the_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fusermount3 hands over a descriptor that begins like our own."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)  # it need not be true: /dev/fuse may be 0600
    connection = kernel.connect(str(tmp_path), "a,source\\", nosuid=False)
    try:
        assert is_mounted(str(tmp_path))
        assert b" fuse.nydus a,source\\134 " in Path("/proc/self/mountinfo").read_bytes()
        assert not kernel.is_ended(connection.descriptor)
        unmount_kernel(str(tmp_path), lazy=False)
        assert kernel.is_ended(connection.descriptor)
    finally:
        os.close(connection.descriptor)
    with pytest.raises(MountError, match="fusermount3"):
        kernel.connect(str(tmp_path / "none"), "source", nosuid=False)
