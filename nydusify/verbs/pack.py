"""Build a RAFS file system from a directory: a bootstrap, and blobs named by their ids.

`build` and `pack` are the same. With --parent-bootstrap the directory is a layer on top of
another file system; its names that begin with `.wh.` hide what that one has.

example:
  nydusify pack --source-dir app/ --name app.boot --output-dir out/
  nydusify pack --source-dir new/ --name new.boot --output-dir out/ --chunk-dict out/app.boot
  nydus-fs mount out/app.boot /mnt --blob-dir out/
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
    from fs.backend.config import BackendConfig
    from nydusify.operations.packing import Packed, PackOptions

CHUNK_SIZE = "0x100000"
COMPRESSORS = ("zstd", "lz4_block", "gzip", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--source-dir", "--target-dir", required=True, type=Path, metavar="DIR", dest="source",
        help="what is packed")  # fmt: skip
    add("--name", "--meta", "--bootstrap", required=True, metavar="NAME",
        help="of the bootstrap; without a suffix .meta is added")  # fmt: skip
    add("-o", "--output-dir", type=Path, default=Path(".nydus-build-output"), metavar="DIR",
        help="where everything goes (default: %(default)s)")  # fmt: skip
    add("--parent-bootstrap", metavar="SOURCE", help="put the directory on top of this")
    add_format(parser)
    add("--backend-push", action="store_true", help="push blobs and bootstrap to a backend")
    add("--backend-type", choices=("s3", "localfs"), help="of that backend")
    add("--backend-config", metavar="JSON", help="where it is")
    add("--backend-config-file", type=Path, metavar="FILE", help="the same from a file")
    add("--json", action="store_true", help="tell what was made as JSON")
    words.add_access(parser)
    words.add_work_dir(parser)


def add_format(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--fs-version", "-v", default="6", choices=("6",), help="RAFS version; only 6")
    add("--compressor", default="zstd", choices=COMPRESSORS, help="default: %(default)s")
    add("--chunk-size", "--fs-chunk-size", metavar="SIZE",
        help=f"power of two from 4 KiB to 16 MiB (default: {CHUNK_SIZE})")  # fmt: skip
    words.add_batch_size(parser)
    add("--chunk-dict", default="", metavar="DICT",
        help="an image or bootstrap whose chunks are not stored again; its blobs have to be"
        " where the others go")  # fmt: skip
    add("--threads", type=int, default=os.cpu_count() or 1, metavar="N",
        help="threads that compress (default: %(default)s)")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    name = arguments.name
    if "/" in name:
        raise UsageError(f"--name {name}: is a name, not a path; --output-dir says where it goes")
    if arguments.source.exists() and not arguments.source.is_dir():
        raise UsageError(f"{arguments.source}: not a directory; nydusify create takes files")
    name = name if Path(name).suffix else f"{name}.meta"
    options = pack_options(
        arguments,
        source=arguments.source,
        blob_dir=arguments.output_dir,
        bootstrap=arguments.output_dir / name,
        backend=_backend(arguments),
    )
    report(build(options), as_json=arguments.json)


def pack_options(
    arguments: argparse.Namespace,
    *,
    source: Path,
    blob_dir: Path | None,
    bootstrap: Path | None = None,
    blob: Path | None = None,
    spec: str = "oci",
    form: str = "rafs",
    layer: tuple[str, int] = ("", 0),
    backend: BackendConfig | None = None,
    prefetch: tuple[str, ...] = (),
) -> PackOptions:
    from fs.format.blobtable import Compressor
    from nydusify.operations.packing import PackOptions
    from nydusify.options import ConvertOptions, parse_batch_size, parse_chunk_size

    if not source.exists():
        raise UsageError(f"{source}: no such file or directory")
    if arguments.threads < 1:
        raise UsageError("--threads must be 1 or more")
    chunk_size = parse_chunk_size(arguments.chunk_size or CHUNK_SIZE)
    convert = ConvertOptions(
        "",
        "",
        compressor=Compressor[arguments.compressor.upper()],
        chunk_size=chunk_size,
        batch_size=parse_batch_size(arguments.batch_size, chunk_size),
        prefetch=prefetch,
        chunk_dict=arguments.chunk_dict,
        chunk_dict_store=words.store_of(arguments),
        work_dir=words.work_dir(arguments),
        threads=arguments.threads,
    )
    return PackOptions(
        source,
        blob_dir,
        bootstrap,
        blob,
        arguments.parent_bootstrap,
        spec,
        form,
        layer,
        convert,
        words.store_of(arguments),
        backend,
        arguments.chunk_size is not None,
    )


def build(options: PackOptions) -> Packed:
    from nydusify.operations.packing import pack

    with words.working() as progress:
        return pack(options, progress)


def report(done: Packed, *, as_json: bool) -> None:
    from dataclasses import asdict

    from nydusify.report import size_text

    if as_json:
        print(json.dumps(asdict(done)))
        return
    print(f"meta blob path: {done.bootstrap}\ndata blob size: {size_text(done.size)}")
    print(f"data blobs: {json.dumps(done.blobs)}")


def _backend(arguments: argparse.Namespace) -> BackendConfig | None:
    given = arguments.backend_config is not None or arguments.backend_config_file is not None
    if given != arguments.backend_push:
        raise UsageError("--backend-push goes with --backend-config or --backend-config-file")
    if not given:
        return None
    from fs.backend.config import load_config, parse_config

    if arguments.backend_config_file is not None:
        return load_config(str(arguments.backend_config_file), arguments.backend_type)
    raw = arguments.backend_config.encode()
    return parse_config(raw, "--backend-config", arguments.backend_type)
