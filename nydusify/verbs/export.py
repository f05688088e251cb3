"""Write a Nydus image as one disk image that Linux mounts as EROFS, with dm-verity's hash tree.

With --verity the options for veritysetup are printed; the last word is the root hash.

example:
  nydusify export --block --verity registry.example.com/app:nydus --output app.disk
  nydusify export --block --bootstrap image.boot --localfs-dir blobs/
  mount -t erofs -o loop app.disk /mnt
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nydusify.verbs import words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words.add_image(parser)
    parser.add_argument(
        "--block", action="store_true", required=True, help="as a block device's content"
    )
    parser.add_argument("--verity", action="store_true", help="append the hash tree of dm-verity")
    parser.add_argument(
        "-O",
        "--output",
        type=Path,
        metavar="FILE",
        help="the disk image (default: BOOTSTRAP.disk in --localfs-dir)",
    )
    parser.add_argument("--json", action="store_true", help="tell what was done as JSON")
    words.add_access(parser)
    words.add_work_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    place = words.image_place(arguments)
    from nydusify.outputs.disk import export_disk
    from nydusify.report import size_text

    with words.working() as progress:
        done = export_disk(
            place,
            arguments.output,
            progress,
            verity=arguments.verity,
            work_dir=words.work_dir(arguments),
        )
    if arguments.json:
        told = {"image": done.image, "output": done.output, "size": done.size,
                "block_size": done.block_size}  # fmt: skip
        if done.verity is not None:
            told |= {"verity": {**done.verity._asdict(), "options": done.verity.options}}
        print(json.dumps(told))
        return
    print(f"{done.output}: {size_text(done.size)}")
    if done.verity is not None:
        print(f"dm-verity options: {done.verity.options}")
