"""`nydus-fs umount`."""

from __future__ import annotations

import argparse

from fs.daemon.launch import unmount


def run(arguments: argparse.Namespace) -> int:
    unmount(arguments.mountpoint, lazy=arguments.lazy, state_root=arguments.state_root)
    return 0
