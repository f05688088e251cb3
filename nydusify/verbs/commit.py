"""Make an image of what a container has written, on top of the image that it runs.

The container is one of lazyrun's; or --upper names the upper directory of any overlay mount
over a Nydus image, and --source that image. Stop the container first for an image of one moment.

example:
  nydusify commit --container build --target registry.example.com/app:built
  nydusify commit --upper /var/lib/x/upper --source registry.example.com/app:nydus \\
    --target registry.example.com/app:changed
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fs.format.errors import UsageError
from nydusify.verbs import words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--container", metavar="CONTAINER", help="name or identifier")
    which.add_argument("--upper", type=Path, metavar="DIR", help="or an upper directory itself")
    add("--root", metavar="DIR", help="lazyrun's root, if not the usual one")
    add("--source", metavar="IMAGE", help="the image below (default: the container's)")
    add("--target", required=True, metavar="IMAGE", help="where the new image goes")
    add("--maximum-times", type=int, default=400, metavar="N",
        help="how often an image may be committed (default: %(default)s)")  # fmt: skip
    add("--json", action="store_true", help="tell what was done as JSON")
    words.add_access(parser, sides=True)
    words.add_work_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    if arguments.upper is not None and arguments.source is None:
        raise UsageError("--upper goes with --source, the image below it")
    from dataclasses import asdict

    from nydusify.images.opened import ImagePlace
    from nydusify.operations.committing import Container, commit, find_container
    from nydusify.report import size_text

    if arguments.upper is not None:
        container = Container(arguments.source, arguments.upper)
    else:
        container = find_container(arguments.container, arguments.root)
    source = ImagePlace(
        arguments.source or container.image,
        words.platform(arguments),
        words.store_of(arguments, "source"),
    )
    with words.working() as progress:
        done = commit(
            container,
            arguments.target,
            source,
            words.store_of(arguments, "target"),
            progress,
            maximum_times=arguments.maximum_times,
            work_dir=words.work_dir(arguments),
        )
    if arguments.json:
        print(json.dumps(asdict(done)))
        return
    print(
        f"new layer of {size_text(done.blob_size)}, {size_text(done.pushed)} pushed of"
        f" {size_text(done.target_size)}\n{done.target}@{done.target_digest}"
    )
