"""Several bootstraps made one: their trees stacked as layers, their blobs in one table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fs.format.blobtable import BlobRecord
from fs.format.errors import FormatError, UsageError, local_errors
from fs.format.tree import Node
from fs.registry.platform import Platform
from fs.registry.store import StoreOptions
from nydusify.images.bootstraps import Stack, check_alike, layer_of
from nydusify.images.opened import ImagePlace, open_image
from nydusify.layers.merge import apply
from nydusify.workplace import workplace


@dataclass(frozen=True)
class LayerBlob:
    """What is known better than a layer's bootstrap does of its own blob."""

    blob_id: str | None = None
    size: int | None = None
    toc_digest: bytes | None = None
    toc_size: int | None = None


@dataclass(frozen=True)
class Merged:
    bootstrap: str
    blobs: list[str]
    fs_version: int
    compressor: str


def merge(
    sources: Sequence[str],
    output: Path,
    *,
    parent: str | None = None,
    dictionary: str | None = None,
    overrides: Sequence[LayerBlob] = (),
    output_is_directory: bool = False,
    platform: Platform | None = None,
    store: StoreOptions | None = None,
    work_dir: Path | None = None,
) -> Merged:
    """Write the bootstrap that the stack of `sources` (lowest first, on `parent`) shows.

    The sources are images, bootstraps, or blobs that end in one. In a directory, the result
    is named by its sha256.
    """
    store = store or StoreOptions()
    stacks: list[tuple[str, Stack]] = []
    with workplace(work_dir) as work:
        shared: set[str] = set()
        if dictionary is not None:
            with open_image(ImagePlace(dictionary, platform, store), work) as opened:
                shared = {blob.blob_id for blob in opened.bootstrap.blobs}
        for name in [*([parent] if parent else []), *sources]:
            with open_image(ImagePlace(name, platform, store), work) as opened:
                stacks.append((name, Stack.of(opened.bootstrap)))
    layers = stacks[1:] if parent else stacks
    if overrides:
        for (name, stack), override in zip(layers, overrides, strict=True):
            _override(stack.blobs, override, shared, name)
    stack = _stacked(stacks, bare_parent=parent is not None)
    stack.drop_unused()
    if output_is_directory:
        output = _into_directory(stack, output)
    else:
        stack.write(output)
    return Merged(
        str(output),
        [blob.blob_id for blob in stack.blobs],
        6,
        stack.options.compressor.name.lower(),
    )


def _stacked(stacks: Sequence[tuple[str, Stack]], *, bare_parent: bool) -> Stack:
    check_alike(stacks)
    first = stacks[0][1]
    merged = Stack(Node(first.root.mode), [], first.options)
    if bare_parent:  # what looks like a whiteout in a merged tree is a file
        merged.root = first.root
    places: dict[str, int] = {}
    for number, (name, stack) in enumerate(stacks):
        for blob in stack.blobs:
            if blob.blob_id not in places:
                places[blob.blob_id] = len(places)
                merged.blobs.append(replace(blob, index=places[blob.blob_id]))
            else:
                _check_same(merged.blobs[places[blob.blob_id]], blob, name)
        stack.change({blob.index: places[blob.blob_id] for blob in stack.blobs})
        if not (bare_parent and number == 0):
            apply(merged.root, layer_of(stack.root, name))
    prefetch = [node for _, stack in stacks for node in stack.options.prefetch]
    merged.options = replace(first.options, prefetch=prefetch)
    return merged


def _check_same(known: BlobRecord, blob: BlobRecord, where: str) -> None:
    if replace(blob, index=known.index) != known:
        raise FormatError(f"blob {blob.blob_id} is described otherwise by another source", where)


def _override(blobs: list[BlobRecord], override: LayerBlob, shared: set[str], where: str) -> None:
    own = [blob for blob in blobs if blob.blob_id not in shared]
    if len(own) > 1:
        raise UsageError(f"{where}: has {len(own)} blobs: which one is meant?")
    for blob in own:
        blob.blob_id = override.blob_id or blob.blob_id
        blob.compressed_size = blob.compressed_size if override.size is None else override.size
        blob.toc_digest = override.toc_digest or blob.toc_digest
        blob.toc_size = blob.toc_size if override.toc_size is None else override.toc_size


def _into_directory(stack: Stack, directory: Path) -> Path:
    with local_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".merged.boot"
    stack.write(path)
    with local_errors(directory):
        final = directory / hashlib.sha256(path.read_bytes()).hexdigest()
        os.rename(path, final)
    return final
