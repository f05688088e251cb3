"""A directory or a tar made a RAFS file system of its own: a bootstrap file and blobs.

With a parent, the directory is a layer on top of that one's tree, and refers to its blobs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from fs.backend.config import BackendConfig
from fs.format.blobtable import Digester
from fs.format.errors import FormatError, NotFoundError, UsageError, local_errors
from fs.format.writer import BootstrapOptions
from fs.registry.store import StoreOptions
from nydusify.blobs.destination import blob_layer, stored_id
from nydusify.blobs.layer_blob import Blob
from nydusify.images.bootstraps import Stack
from nydusify.images.opened import ImagePlace, open_image
from nydusify.layers.sources import open_source
from nydusify.operations.image_conversion import convert_layers, prefetched
from nydusify.operations.upper_conversion import convert_upper
from nydusify.options import ConvertOptions
from nydusify.outputs.known_blobs import opened_dictionary
from nydusify.report import Progress
from nydusify.whole_file import new_file
from nydusify.workplace import workplace


@dataclass(frozen=True)
class PackOptions:
    """`source` is a directory, or a tar file of any compression. `bootstrap` is where the result
    goes, None for a file in `blob_dir` named by its sha256. `blob` is where the blob goes
    instead of `blob_dir`. `spec` is that of `UpperEntries`. `form` says of a tar file what is made:
    a file system of its own ("rafs"), or one over the file as it is: a "reference" to a layer,
    a "tarfs". Of "table", the source is the table of contents of an eStargz layer, which
    `layer` names by id and size. `sized`: the chunk size was asked for, a parent must have it.
    """

    source: Path
    blob_dir: Path | None
    bootstrap: Path | None = None
    blob: Path | None = None
    parent: str | None = None
    spec: str = "oci"
    form: str = "rafs"
    layer: tuple[str, int] = "", 0
    convert: ConvertOptions = field(default_factory=lambda: ConvertOptions("", ""))
    store: StoreOptions = field(default_factory=StoreOptions)
    backend: BackendConfig | None = None
    sized: bool = False


@dataclass(frozen=True)
class Packed:
    """`blobs` are all that the bootstrap names, `new` those that were written."""

    bootstrap: str
    blobs: list[str]
    new: list[str]
    size: int
    fs_version: str
    compressor: str


def pack(options: PackOptions, progress: Progress) -> Packed:
    """Build the file system. Files appear when they are whole, the bootstrap last."""
    with workplace(options.convert.work_dir) as work:
        stack, blobs = _build(options, work, progress)
        stack.drop_unused()
        ids = [blob.blob_id for blob in stack.blobs]
        new = [blob for blob in blobs if blob.record.blob_id in ids]
        for blob in new:
            _place_blob(blob, options)
        path = _place_bootstrap(stack, options, work)
        if options.backend is not None:
            _push(options, path, new, progress)
        return Packed(
            str(path),
            ids,
            [stored_id(blob) for blob in new],
            sum(blob_layer(blob).size for blob in new),
            "6",
            stack.options.compressor.name.lower(),
        )


def _build(options: PackOptions, work: Path, progress: Progress) -> tuple[Stack, Sequence[Blob]]:
    if options.parent is None:
        return _alone(options, work, progress)
    if options.convert.chunk_dict:
        raise UsageError("--chunk-dict: with a --parent-bootstrap that one's chunks are known")
    _check_parent(options.parent)
    with open_image(ImagePlace(options.parent, store=options.store), work) as opened:
        stack = Stack.of(opened.bootstrap)
        if stack.options.digester != Digester.BLAKE3:
            raise FormatError("its chunks are not digested with BLAKE3", options.parent)
        chunk_size = stack.options.chunk_size
        if options.sized and chunk_size != options.convert.chunk_size:
            raise UsageError(f"--chunk-size: {options.parent} has chunks of {chunk_size} bytes")
        convert = replace(
            options.convert,
            chunk_size=chunk_size,
            batch_size=min(options.convert.batch_size, chunk_size),
        )
        if not options.source.is_dir():
            raise UsageError(f"{options.source}: only a directory can be put on a parent")
        upper = convert_upper(
            options.source, options.spec, convert, work, progress, opened.bootstrap
        )
    stack.add_layer(upper.layer, [blob.record for blob in upper.blobs], upper.known)
    return stack, upper.blobs


def _check_parent(name: str) -> None:
    """NotFoundError for what is meant as a file: no registry is asked for `layers/base.boot`."""
    first, slash, _ = name.partition("/")
    named = slash and (":" in first or "." in first.strip(".") or first == "localhost")
    if not (named or ":" in first or Path(name).exists()):
        raise NotFoundError(f"{name}: no such file; an image is named with its registry")


def _alone(options: PackOptions, work: Path, progress: Progress) -> tuple[Stack, Sequence[Blob]]:
    if options.form != "rafs":
        return _as_it_is(options, work)
    convert = options.convert
    kind = "dir" if options.source.is_dir() else "layer"
    with (
        open_source(f"{kind}:{options.source}", None, options.store) as source,
        opened_dictionary(convert, work) as known,
    ):
        dictionary = known.chunks if known else None
        converted = convert_layers(source.layers, convert, work, progress, dictionary=dictionary)
    written = BootstrapOptions(
        chunk_size=convert.chunk_size,
        compressor=convert.compressor,
        prefetch=prefetched(converted.root, convert.prefetch),
    )
    records = [*(blob.record for blob in converted.blobs), *converted.known]
    return Stack(converted.root, records, written), converted.blobs


def _as_it_is(options: PackOptions, work: Path) -> tuple[Stack, Sequence[Blob]]:
    """Over a layer's file, or what a table of contents says of one."""
    from nydusify.operations import layer_files

    if options.convert.chunk_dict:
        raise UsageError("--chunk-dict: nothing is stored of a layer that stays as it is")
    chunk_size = options.convert.chunk_size
    if options.form == "reference":
        return layer_files.refer_to_file(options.source, chunk_size, work)
    if options.form == "tarfs":
        return layer_files.tar_as_blob(options.source, chunk_size)
    return layer_files.refer_by_table(options.source, *options.layer, chunk_size, work)


