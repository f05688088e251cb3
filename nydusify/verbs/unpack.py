"""Unpack a Nydus image into a tar file or a directory.

Owners, modes, times, hard links, devices and extended attributes are kept.

example:
  nydusify unpack registry.example.com/app:nydus --output app.tar
  nydusify unpack --bootstrap image.boot --blob-dir blobs/ --output-dir rootfs/
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fs.format.errors import UsageError
from nydusify.verbs import words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    words.add_image(parser)
    output = parser.add_mutually_exclusive_group(required=True)
    output.add_argument("-o", "--output", type=Path, metavar="FILE", help="a tar file; - is stdout")
    output.add_argument("--output-dir", type=Path, metavar="DIR", help="a new directory")
    parser.add_argument(
        "--lenient", action="store_true", help="into a directory: go on without what root must do"
    )
    parser.add_argument("--json", action="store_true", help="tell what was done as JSON")
    words.add_access(parser)
    words.add_work_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    place = words.image_place(arguments)
    to_stdout = str(arguments.output) == "-"
    if to_stdout and (arguments.json or sys.stdout.isatty()):
        raise UsageError("--output -: standard output is a terminal, or wanted for --json")
    from dataclasses import asdict

    from nydusify.operations.unpacking import unpack
    from nydusify.report import size_text

    with words.working() as progress:
        done = unpack(
            place,
            arguments.output or arguments.output_dir,
            progress,
            directory=arguments.output_dir is not None,
            lenient=arguments.lenient,
            work_dir=words.work_dir(arguments),
        )
    if arguments.json:
        print(json.dumps(asdict(done)))
    elif not to_stdout:
        left = f", {done.left_out} left out" if done.left_out else ""
        print(f"{done.output}: {done.entries} entries, {size_text(done.size)}{left}")
