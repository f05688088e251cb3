"""The arguments of `nydusify convert`, in groups; names as Nydus's own nydusify has them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nydusify.verbs.foreign_options import Unused
from nydusify.verbs.words import add_access_arguments, add_batch_size

EXAMPLES = """\
examples:
  nydusify convert --source registry.example.com/app:1 --target-suffix -nydus
  nydusify convert --source-archive saved.tar --target oci:images:app
  nydusify convert --source containerd:registry.example.com/app:1 --target oci:images:app
  nydusify convert --source private.example.com/app:1 --target oci:images:app \\
    --auth-file login.json --ca-file ca.pem
  nydusify convert --source registry.example.com/app:1 --target registry.example.com/app:both \\
    --all-platforms --merge-platform
  nydusify convert --source registry.example.com/app:1 --target registry.example.com/app:lazy \\
    --oci-ref
  nydusify convert --source oci:images:1 --target oci:images:raw \\
    --compressor none --chunk-size 64KiB
  nydusify convert --source oci:images:1 --target oci:images:small \\
    --chunk-dict registry.example.com/dict:1
  nydusify convert --source oci:images:1 --target oci:images:quick \\
    --prefetch-patterns /usr/bin/app /etc/app
  nydusify convert --source oci:images:1 --target oci:images:split \\
    --backend-type localfs --backend-config '{"dir": "/srv/blobs"}'
  nydusify convert --source oci:images:1 --target registry.example.com/app:again \\
    --build-cache registry.example.com/cache:app
  nydusify convert --reverse --source registry.example.com/app:nydus --target oci:images:plain
