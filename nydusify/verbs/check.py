"""Check a Nydus image: manifest, bootstrap, blobs, and its files against those of the source.

Every byte is read. With --source, all that can be seen of the files is compared
(names, types, modes, owners, times, link counts, extended attributes, contents),
and the configurations as well. Nothing is mounted.

example:
  nydusify check --source registry.example.com/app:1 --target registry.example.com/app:1-nydus
  nydusify check oci:images:nydus --json
  nydusify check --bootstrap image.boot --blob-dir blobs/
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nydusify.verbs import words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", metavar="IMAGE", help="compare with this image")
    words.add_image(parser)
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parser.add_argument("-J", "--output-json", type=Path, metavar="FILE", help="the same to a file")
    words.add_access(parser, sides=True)
    words.add_work_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print what was found; a Failure if anything is wrong."""
    from nydusify.images.opened import ImagePlace

    target = words.image_place(arguments)
    source = None
    if arguments.source is not None:
        store = words.store_of(arguments, "source")
        source = ImagePlace(arguments.source, target.platform, store)
    from nydusify.checks.checking import check
    from nydusify.report import write_json

    with words.working() as progress:
        checked = check(target, source, progress, words.work_dir(arguments))
    told = {"target": checked.target, "source": checked.source, "names": checked.names}
    told |= checked.findings.to_json()
    if arguments.output_json:
        write_json(told, arguments.output_json)
    if arguments.json:
        print(json.dumps(told))
    else:
        for rule in checked.findings.tried:
            lines = checked.findings.problems[rule]
            print(f"{rule}: {'ok' if not lines else ''}".rstrip())
            for line in lines:
                print(f"  {line}")
        for note in checked.findings.notes:
            print(f"note: {note}")
    if not checked.findings.ok:
        raise checked.findings.failure(checked.target)
