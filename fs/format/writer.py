"""Writes RAFS v6 bootstraps (stub of the signature; the body follows)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from fs.format.blobtable import DEFAULT_CHUNK_SIZE, BlobRecord, Compressor, Digester
from fs.format.tree import Node


@dataclass(slots=True)
class BootstrapOptions:
    chunk_size: int = DEFAULT_CHUNK_SIZE
    compressor: Compressor = Compressor.ZSTD
    digester: Digester = Digester.BLAKE3
    block_size: int = 4096
    prefetch: Sequence[Node] = ()
    extra_flags: int = 0
    root_ino: int = 1
    blob_alignment: int = 0x80000


def write_bootstrap(
    root: Node, blobs: Sequence[BlobRecord], options: BootstrapOptions, out: BinaryIO
) -> None:
    raise NotImplementedError
