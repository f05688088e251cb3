"""Create a RAFS file system from a directory or a tar file, called as nydus-image is.

example:
  nydusify create -t dir-rafs -D images/ rootfs/
  nydusify create -t targz-rafs --bootstrap layer.boot --blob-dir blobs/ layer.tar.gz
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fs.format.errors import UsageError, local_errors
from nydusify.verbs import pack, words

_DIRECTORIES = ("dir-rafs", "directory")
_TARS = ("tar-rafs", "targz-rafs", "estargz-rafs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="a directory or a tar file")
    add("-t", "--type", "--source-type", default="dir-rafs", choices=(*_DIRECTORIES, *_TARS),
        help="what SOURCE is (default: %(default)s)")  # fmt: skip
    add("-B", "--bootstrap", type=Path, metavar="FILE", help="write the bootstrap here")
    add("-D", "--blob-dir", type=Path, metavar="DIR",
        help="write the blob here by its id, and the bootstrap by its sha256")  # fmt: skip
    add("-b", "--blob", type=Path, metavar="FILE", help="write the blob here")
    add("--parent-bootstrap", metavar="SOURCE", help="put the directory on top of this")
    add("--whiteout-spec", default="oci", choices=("oci", "overlayfs", "none"),
        help="how a directory hides names of the parent (default: %(default)s)")  # fmt: skip
    pack.add_format(parser)
    add("--json", action="store_true", help="tell what was made as JSON")
    add("-J", "--output-json", type=Path, metavar="FILE", help="the same to a file")
    words.add_access(parser)
    words.add_work_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    if (arguments.type in _DIRECTORIES) != arguments.source.is_dir():
        raise UsageError(f"{arguments.source}: is not what --type {arguments.type} says")
    if arguments.blob_dir is None and arguments.bootstrap is None:
        raise UsageError("--bootstrap FILE or --blob-dir DIR says where the bootstrap goes")
    if arguments.blob_dir is None and arguments.blob is None:
        raise UsageError("--blob FILE or --blob-dir DIR says where the blob goes")
    options = pack.pack_options(
        arguments,
        source=arguments.source,
        blob_dir=arguments.blob_dir,
        bootstrap=arguments.bootstrap,
        blob=arguments.blob,
        spec=arguments.whiteout_spec,
    )
    done = pack.build(options)
    if arguments.output_json:
        from dataclasses import asdict

        with local_errors(arguments.output_json):
            arguments.output_json.write_text(json.dumps(asdict(done), indent=2) + "\n")
    pack.report(done, as_json=arguments.json)
