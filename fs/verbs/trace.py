"""`nydus-fs trace show`: what a recorded mount touched first, file by file."""

from __future__ import annotations

import argparse
import json
import os
import sys

from fs.format.errors import Failure
from fs.image.trace import Heading, Paths, Touch, read_trace
from fs.image.tree import map_bootstrap


def run(arguments: argparse.Namespace) -> int:
    heading, touches = read_trace(arguments.file)
    paths = _paths(arguments.bootstrap or heading.bootstrap)
    if arguments.json:
        shown = [_fields(heading, touch, paths) for touch in touches]
        print(json.dumps(heading._asdict() | {"touches": shown}))
        return 0
    print(f"{heading.source}  {len(touches)} touches")
    for touch in touches:
        names = " ".join(paths.of(touch)) if paths else ""
        blob = heading.blobs[touch.blob_index][:12]
        print(f"{touch.at / 1e6:10.3f}  {blob}  {touch.offset:>12} {touch.length:>9}  {names}")
    return 0


def _paths(bootstrap: str) -> Paths | None:
    """None, with a line that says why, when the files cannot be named."""
    try:
        return Paths(map_bootstrap(bootstrap))
    except Failure as failure:
        print(f"nydus-fs: files have no names: {failure}", file=sys.stderr)
        return None


def _fields(heading: Heading, touch: Touch, paths: Paths | None) -> dict[str, object]:
    return {
        "time": touch.at / 1e6,
        "blob": heading.blobs[touch.blob_index],
        "offset": touch.offset,
        "length": touch.length,
        "nid": touch.nid,
        "files": [os.fsencode(name).decode(errors="replace") for name in paths.of(touch)]
        if paths
        else [],
    }
