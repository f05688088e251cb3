"""What is kept of converted layers on this machine: list it, or make room.

Every conversion keeps its layers, and uses those that are kept, up to --layer-cache-size.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from nydusify.verbs.convert_arguments import add_cache_directory

EXAMPLES = """\
examples:
  nydusify cache ls
  nydusify cache prune --size 2GiB
  nydusify cache prune
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("what", choices=("ls", "prune"), help="list, or delete")
    parser.add_argument(
        "--size", metavar="SIZE", default="0", help="prune the least recently used down to so much"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_cache_directory(parser)


def run(arguments: argparse.Namespace) -> None:
    from nydusify.layers.layer_cache import LayerCache
    from nydusify.options import parse_size
    from nydusify.report import size_text
    from nydusify.verbs.convert_options import cache_directory

    limit = parse_size(arguments.size)
    directory = cache_directory(arguments)
    if directory is None or not directory.is_dir():
        print("[]" if arguments.json else f"nothing is kept in {directory}", file=sys.stdout)
        return
    cache = LayerCache(directory, sys.maxsize)
    try:
        if arguments.what == "prune":
            freed = cache.prune(limit)
            print(json.dumps({"freed_bytes": freed}) if arguments.json else f"{freed} bytes freed")
            return
        entries = cache.entries()
    finally:
        cache.close()
    if arguments.json:
        print(json.dumps([entry._asdict() for entry in entries]))
        return
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.last_use))
        print(f"{entry.key[:19]}  {size_text(entry.size):>10}  used {used}  {entry.source}")
