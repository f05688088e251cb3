"""`nydus-fs umount`."""

from __future__ import annotations

import argparse
import json

from fs.daemon.launch import unmount


def run(arguments: argparse.Namespace) -> int:
    unmount(arguments.mountpoint, lazy=arguments.lazy, state_root=arguments.state_root)
    if arguments.json:
        print(json.dumps({"mountpoint": arguments.mountpoint, "unmounted": True}))
    return 0