"""


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    _add_places(parser.add_argument_group("places"))
    _add_platforms(parser.add_argument_group("platforms and kinds of the target"))
    _add_format(parser.add_argument_group("format"))
    _add_startup(parser.add_argument_group("what is read first"))
    _add_backend(parser.add_argument_group("blobs outside of the target"))
    _add_caches(parser.add_argument_group("layers that were converted before"))
    add_access_arguments(parser)
    _add_reverse(parser.add_argument_group("the other way"))
    _add_work(parser.add_argument_group("this run"))


def _add_places(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--source", metavar="SOURCE", help="the image to convert")
    add(
        "--source-archive",
        metavar="FILE",
        help="an image in a tar file: what `docker save` writes, or an OCI archive;"
        " --source then says which image of it",
    )
    add("--target", metavar="TARGET", help="where the Nydus image goes")
    add("--target-suffix", metavar="SUFFIX", help="target is the source with this added to its tag")
    add(
        "--target-archive",
        metavar="FILE",
        help="same as docker-archive:FILE; --target then is the image's name in it",
    )
    add(
        "--source-insecure",
        action="store_true",
        help="do not check the source's certificate, and allow http",
    )
    add("--target-insecure", action="store_true", help="the same for the target")


def _add_platforms(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--platform",
        metavar="OS/ARCH[,…]",
        help="of an image for several platforms: these (default: this machine's)",
    )
    add("--all-platforms", action="store_true", help="all of Linux that the source has")
    add(
        "--merge-platform",
        "--multi-platform",
        action="store_true",
        help="target is an index with the plain images as well, for those who cannot mount",
    )
    add(
        "--with-referrer",
        action="store_true",
        help="target says that it refers to the source, whose readers can find it by that",
    )
    add("--docker-v2-format", action="store_true", help="Docker's media types instead of OCI's")
    add("--oci", action="store_true", help="OCI's media types; they are the default")


def _add_format(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--fs-version", default="6", metavar="6", help="RAFS version; only 6")
    add(
        "--compressor",
        choices=("zstd", "lz4_block", "gzip", "none"),
        help="of chunks (default: zstd, at a higher level where a layer would hardly become"
        " smaller than it was with gzip)",
    )
    add(
        "--fs-chunk-size",
        "--chunk-size",
        default="0x100000",
        metavar="SIZE",
        help="power of two from 4 KiB to 16 MiB: 0x100000, 1MiB (default: %(default)s)",
    )
    add(
        "--oci-ref",
        action="store_true",
        help="convert nothing: layers are read where they are, and only metadata is pushed",
    )
    add_batch_size(group)
    add(
        "--chunk-dict",
        default="",
        metavar="DICT",
        help="an image or bootstrap whose chunks are not stored again:"
        " bootstrap:registry:REFERENCE, bootstrap:local:FILE, or a place as for --source",
    )
    add("--chunk-dict-insecure", action="store_true", help="as --source-insecure, for that")
    add(
        "--fs-align-chunk",
        "--backend-aligned-chunk",
        action=Unused,
        nargs=0,
        help="no effect: chunks of version 6 are aligned always",
    )


def _add_startup(group: argparse._ArgumentGroup) -> None:
    listed = group.add_mutually_exclusive_group()
    listed.add_argument(
        "--prefetch-patterns",
        nargs="*",
        metavar="PATH",
        help="absolute paths in"
        " the image to read first after a mount; with no value, one a line from"
        " standard input",
    )
    listed.add_argument("--prefetch-dir", metavar="PATH", help="the same for one path")
    group.add_argument(
        "--startup",
        choices=("auto", "blob", "guess", "none"),
        help="guess from the image's files what else its start reads, and list that (guess),"
        " copy all that is read first to a blob of its own (blob), or only what pays most (auto)."
        " Default: auto, with a guess where neither these paths nor the layers say it",
    )


def _add_backend(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--backend-type",
        metavar="TYPE",
        choices=("localfs", "s3", "oss"),
        help="localfs or s3: blobs are put in a directory or a bucket, and not into the target",
    )
    add("--backend-config", metavar="JSON", help="the backend's configuration, as nydusd has it")
    add("--backend-config-file", metavar="FILE", help="the same in a file")
    add("--backend-force-push", action="store_true", help="put there even what is there")


def _add_caches(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add_cache_directory(group)
    add("--no-layer-cache", action="store_true", help="neither look there nor keep anything")
    add(
        "--layer-cache-size",
        metavar="SIZE",
        default="10GiB",
        help="what it may take: 500MiB, 20GiB; the least recently used goes (default: %(default)s)",
    )
    registry = group.add_mutually_exclusive_group()
    registry.add_argument(
        "--build-cache", metavar="REF", help="look there, too, and put new ones there"
    )
    registry.add_argument(
        "--build-cache-tag", metavar="TAG", help="the same, under another tag of the target"
    )
    add(
        "--build-cache-version",
        metavar="TEXT",
        default="v1",
        help="of the entries that are used and made (default: %(default)s)",
    )
    add(
        "--build-cache-max-records",
        metavar="N",
        type=int,
        default=200,
        help="how many layers it keeps, at most 200 (default: %(default)s)",
    )
    add("--build-cache-insecure", action="store_true", help="as --target-insecure")


def add_cache_directory(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    group.add_argument(
        "--layer-cache",
        type=Path,
        metavar="DIR",
        help="where they are kept on this machine (default: $NYDUSIFY_CACHE;"
        " /var/cache/nydusify for root, else below $XDG_CACHE_HOME)",
    )


def _add_reverse(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--reverse",
        action="store_true",
        help="make an ordinary OCI image of a Nydus image: its original where that is beside it,"
        " else a layer for each blob",
    )
    add(
        "--layer-compression",
        default="gzip",
        choices=("gzip", "zstd", "none"),
        help="of layers that --reverse makes (default: %(default)s)",
    )
    add("--single-layer", action="store_true", help="have --reverse make one layer of all files")
    add("--source-backend-type", metavar="TYPE", help="where the source's blobs are, if elsewhere")
    add(
        "--source-backend-config",
        metavar="FILE",
        help="that backend's configuration: a file, or JSON",
    )


def _add_work(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--work-dir",
        type=Path,
        metavar="DIR",
        help="for temporary files, which"
        " are about as large as the target image (default: $TMPDIR or /var/tmp)",
    )
    add("--json", action="store_true", help="print the figures as JSON, and no table")
    add("--output-json", type=Path, metavar="FILE", help="write the same here")
    add(
        "--threads",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="threads that compress (default: %(default)s)",
    )
    add(
        "--push-retry-count",
        type=int,
        metavar="N",
        help="how often a push is tried again after a fault that may pass (default: 4)",
    )
    add(
        "--push-retry-delay",
        metavar="TIME",
        help="wait so long in between: 500ms, 5s, 1m (default: 0.3 s, doubled each time)",
    )
    add("--nydus-image", action=Unused, metavar="FILE", help="no effect: nothing else is run")
