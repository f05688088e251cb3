"""`nydus-fs status`: one mount or all, for people or as JSON."""

from __future__ import annotations

import argparse
import json
from typing import Any

from fs.daemon.launch import all_status, status


def run(arguments: argparse.Namespace) -> int:
    if arguments.mountpoint:
        found = [status(arguments.mountpoint, state_root=arguments.state_root)]
    else:
        found = all_status(arguments.state_root)
    if arguments.json:
        print(json.dumps(found))
    else:
        for mount in found:
            print(_line(mount))
    return 0


def _line(mount: dict[str, Any]) -> str:
    head = f"{mount['mountpoint']}  {mount['source']}  pid {mount['pid']}"
    if not mount["alive"]:
        return f"{head}  dead: unmount it"
    rate, error = mount["hit_rate"], mount["last_error"]
    parts = [
        head,
        mount["transport"],
        f"{mount['cached_chunks']} of {mount['chunks']} chunks here",
        f"{mount['fetched_bytes']} bytes in {mount['requests']} requests",
        "not read yet" if rate is None else f"{rate:.0%} hits",
        f"prefetch {mount['prefetch']['state']}",
        *([f"last error: {error}"] if error else []),
    ]
    return "  ".join(parts)
