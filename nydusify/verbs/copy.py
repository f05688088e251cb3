"""Copy an image, Nydus or ordinary, between registries, layouts and archives, unchanged.

SOURCE and TARGET are references, oci:DIR[:TAG], docker-archive:FILE or file://FILE (an
archive). What the target has is not sent again; what another repository of the same registry
has is mounted there. An index is copied whole unless --platform says which images.

example:
  nydusify copy --source registry.example.com/app:nydus --target mirror.example.com/app:nydus
  nydusify copy --source registry.example.com/app:1 --target file://./app.tar --platform linux/arm64
"""

from __future__ import annotations

import argparse
import json

from fs.format.errors import UsageError
from nydusify.verbs import words
from nydusify.verbs.words import add_access_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--source", required=True, metavar="SOURCE", help="what is copied")
    add("--target", required=True, metavar="TARGET", help="where it goes")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all-platforms", action="store_true", help="all images (the default)")
    which.add_argument(
        "--platform",
        metavar="OS/ARCH[,OS/ARCH]",
        help="of an image for several platforms only these",
    )
    add("--referrers", action="store_true", help="also what refers to the image (signatures, …)")
    add("--insecure", action="store_true", help="do not check certificates, and allow http")
    add("--source-insecure", action="store_true", help="only for the source")
    add("--target-insecure", action="store_true", help="only for the target")
    add("--json", action="store_true", help="tell what was done as JSON")
    add_access_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from fs.registry.platform import parse_platform
    from nydusify.operations.copying import copy, place_of
    from nydusify.report import size_text

    platforms = None
    if arguments.platform is not None:
        platforms = [parse_platform(text) for text in arguments.platform.split(",")]
    source = place_of(arguments.source, target=False)
    target = place_of(arguments.target, target=True)
    if source == target:
        raise UsageError("source and target are the same")
    with words.working() as progress:
        done = copy(
            source,
            target,
            words.store_of(arguments, "source"),
            words.store_of(arguments, "target"),
            progress,
            platforms=platforms,
            referrers=arguments.referrers,
        )
    if arguments.json:
        print(json.dumps(asdict(done)))
        return
    print(
        f"{done.manifests} manifests, {done.blobs} blobs of {size_text(done.size)},"
        f" {size_text(done.sent)} sent\n{done.target}@{done.target_digest}"
    )
