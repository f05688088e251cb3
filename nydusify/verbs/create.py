"""Create a RAFS file system from a directory or a layer's file, called as nydus-image is.

--type says what SOURCE is and what is made of it: of dir-rafs (or directory), tar-rafs,
targz-rafs and estargz-rafs a file system with a blob of its own. targz-ref and estargz-ref
leave the layer as it is and make a bootstrap and a blob of metadata; estargztoc-ref (or
stargz_index) the same from an eStargz layer's table of contents, a JSON file. tar-tarfs makes
a bootstrap over a plain tar. Such layers have to be among the blobs, named by their sha256.

example:
  nydusify create -t dir-rafs -D images/ rootfs/
  nydusify create -t targz-rafs --bootstrap layer.boot --blob-dir blobs/ layer.tar.gz
  nydusify create -t targz-ref --bootstrap layer.boot --blob-dir blobs/ layer.tar.gz
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fs.format.errors import UsageError
from nydusify.verbs import pack, words
from nydusify.verbs.foreign_options import Refused, Unused, say_unused

_DIRECTORIES = ("dir-rafs", "directory")
_TARS = ("tar-rafs", "targz-rafs", "estargz-rafs")
#: What of a file is made without changing it, as PackOptions call it.
_FORMS = {
    "targz-ref": "reference",
    "estargz-ref": "reference",
    "tar-tarfs": "tarfs",
    "estargztoc-ref": "table",
    "stargz_index": "table",
}
#: Of stargz-snapshotter's layers.
_STARGZ_CHUNK_SIZE = "0x400000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="a directory or a file")
    add("-t", "--type", "--source-type", default="dir-rafs",
        choices=(*_DIRECTORIES, *_TARS, *_FORMS),
        help="what SOURCE is (default: %(default)s)")  # fmt: skip
    add("-B", "--bootstrap", type=Path, metavar="FILE", help="write the bootstrap here")
    add("-D", "--blob-dir", type=Path, metavar="DIR",
        help="write the blob here by its id, and the bootstrap by its sha256")  # fmt: skip
    add("-b", "--blob", type=Path, metavar="FILE", help="write the blob here")
    add("--parent-bootstrap", metavar="SOURCE", help="put the directory on top of this")
    add("--blob-id", metavar="SHA256", help="of the layer, for estargztoc-ref")
    add("--blob-data-size", metavar="SIZE", help="the layer's, for estargztoc-ref")
    add("--whiteout-spec", default="oci", choices=("oci", "overlayfs", "none"),
        help="how a directory hides names of the parent (default: %(default)s)")  # fmt: skip
    pack.add_format(parser)
    add("--prefetch-policy", default="none", choices=("fs", "none"),
        help="fs: standard input has absolute paths, one a line, that are put in front of the"
        " blob and read first (default: %(default)s)")  # fmt: skip
    add("--digester", default="blake3", choices=("blake3", "sha256"),
        help="of chunks; only blake3 (default: %(default)s)")  # fmt: skip
    add("--json", action="store_true", help="tell what was made as JSON")
    add("-J", "--output-json", type=Path, metavar="FILE", help="the same to a file")
    words.add_access(parser)
    words.add_work_dir(parser)
    _add_foreign(parser)


def _add_foreign(parser: argparse.ArgumentParser) -> None:
    """What else nydus-image has."""
    group = parser.add_argument_group("options of nydus-image that are refused")
    for names, value, why in (
        (("--blob-inline-meta",), None, "bootstraps are files of their own: --bootstrap FILE"),
        (("--external-blob",), "FILE", "blobs outside of the image's format are not made"),
        (("--attributes",), "FILE", "blobs outside of the image's format are not made"),
        (("-E", "--encrypt"), None, "encrypted images are not made"),
        (("--blob-cache-dir",), "DIR", "nydus-fs fills its cache itself"),
    ):
        nargs = None if value else 0
        group.add_argument(*names, action=Refused, nargs=nargs, metavar=value, help=why)
    group = parser.add_argument_group("options of nydus-image without effect")
    for names, value, why in (
        (("--features",), "blob-toc", "blobs have a table of contents always"),
        (("--aligned-chunk",), None, "chunks of version 6 are aligned always"),
        (("--repeatable",), None, "what is made is the same always"),
        (("-L", "--log-file"), "FILE", "messages go to standard error"),
        (("-l", "--log-level"), "LEVEL", "they are few"),
        (("-C", "--config"), "FILE", "nothing is read by one"),
    ):
        nargs = None if value else 0
        group.add_argument(*names, action=Unused, nargs=nargs, metavar=value, help=why)


def run(arguments: argparse.Namespace) -> None:
    if (arguments.type in _DIRECTORIES) != arguments.source.is_dir():
        raise UsageError(f"{arguments.source}: is not what --type {arguments.type} says")
    if arguments.blob_dir is None and arguments.bootstrap is None:
        raise UsageError("--bootstrap FILE or --blob-dir DIR says where the bootstrap goes")
    form = _FORMS.get(arguments.type, "rafs")
    if form == "tarfs":
        if arguments.blob is not None:
            raise UsageError("--type tar-tarfs makes no blob: the tar file is it")
    elif arguments.blob_dir is None and arguments.blob is None:
        raise UsageError("--blob FILE or --blob-dir DIR says where the blob goes")
    if form == "table":
        arguments.chunk_size = arguments.chunk_size or _STARGZ_CHUNK_SIZE
    if arguments.digester != "blake3":
        raise UsageError(f"--digester {arguments.digester}: chunks are digested with blake3 only")
    say_unused(arguments)
    options = pack.pack_options(
        arguments,
        source=arguments.source,
        blob_dir=arguments.blob_dir,
        bootstrap=arguments.bootstrap,
        blob=arguments.blob,
        spec=arguments.whiteout_spec,
        form=form,
        layer=_layer(arguments, form),
        prefetch=_prefetch(arguments, form),
    )
    done = pack.build(options)
    if arguments.output_json:
        from dataclasses import asdict

        from nydusify.report import write_json

        write_json(asdict(done), arguments.output_json)
    pack.report(done, as_json=arguments.json)


def _prefetch(arguments: argparse.Namespace, form: str) -> tuple[str, ...]:
    if arguments.prefetch_policy == "none":
        return ()
    if form != "rafs" or arguments.parent_bootstrap is not None:
        raise UsageError("--prefetch-policy fs goes with a file system of its own")
    return words.prefetch_patterns(sys.stdin.read().splitlines())


def _layer(arguments: argparse.Namespace, form: str) -> tuple[str, int]:
    """Which layer a table of contents is of, and its size in bytes."""
    given = arguments.blob_id, arguments.blob_data_size
    if form != "table":
        if given != (None, None):
            raise UsageError("--blob-id and --blob-data-size go with --type estargztoc-ref")
        return "", 0
    from fs.registry.digest import is_digest
    from nydusify.options import parse_size

    if None in given or not is_digest(f"sha256:{arguments.blob_id}"):
        raise UsageError("--type estargztoc-ref needs --blob-id SHA256 and --blob-data-size SIZE")
    return arguments.blob_id, parse_size(arguments.blob_data_size)
