"""A chunk dictionary made of several images: the chunks that more than one of them has.

It is a Nydus image itself, whose tree has one file for each chunk. Its blobs are those of
the images, whole and unchanged; where a chunk lies in several of them, the blob that shares
most is taken, so that few blobs are needed.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from fs.format.blobtable import MAX_BLOBS, WHOLE_FEATURES, BlobFeature, BlobRecord
from fs.format.bootstrap import Bootstrap
from fs.format.chunkrow import ChunkRow
from fs.format.errors import FormatError, UsageError
from fs.format.tree import Node
from fs.format.walk import chunk_of
from fs.format.writer import BootstrapOptions
from fs.registry.copying import copy_blob
from fs.registry.descriptor import Descriptor
from fs.registry.documents import encode_json, image_document, push_config
from fs.registry.mediatypes import OCI_MANIFEST
from fs.registry.platform import default_platform
from fs.registry.store import ImageWriter, StoreOptions, open_writer
from nydusify.blobs.layer_blob import Blob
from nydusify.blobs.stored_size import stored_size
from nydusify.images.bootstraps import Stack, check_alike
from nydusify.images.opened import ImagePlace, OpenedImage, open_image
from nydusify.outputs.publish import make_bootstrap_layer
from nydusify.report import Progress
from nydusify.workplace import workplace

_DIRECTORY = b"chunkdict"
#: Of such blobs chunks cannot be taken one by one.
_UNUSABLE = WHOLE_FEATURES | BlobFeature.SEPARATE | BlobFeature.ENCRYPTED


@dataclass(frozen=True)
class Generated:
    """`size` are the stored bytes of the dictionary's chunks, `saved` what their copies in
    other blobs take.
    """

    images: int
    chunks: int
    size: int
    saved: int
    blobs: list[str]
    bootstrap: str
    target: str
    target_digest: str


class _Place(NamedTuple):
    """Where one image has a chunk, which takes `size` stored bytes there."""

    blob_id: str
    row: ChunkRow
    size: int


def generate(
    sources: Sequence[ImagePlace],
    target: str | None,
    target_store: StoreOptions,
    progress: Progress,
    *,
    bootstrap: Path | None = None,
    least: int = 2,
    work_dir: Path | None = None,
) -> Generated:
    """Publish the dictionary at `target`, or write its `bootstrap`, or both.

    `least` is how many of the images must have a chunk.
    """
    if target is None and bootstrap is None:
        raise UsageError("--target IMAGE or --bootstrap FILE says where the dictionary goes")
    with ExitStack() as stack:
        writer = None
        if target is not None:
            writer = stack.enter_context(closing(open_writer(target, target_store)))
            writer.check()
        work = stack.enter_context(workplace(work_dir))
        opened = [stack.enter_context(open_image(place, work)) for place in sources]
        progress.step("comparing", 0)
        shared, saved = _shared([image.bootstrap for image in opened], least)
        tree = _tree(shared, opened)
        path = bootstrap or work / "dictionary.boot"
        tree.write(path)
        digest = ""
        if writer is not None:
            digest = _publish(tree, path, opened, writer, work, progress).digest
        return Generated(
            len(opened),
            len(shared),
            sum(place.size for place in shared.values()),
            saved,
            [blob.blob_id for blob in tree.blobs],
            str(bootstrap or ""),
            writer.name if writer else "",
            digest,
        )


def _shared(
    bootstraps: Sequence[Bootstrap], least: int
) -> tuple[dict[tuple[bytes, int], _Place], int]:
    """The chunks that at least so many images have, each at one place; and the bytes saved."""
    places: dict[tuple[bytes, int], dict[str, _Place]] = {}
    count: dict[tuple[bytes, int], int] = {}
    for bootstrap in bootstraps:
        own = set()
        for blob in bootstrap.blobs:
            if blob.features & _UNUSABLE:
                continue
            table = bootstrap.chunk_table(blob.index)
            for row in map(table.row, range(len(table))):
                if not row.digest:
                    raise FormatError("chunks without digests", bootstrap.name)
                key = row.digest, row.uncompressed_size
                place = _Place(blob.blob_id, row, stored_size(row, blob))
                places.setdefault(key, {}).setdefault(blob.blob_id, place)
                own.add(key)
        for key in own:
            count[key] = count.get(key, 0) + 1
    wanted = {key: found for key, found in places.items() if count[key] >= least}
    worth: dict[str, int] = {}
    for found in wanted.values():
        for place in found.values():
            worth[place.blob_id] = worth.get(place.blob_id, 0) + place.size
    chosen = {
        key: max(found.values(), key=lambda place: (worth[place.blob_id], place.blob_id))
        for key, found in wanted.items()
    }
    saved = sum((len(wanted[key]) - 1) * place.size for key, place in chosen.items())
    return chosen, saved


def _tree(shared: dict[tuple[bytes, int], _Place], opened: Sequence[OpenedImage]) -> Stack:
    if not shared:
        raise UsageError("these images have no chunk in common")
    check_alike([(image.name, Stack(Node(0), [], _options(image.bootstrap))) for image in opened])
    records: dict[str, BlobRecord] = {}
    for image in opened:
        for blob in image.bootstrap.blobs:
            records.setdefault(blob.blob_id, blob)
    ids = sorted({place.blob_id for place in shared.values()})
    if len(ids) > MAX_BLOBS:
        raise FormatError(f"the chunks lie in {len(ids)} blobs, at most {MAX_BLOBS} are possible")
    indexes = {blob_id: index for index, blob_id in enumerate(ids)}
    directory = Node(stat.S_IFDIR | 0o755)
    for place in shared.values():
        node = Node(stat.S_IFREG | 0o444, size=place.row.uncompressed_size)
        node.chunks = [chunk_of(place.row, indexes[place.blob_id])]
        directory.children[place.row.digest.hex().encode()] = node
    root = Node(stat.S_IFDIR | 0o755, children={_DIRECTORY: directory})
    blobs = [replace(records[blob_id], index=index) for blob_id, index in indexes.items()]
    return Stack(root, blobs, _options(opened[0].bootstrap))


def _options(bootstrap: Bootstrap) -> BootstrapOptions:
    return BootstrapOptions(
        chunk_size=bootstrap.chunk_size,
        compressor=bootstrap.compressor,
        digester=bootstrap.digester,
        block_size=bootstrap.block_size,
    )


def _publish(
    tree: Stack,
    path: Path,
    opened: Sequence[OpenedImage],
    writer: ImageWriter,
    work: Path,
    progress: Progress,
) -> Descriptor:
    layers = []
    metas = []
    for record in tree.blobs:
        image = next((each for each in opened if record.blob_id in each.blob_layers), None)
        if image is None or image.reader is None:
            raise UsageError(f"blob {record.blob_id} is in none of the images' manifests")
        layer = image.blob_layers[record.blob_id]
        progress.step(f"copying {layer.digest[:19]}", layer.size)
        copy_blob(layer, image.reader, writer, progress.advance)
        layers.append(layer)
        meta = image.path.with_name(f"{record.blob_id}.blob.meta")
        if meta.exists():
            metas.append(Blob(path, record, meta.read_bytes()))
    bootstrap = make_bootstrap_layer(path, metas, work / "dictionary.tar.gz")
    writer.push_blob(bootstrap.descriptor, bootstrap.path)
    diff_ids = [*(layer.digest for layer in layers), bootstrap.diff_id]
    config = {
        **default_platform().to_json(),
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    layers.append(bootstrap.descriptor)
    document = image_document(push_config(writer, config), layers, {})
    return writer.push_manifest(encode_json(document), OCI_MANIFEST, tag=True)