def _place_blob(blob: Blob, options: PackOptions) -> None:
    path = options.blob
    if path is None:
        if options.blob_dir is None:
            raise UsageError("where does the blob go? Give --blob-dir DIR or --blob FILE")
        with local_errors(options.blob_dir):
            options.blob_dir.mkdir(parents=True, exist_ok=True)
        path = options.blob_dir / stored_id(blob)
    with new_file(path) as out, local_errors(blob.path), blob.path.open("rb") as source:
        while piece := source.read(1 << 20):
            out.write(piece)


def _place_bootstrap(stack: Stack, options: PackOptions, work: Path) -> Path:
    if options.bootstrap is not None:
        with local_errors(options.bootstrap.parent):
            options.bootstrap.parent.mkdir(parents=True, exist_ok=True)
        stack.write(options.bootstrap)
        return options.bootstrap
    if options.blob_dir is None:
        raise UsageError("where does the bootstrap go? Give --bootstrap FILE or --blob-dir DIR")
    with local_errors(options.blob_dir):
        options.blob_dir.mkdir(parents=True, exist_ok=True)
    path = options.blob_dir / f".{os.getpid()}.boot"
    stack.write(path)
    with local_errors(path):
        final = path.with_name(hashlib.sha256(path.read_bytes()).hexdigest())
        path.rename(final)
    return final


def _push(options: PackOptions, path: Path, blobs: Sequence[Blob], progress: Progress) -> None:
    """Blobs first: whoever finds the bootstrap finds all that it names."""
    from fs.backend.storage import open_storage

    assert options.backend is not None
    with closing(open_storage(options.backend, options.store)) as storage:
        storage.check()
        for blob in blobs:
            name, size = stored_id(blob), blob_layer(blob).size
            if not storage.has(name, size):
                progress.step(f"pushing {name[:12]}", size)
                storage.push(name, blob.path, progress.advance)
        storage.push(path.name, path, progress.advance)
