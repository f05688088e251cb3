"""From a source to its target: one Nydus image, or an index of several.

Images are converted one after the other, and published together: whatever of them is
whole is pushed by digest, and the tag last of all. Like nydusify's, an index with a
single image becomes that image's manifest, unless plain images are to stand beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fs.format.errors import UsageError
from fs.registry.copying import copy_below
from fs.registry.descriptor import Descriptor
from fs.registry.documents import encode_json, index_document
from fs.registry.manifest import is_nydus_entry
from fs.registry.mediatypes import (
    DOCKER_INDEX,
    NYDUS_ARTIFACT,
    NYDUS_OS_FEATURE,
    OCI_INDEX,
)
from fs.registry.store import ImageWriter, open_writer, registry_reference
from nydusify.blobs.destination import Destination
from nydusify.layers.kept_layers import KeptLayers, opened_caches
from nydusify.layers.sources import Selection, Source, SourceImage, open_sources
from nydusify.operations.image_conversion import convert_image
from nydusify.options import ConvertOptions
from nydusify.outputs.known_blobs import opened_dictionary
from nydusify.report import IndexReport, Progress, Report, Silence
from nydusify.workplace import workplace

if TYPE_CHECKING:
    from fs.backend.storage import BlobStorage


def convert(
    options: ConvertOptions,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda note: None,
) -> Report | IndexReport:
    """Convert and publish. Failure for all that may go wrong; nothing is published then."""
    progress = progress or Silence()
    started = time.monotonic()
    _check_places(options)
    selection = Selection(options.platforms, options.all_platforms)
    with ExitStack() as stack:
        writer = stack.enter_context(closing(open_writer(options.target, options.target_store)))
        work = stack.enter_context(workplace(options.work_dir))
        caches = stack.enter_context(opened_caches(options.caches, say))
        access = replace(options.source_store, documents=caches.local)
        source = stack.enter_context(open_sources(options.source, selection, access))
        _check_stored(source, options)
        storage = stack.enter_context(_storage(options))
        _say_notes(source, options, say)
        several = options.form.merged or len(source.images) > 1
        destination = Destination(
            writer,
            options.form,
            storage,
            tag=not several,
            in_registry=registry_reference(options.target) is not None,
        )
        known = stack.enter_context(opened_dictionary(options, work))
        chunks = known.chunks if known else None
        kept = KeptLayers(caches, destination, work, _once(writer.check), chunks)
        make = partial(convert_image, store=kept, known=known)
        if options.refer:
            from nydusify.operations.referring import refer_image

            make = partial(refer_image, source.reader, store=kept)
        made = [
            make(image, destination, options, _place(work, number), progress)
            for number, image in enumerate(source.images)
        ]
        if several:
            index = _publish_index(source, [each[0] for each in made], options, writer, progress)
        caches.publish(registry_reference(options.target))
    seconds = round(time.monotonic() - started, 3)
    reports = [report for _, report in made]
    if not several:
        return replace(reports[0], seconds=seconds)
    return IndexReport(options.source, writer.name, index.digest, seconds, reports)


@contextmanager
def _storage(options: ConvertOptions) -> Iterator[BlobStorage | None]:
    """Where blobs go instead of the target, known to be usable."""
    if options.form.backend is None:
        yield None
        return
    from fs.backend.storage import open_storage

    with closing(open_storage(options.form.backend, options.target_store)) as storage:
        storage.check()
        yield storage


def _once(check: Callable[[], None]) -> Callable[[], None]:
    """`check`, which costs requests, for the first call only."""
    done: list[bool] = []

    def checked() -> None:
        if not done:
            check()
            done.append(True)

    return checked


def _place(work: Path, number: int) -> Path:
    place = work / f"image-{number}"
    place.mkdir()
    return place


def _check_places(options: ConvertOptions) -> None:
    kind, colon, _ = options.target.partition(":")
    if colon and kind in ("dir", "layer"):
        raise UsageError(f"{options.target}: {kind}: is for sources only")
    if options.all_platforms and options.platforms:
        raise UsageError("--all-platforms and --platform exclude each other")
    if options.chunk_dict and options.refer:
        raise UsageError("--oci-ref stores no chunks: a --chunk-dict is of no use")
    if options.form.referring and options.form.docker:
        raise UsageError("--with-referrer: manifests of Docker's types have no subject")
    if options.refer:
        from nydusify.operations.referring import check_refer_options

        check_refer_options(options)


def _check_stored(source: Source, options: ConvertOptions) -> None:
    for name, asked in (
        ("--merge-platform", options.form.merged),
        ("--with-referrer", options.form.referring),
    ):
        if asked and any(image.stored is None for image in source.images):
            raise UsageError(f"{name}: {options.source} is no image that could be referred to")


def _say_notes(source: Source, options: ConvertOptions, say: Callable[[str], None]) -> None:
    if not options.form.referring or source.reader is None:
        return
    own, other = source.reader.reference, registry_reference(options.target)
    if own is None or other is None or own.name != other.name:
        say(f"note: {source.reader.name} has its referrers in its own repository only")


def _entry(image: SourceImage, manifest: Descriptor, options: ConvertOptions) -> Descriptor:
    """The index entry of a converted image; in a merged index it says that it is a Nydus image."""
    if not options.form.merged:
        return replace(manifest, platform=image.platform, artifact_type="")
    platform = image.platform._replace(os_features=(NYDUS_OS_FEATURE,))
    return replace(manifest, platform=platform, artifact_type=NYDUS_ARTIFACT)


def _originals(
    source: Source, options: ConvertOptions, writer: ImageWriter, progress: Progress
) -> list[Descriptor]:
    """The plain images, copied: those that were converted, or all there are."""
    reader = source.reader
    assert reader
    index = reader.index() if options.all_platforms else None
    progress.step("copying the plain images", 0)
    if index is not None:
        plain = [entry for entry in index.manifests if not is_nydus_entry(entry)]
        copy_below(replace(index, manifests=plain), reader, writer, progress.advance)
        return plain
    entries = []
    for image in source.images:
        assert image.stored
        manifest, descriptor = image.stored.manifest, image.stored.descriptor
        copy_below(manifest, reader, writer, progress.advance)
        writer.push_manifest(manifest.raw, manifest.media_type, tag=False)
        entries.append(replace(descriptor, platform=image.platform, annotations={}))
    return entries


def _publish_index(
    source: Source,
    manifests: list[Descriptor],
    options: ConvertOptions,
    writer: ImageWriter,
    progress: Progress,
) -> Descriptor:
    """Plain images first: clients that know nothing of Nydus take the first that fits."""
    form = options.form
    pairs = zip(source.images, manifests, strict=True)
    entries = [_entry(image, manifest, options) for image, manifest in pairs]
    if form.merged:
        entries = [*_originals(source, options, writer, progress), *entries]
    media_type = DOCKER_INDEX if form.docker and not form.merged else OCI_INDEX
    document = index_document(entries, media_type)
    return writer.push_manifest(encode_json(document), media_type, tag=True)
