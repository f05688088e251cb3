"""What a conversion is asked to do, checked; and the spellings in which sizes are written."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from fs.backend.config import BackendConfig
from fs.commandline import size as size_of
from fs.format.blobtable import DEFAULT_CHUNK_SIZE, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE, Compressor
from fs.format.errors import UsageError
from fs.registry.platform import Platform
from fs.registry.store import StoreOptions

#: Of a build cache, as nydusify has it.
MAX_RECORDS = 200

#: Chosen by measurement, see docs/choices.md.
DEFAULT_BATCH_SIZE = 1 << 20


@dataclass(frozen=True)
class TargetForm:
    """What the target is made of.

    `merged`: an index with the source's plain images beside the Nydus images.
    `referring`: each image has its source's manifest as subject. `docker`: Docker's media
    types instead of OCI's. `backend`: where blobs go instead of the target; `force_push`: even
    those that are there.
    """

    merged: bool = False
    referring: bool = False
    docker: bool = False
    backend: BackendConfig | None = None
    force_push: bool = False


@dataclass(frozen=True)
class CacheOptions:
    """Where converted layers are kept: in `directory` (None: nowhere), up to `limit` bytes.

    `registry` is the place of a build cache, "" for none, with at most `max_records` layers.
    """

    directory: Path | None = None
    limit: int = 10 << 30
    registry: str = ""
    registry_store: StoreOptions = field(default_factory=StoreOptions)
    version: str = "v1"
    max_records: int = MAX_RECORDS


@dataclass(frozen=True)
class ConvertOptions:
    """`source` and `target` are places as fs.registry.store has them, or dir: and layer:.

    `platforms`: this machine's if there are none. `prefetch` are absolute paths in the image.
    `chunk_dict`: an image or bootstrap, see nydusify/outputs/known_blobs.py.
    `startup`: what a start reads is guessed, behind those, and then listed ("guess"), copied to a
    blob of its own ("blob"), or copied as far as that pays ("auto"); "none": neither guessed nor
    copied. None: "auto", with a guess where nobody said what is read first.
    `refer`: layers stay as they are, and are referred to. `repack`: blobs that come out hardly
    smaller than their gzip layer are packed again, harder.
    The result does not depend on `threads`.
    """

    source: str
    target: str
    platforms: tuple[Platform, ...] = ()
    all_platforms: bool = False
    form: TargetForm = field(default_factory=TargetForm)
    compressor: Compressor = Compressor.ZSTD
    chunk_size: int = DEFAULT_CHUNK_SIZE
    batch_size: int = DEFAULT_BATCH_SIZE
    prefetch: tuple[str, ...] = ()
    chunk_dict: str = ""
    chunk_dict_store: StoreOptions = field(default_factory=StoreOptions)
    startup: str | None = None
    refer: bool = False
    repack: bool = False
    work_dir: Path | None = None
    caches: CacheOptions = field(default_factory=CacheOptions)
    source_store: StoreOptions = field(default_factory=StoreOptions)
    target_store: StoreOptions = field(default_factory=StoreOptions)
    threads: int = 2


def parse_size(text: str) -> int:
    """Bytes, as for all tools (fs.commandline); UsageError."""
    try:
        return size_of(text)
    except argparse.ArgumentTypeError as error:
        raise UsageError(str(error)) from None


def parse_chunk_size(text: str) -> int:
    """The same; UsageError if no chunk can have that size."""
    size = parse_size(text)
    if size & (size - 1) or not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE:
        raise UsageError(f"chunk size {text} is not a power of two from 4 KiB to 16 MiB")
    return size


def parse_batch_size(text: str | None, chunk_size: int) -> int:
    """As for chunks, at most their size, or 0; of None, the default as far as that allows it."""
    if text is None:
        return min(DEFAULT_BATCH_SIZE, chunk_size)
    size = parse_size(text)
    if size & (size - 1) or (size and not MIN_CHUNK_SIZE <= size <= MAX_CHUNK_SIZE):
        raise UsageError(f"batch size {text} is neither 0 nor a power of two from 4 KiB to 16 MiB")
    if size > chunk_size:
        raise UsageError(f"batch size {text} is larger than the chunk size, {chunk_size}")
    return size
