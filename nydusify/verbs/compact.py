"""Rewrite the blobs of an image that are mostly unused, and put small ones together.

With --source and --target an image is published anew; blobs that stay are not sent again.
With --bootstrap and --output-bootstrap, new blobs are written to --blob-dir.

example:
  nydusify compact --source registry.example.com/app:nydus --target registry.example.com/app:small
  nydusify compact --bootstrap image.boot --blob-dir blobs/ --output-bootstrap new.boot
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fs.format.errors import UsageError, local_errors
from nydusify.verbs import words

if TYPE_CHECKING:
    from nydusify.operations.compaction import CompactOptions

_SETTINGS = ("min_used_ratio", "compact_blob_size", "max_compact_size", "layers_to_compact")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--source", metavar="IMAGE", help="the image to compact")
    source.add_argument("-B", "--bootstrap", metavar="FILE", help="or its bootstrap")
    add("--target", metavar="IMAGE", help="where the new image goes")
    add("-O", "--output-bootstrap", type=Path, metavar="FILE", help="where the new bootstrap goes")
    words.add_blobs(parser)
    add("--chunk-dict", metavar="IMAGE", help="whose blobs are left alone")
    add("--min-used-ratio", type=int, metavar="N",
        help="rewrite blobs of which less than N per cent are used (default: 50)")  # fmt: skip
    add("--compact-blob-size", type=int, metavar="BYTES",
        help="put blobs together that use less than this (default: 10485760)")  # fmt: skip
    add("--max-compact-size", type=int, metavar="BYTES",
        help="up to this size (default: 104857600)")  # fmt: skip
    add("--layers-to-compact", type=int, metavar="N",
        help="leave images of fewer blobs alone (default: 0)")  # fmt: skip
    add("--config", type=Path, metavar="FILE", help="these four in JSON, as nydus-image has them")
    add("--json", action="store_true", help="tell what was done as JSON")
    words.add_access(parser, sides=True)
    words.add_work_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    if (arguments.source is None) != (arguments.target is None):
        raise UsageError("--source goes with --target")
    if (arguments.bootstrap is None) != (arguments.output_bootstrap is None):
        raise UsageError("--bootstrap goes with --output-bootstrap")
    from dataclasses import asdict

    from nydusify.images.opened import ImagePlace
    from nydusify.operations.compaction import compact_files, compact_image
    from nydusify.report import size_text

    options = _options(arguments)
    platform = words.platform(arguments)
    source = ImagePlace(
        arguments.bootstrap if arguments.source is None else arguments.source,
        platform,
        words.store_of(arguments, "source"),
        blob_dir=arguments.blob_dir,
        blob=arguments.blob,
        backend_type=arguments.backend_type,
        backend_config=arguments.backend_config_file,
    )
    dictionary = None
    if arguments.chunk_dict is not None:
        dictionary = ImagePlace(arguments.chunk_dict, platform, source.store)
    work = words.work_dir(arguments)
    with words.working() as progress:
        if arguments.target is not None:
            store = words.store_of(arguments, "target")
            done = compact_image(
                source, arguments.target, store, options, progress,
                dictionary=dictionary, work_dir=work,
            )  # fmt: skip
        else:
            done = compact_files(
                source, arguments.output_bootstrap, options, progress,
                dictionary=dictionary, work_dir=work,
            )  # fmt: skip
    if arguments.json:
        print(json.dumps(asdict(done)))
        return
    print(
        f"{len(done.rewritten)} blobs became {len(done.new)}: {size_text(done.stored_before)} are"
        f" {size_text(done.stored_after)} now, {size_text(done.written)} of it new\n"
        f"{done.target}{'@' + done.target_digest if done.target_digest else ''}"
    )


def _options(arguments: argparse.Namespace) -> CompactOptions:
    from nydusify.operations.compaction import CompactOptions

    told: dict[str, Any] = {}
    if arguments.config is not None:
        told = _config(arguments.config)
    told |= {name: value for name in _SETTINGS if (value := getattr(arguments, name)) is not None}
    if any(value < 0 for value in told.values()) or told.get("min_used_ratio", 0) > 99:
        raise UsageError("--min-used-ratio is from 0 to 99, and no size is negative")
    return CompactOptions(**told)


def _config(path: Path) -> dict[str, Any]:
    with local_errors(path):
        raw = path.read_bytes()
    try:
        document = json.loads(raw)
        if not isinstance(document, dict):
            raise TypeError
        return {name: int(document[name]) for name in _SETTINGS if name in document}
    except (ValueError, TypeError):
        raise UsageError(f"{path}: not a JSON object of numbers") from None
