"""Make an image of only those files that a traced run has read, and what must not be missing.

Accounts, certificates, loader and name service configuration, licences, package lists,
directories and links stay in any case; --keep names more (a pattern; a directory means all
below it). Test the result: a run that takes another way may miss a file.

example:
  lazyrun run --trace app.trace registry.example.com/app:nydus
  nydusify slim --source registry.example.com/app:nydus --trace app.trace \\
    --target registry.example.com/app:slim --keep '/usr/share/zoneinfo' --report left-out.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nydusify.verbs import words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--source", required=True, metavar="IMAGE", help="the Nydus image that was run")
    add("--target", required=True, metavar="IMAGE", help="where the slim image goes")
    add("--trace", required=True, metavar="FILE", help="what the run touched (lazyrun run --trace)")
    add("--keep", action="append", default=[], metavar="PATTERN",
        help="keep this too: /usr/share/zoneinfo, '*.so'; may be given often")  # fmt: skip
    add("--plain", action="store_true", help="make an ordinary OCI image, not a Nydus image")
    add("--report", type=Path, metavar="FILE", help="write every path that was left out, as JSON")
    add("--json", action="store_true", help="print the same JSON")
    words.add_access(parser, sides=True)
    words.add_work_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from nydusify.images.opened import ImagePlace
    from nydusify.operations.slimming import by_directory, slim
    from nydusify.report import size_text, write_json

    source = ImagePlace(
        arguments.source, words.platform(arguments), words.store_of(arguments, "source")
    )
    with words.working() as progress:
        done = slim(
            source,
            arguments.target,
            words.store_of(arguments, "target"),
            arguments.trace,
            progress,
            keep=arguments.keep,
            plain=arguments.plain,
            work_dir=words.work_dir(arguments),
        )
    directories = by_directory(done.left)
    told = {**asdict(done), "directories": directories}
    if arguments.report:
        write_json(told, arguments.report)
    if arguments.json:
        print(json.dumps(told))
        return
    print(f"kept {done.kept_files} files of {size_text(done.kept_size)}, left out"
          f" {done.left_files} of {size_text(done.left_size)}; most of it below")  # fmt: skip
    for name, sums in list(directories.items())[:10]:
        print(f"{size_text(sums['size']):>11}  {name}  ({sums['files']} files)")
    print(f"stored: {size_text(done.stored_before)} are {size_text(done.stored_after)} now")
    print(f"{done.target}@{done.target_digest}")
