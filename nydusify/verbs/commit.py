"""Make an image of what a container has written, on top of the image that it runs.

The container is one of lazyrun's; or --upper names the upper directory of any overlay mount
over a Nydus image, and --source that image. Stop the container first for an image of one moment.

example:
  nydusify commit --container build --target registry.example.com/app:built
  nydusify commit --container build --target registry.example.com/app:built \\
    --with-path /var/lib/data --with-path '!/tmp'
  nydusify commit --upper /var/lib/x/upper --source registry.example.com/app:nydus \\
    --target registry.example.com/app:changed
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fs.format.errors import UsageError
from nydusify.verbs import words

if TYPE_CHECKING:
    from nydusify.operations.committing import Paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--container", metavar="CONTAINER", help="name or identifier")
    which.add_argument("--upper", type=Path, metavar="DIR", help="or an upper directory itself")
    add("--root", metavar="DIR", help="lazyrun's root, if not the usual one")
    add("--source", metavar="IMAGE", help="the image below (default: the container's)")
    add("--target", required=True, metavar="IMAGE", help="where the new image goes")
    add("--with-path", "--with-mount-path", action="append", default=[], metavar="PATH",
        help="a directory that is mounted in the running container is committed, too; !PATH:"
        " what was written there is not")  # fmt: skip
    add("--maximum-times", type=int, default=400, metavar="N",
        help="how often an image may be committed (default: %(default)s)")  # fmt: skip
    add("--json", action="store_true", help="tell what was done as JSON")
    words.add_access(parser, sides=True)
    words.add_work_dir(parser)


def _paths(texts: list[str]) -> Paths:
    """As nydusify has them: by commas or one by one, those with a "!" in front left out."""
    from fs.tar.paths import clean
    from nydusify.operations.committing import Paths

    added: list[list[bytes]] = []
    left_out: list[list[bytes]] = []
    for text in filter(None, (each.strip() for each in ",".join(texts).split(","))):
        path = text.removeprefix("!")
        names = clean(os.fsencode(path), "--with-path")
        if not path.startswith("/") or not names:
            raise UsageError(f"--with-path {text}: write an absolute path below the root")
        (added if path == text else left_out).append(names)
    return Paths(added, left_out)


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
            paths=_paths(arguments.with_path),
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
