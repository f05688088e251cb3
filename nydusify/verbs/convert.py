"""Convert a container image to a Nydus image: a bootstrap and one blob per layer.

SOURCE: a registry reference, oci:DIR[:TAG], docker-archive:FILE, oci-archive:FILE,
        containerd:NAME (an image of a containerd on this machine),
        dir:ROOTFS (a directory tree), layer:FILE (a tar file, plain, gzip or zstd)
TARGET: a registry reference, oci:DIR[:TAG], docker-archive:FILE

Nothing appears under the target's name before everything else is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fs.format.errors import UsageError
from nydusify.verbs import words
from nydusify.verbs.convert_arguments import EXAMPLES, add_convert_arguments
from nydusify.verbs.foreign_options import say_unused


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add_convert_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Convert, then print the table of figures. Raises Failure."""
    if arguments.output_json:
        _check_output(arguments.output_json)
    if arguments.reverse:
        _reverse(arguments)
        return
    from dataclasses import asdict

    from nydusify.operations.conversion import convert
    from nydusify.report import table, write_json
    from nydusify.verbs.convert_options import convert_options

    options = convert_options(arguments)
    say_unused(arguments)
    with words.working() as progress:
        report = convert(options, progress, _say)
    if arguments.output_json:
        write_json(asdict(report), arguments.output_json)
    print(json.dumps(asdict(report)) if arguments.json else table(report))


def _reverse(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    from nydusify.images.opened import ImagePlace
    from nydusify.operations.reverse import ReverseOptions, reverse
    from nydusify.report import write_json
    from nydusify.verbs.convert_options import convert_options

    options = convert_options(arguments)
    if len(options.platforms) > 1 or options.all_platforms:
        raise UsageError("--reverse makes one image: name one --platform")
    source = ImagePlace(
        options.source,
        next(iter(options.platforms), None),
        options.source_store,
        backend_type=arguments.source_backend_type,
        backend_config=arguments.source_backend_config,
    )
    with words.working() as progress:
        report = reverse(
            source,
            options.target,
            options.target_store,
            progress,
            ReverseOptions(arguments.layer_compression, arguments.single_layer, options.work_dir),
            _say,
        )
    if arguments.output_json:
        write_json(asdict(report), arguments.output_json)
    print(json.dumps(asdict(report)) if arguments.json else report)


def _say(note: str) -> None:
    print(f"nydusify: {note}", file=sys.stderr)


def _check_output(path: Path) -> None:
    """UsageError now, rather than after the image is published."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--output-json {path}: no file can be written there")
