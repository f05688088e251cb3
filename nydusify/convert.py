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
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fs.format.errors import UsageError
from nydusify.access import add_access_arguments, store_options

if TYPE_CHECKING:
    from nydusify.options import ConvertOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_places(parser)
    add_access_arguments(parser)
    _add_format(parser)
    _add_reverse(parser)
    parser.add_argument(
        "--work-dir",
        type=Path,
        metavar="DIR",
        help="for temporary files, which"
        " are about as large as the target image (default: $TMPDIR or /var/tmp)",
    )
    parser.add_argument("--output-json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="threads that compress (default: %(default)s)",
    )


def _add_places(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--source", metavar="SOURCE", help="the image to convert")
    source.add_argument(
        "--source-archive",
        metavar="FILE",
        help="an image in a tar file: what `docker save` writes, or an OCI archive",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--target", metavar="TARGET", help="where the Nydus image goes")
    target.add_argument(
        "--target-suffix", metavar="SUFFIX", help="target is the source with this added to its tag"
    )
    target.add_argument("--target-archive", metavar="FILE", help="same as docker-archive:FILE")
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH",
        help="of an image for several platforms: this one (default: this machine's)",
    )
    parser.add_argument(
        "--source-insecure",
        action="store_true",
        help="do not check the source's certificate, and allow http",
    )
    parser.add_argument("--target-insecure", action="store_true", help="the same for the target")


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fs-version", default="6", metavar="6", help="RAFS version; only 6")
    parser.add_argument(
        "--compressor",
        default="zstd",
        choices=("zstd", "lz4_block", "gzip", "none"),
        help="of chunks (default: %(default)s)",
    )
    parser.add_argument(
        "--fs-chunk-size",
        "--chunk-size",
        default="0x100000",
        metavar="SIZE",
        help="power of two from 4 KiB to 16 MiB: 0x100000, 1MiB (default: %(default)s)",
    )
    parser.add_argument(
        "--prefetch-patterns",
        nargs="*",
        metavar="PATH",
        help="absolute paths in"
        " the image to read first after a mount; with no value, one a line from"
        " standard input",
    )


def _add_reverse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reverse",
        action="store_true",
        help="the other way: make an ordinary OCI image, of one layer, of a Nydus image",
    )
    parser.add_argument(
        "--layer-compression",
        default="gzip",
        choices=("gzip", "zstd", "none"),
        help="of the layer that --reverse makes (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Convert, then print the table of figures. Raises Failure."""
    if arguments.reverse:
        _reverse(arguments)
        return
    options = _options(arguments)
    if arguments.output_json:
        _check_output(arguments.output_json)
    from nydusify.conversion import convert
    from nydusify.interruption import Unwinding
    from nydusify.report import open_progress, table, write_json

    with open_progress(sys.stderr) as progress:
        unwinding = Unwinding(progress)
        with unwinding.entered():
            report = convert(options, unwinding)
    if arguments.output_json:
        write_json(report, arguments.output_json)
    print(table(report))


def _reverse(arguments: argparse.Namespace) -> None:
    options = _options(arguments)
    from dataclasses import asdict

    from nydusify.interruption import Unwinding
    from nydusify.opened import ImagePlace
    from nydusify.report import open_progress
    from nydusify.reverse import reverse

    source = ImagePlace(options.source, options.platform, options.source_store)
    with open_progress(sys.stderr) as progress:
        unwinding = Unwinding(progress)
        with unwinding.entered():
            report = reverse(
                source,
                options.target,
                options.target_store,
                unwinding,
                compression=arguments.layer_compression,
                work_dir=options.work_dir,
            )
    if arguments.output_json:
        arguments.output_json.write_text(json.dumps(asdict(report), indent=2) + "\n")
    print(report)


def _check_output(path: Path) -> None:
    """UsageError now, rather than after the image is published."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--output-json {path}: no file can be written there")


def _options(arguments: argparse.Namespace) -> ConvertOptions:
    from fs.format.blobtable import Compressor
    from fs.registry.platform import parse_platform
    from nydusify.options import ConvertOptions, parse_chunk_size

    if arguments.fs_version != "6":
        raise UsageError(f"--fs-version {arguments.fs_version}: only version 6 is written")
    if arguments.threads < 1:
        raise UsageError("--threads must be 1 or more")
    temporary = os.environ.get("TMPDIR")
    source = arguments.source
    if source is None:
        source = _archive_place(arguments.source_archive)
    return ConvertOptions(
        source=source,
        target=_target(arguments, source),
        platform=parse_platform(arguments.platform) if arguments.platform is not None else None,
        compressor=Compressor[arguments.compressor.upper()],
        chunk_size=parse_chunk_size(arguments.fs_chunk_size),
        prefetch=_prefetch_patterns(arguments.prefetch_patterns),
        work_dir=arguments.work_dir or (Path(temporary) if temporary else None),
        source_store=store_options(arguments, insecure=arguments.source_insecure),
        target_store=store_options(arguments, insecure=arguments.target_insecure),
        threads=arguments.threads,
    )


def _archive_place(file: str) -> str:
    """docker-archive: or oci-archive:, by what is in the tar file."""
    import tarfile

    from fs.format.errors import FormatError, local_failure

    try:
        with tarfile.open(file) as archive:
            names = set(archive.getnames())
    except OSError as error:
        raise local_failure(error, repr(file)) from None
    except (tarfile.TarError, EOFError, ValueError):
        raise FormatError("not a tar file", repr(file)) from None
    return f"{'docker' if 'manifest.json' in names else 'oci'}-archive:{file}"


#: Sources that are in no registry.
_ELSEWHERE = ("oci:", "oci-archive:", "docker-archive:", "containerd:", "dir:", "layer:")


def _target(arguments: argparse.Namespace, source: str) -> str:
    if arguments.target_archive is not None:
        return f"docker-archive:{arguments.target_archive}"
    if arguments.target is not None:
        return str(arguments.target)
    from fs.registry.reference import parse_reference

    if source.startswith(_ELSEWHERE):
        raise UsageError("--target-suffix works only with a source in a registry")
    reference = parse_reference(source.removeprefix("docker://"))
    if reference.tag is None:
        raise UsageError(f"--target-suffix: {source} has no tag")
    return f"{reference.domain}/{reference.repository}:{reference.tag}{arguments.target_suffix}"


def _prefetch_patterns(values: list[str] | None) -> tuple[str, ...]:
    if values is None:
        return ()
    lines = values or sys.stdin.read().splitlines()
    patterns = tuple(line.strip() for line in lines if line.strip())
    for pattern in patterns:
        if not pattern.startswith("/"):
            raise UsageError(f"prefetch pattern {pattern!r} is not an absolute path")
    return patterns
