"""Figures of images and of what they share: the fields of nydus-image's `stat`.

The base is one image or several; of several, each chunk is counted once where they share it.
A target is set against the base: which of its chunks are there already.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fs.format.blobtable import BlobRecord
from fs.format.bootstrap import Bootstrap
from fs.format.tree import HOLE, Chunk
from fs.format.walk import load_tree
from nydusify.blobs.stored_size import stored_size

_FILE_BITS = 45
_CHUNK_BITS = range(12, 21)
_THRESHOLDS = 20
_BLOCK = 4096


@dataclass
class ImageFigures:
    """Sizes in bytes, compressed ones of batches by shares.

    `file_sizes[n]` counts files of n bits, `chunk_sizes` how many chunks the files would have
    at 2^12, 2^13, … bytes a chunk.
    `own_*` are different chunks, `dedup_*` those of the base that is left when images share,
    `ref_*` chunks of a target that the base has.
    """

    dirs: int = 0
    files: int = 0
    symlinks: int = 0
    chunks: int = 0
    file_size: int = 0
    comp_size: int = 0
    uncomp_size: int = 0
    padding_size: int = 0
    chunk_sizes: list[int] = field(default_factory=lambda: [0] * len(_CHUNK_BITS))
    file_sizes: list[int] = field(default_factory=lambda: [0] * _FILE_BITS)
    dedup_chunks: int = 0
    dedup_comp_size: int = 0
    dedup_uncomp_size: int = 0
    own_chunks: int = 0
    own_comp_size: int = 0
    own_uncomp_size: int = 0
    ref_chunks: int = 0
    ref_comp_size: int = 0
    ref_uncomp_size: int = 0

    def add(self, kind: str, chunk: Chunk) -> None:
        """Count a chunk as `own`, `dedup` or `ref`."""
        for name, size in (("chunks", 1), ("comp_size", chunk.compressed_size),
                           ("uncomp_size", chunk.uncompressed_size)):  # fmt: skip
            field_name = f"{kind}_{name}"
            setattr(self, field_name, getattr(self, field_name) + size)


class Statistics:
    """`base` images first, then `target`, then `finish`."""

    def __init__(self) -> None:
        self.base = ImageFigures()
        self.target: ImageFigures | None = None
        self.images = 0
        self._seen: dict[tuple[bytes, int], tuple[Chunk, int]] = {}

    def add_base(self, bootstrap: Bootstrap) -> None:
        self.images += 1
        for key, chunk in _count(bootstrap, self.base).items():
            self.base.add("own", chunk)
            first, times = self._seen.get(key, (chunk, 0))
            self._seen[key] = first, times + 1

    def set_target(self, bootstrap: Bootstrap) -> None:
        self.target = ImageFigures()
        for key, chunk in _count(bootstrap, self.target).items():
            self.target.add("ref" if key in self._seen else "own", chunk)

    def to_json(self) -> dict[str, Any]:
        """nydus-image's fields; `dedup` says what is left when chunks that at least so many
        images have are kept once.
        """
        if self.images > 1:
            for chunk, _ in self._seen.values():
                self.base.add("dedup", chunk)
        return {
            "dedup_enabled": self.images > 1,
            "target_enabled": self.target is not None,
            "base_image": asdict(self.base),
            "target_image": asdict(self.target or ImageFigures()),
            "images": self.images,
            "dedup": self._thresholds() if self.images > 1 else [],
        }

    def _thresholds(self) -> list[dict[str, int]]:
        """What a dictionary of the chunks that more than n images have would save."""
        rows = []
        most = max((times for _, times in self._seen.values()), default=0)
        for least in range(2, min(most, _THRESHOLDS) + 1):
            shared = [(c, times) for c, times in self._seen.values() if times >= least]
            rows.append(
                {
                    "images": least,
                    "chunks": len(shared),
                    "comp_size": sum(c.compressed_size for c, _ in shared),
                    "comp_saved": sum(c.compressed_size * (n - 1) for c, n in shared),
                    "uncomp_size": sum(c.uncompressed_size for c, _ in shared),
                    "uncomp_saved": sum(c.uncompressed_size * (n - 1) for c, n in shared),
                }
            )
        return rows


def _count(bootstrap: Bootstrap, figures: ImageFigures) -> dict[tuple[bytes, int], Chunk]:
    """Add an image's files to `figures`; its different chunks."""
    different: dict[tuple[bytes, int], Chunk] = {}
    seen: set[int] = set()
    todo = [load_tree(bootstrap)]
    while todo:
        node = todo.pop()
        if stat.S_ISDIR(node.mode):
            figures.dirs += 1
            todo += node.children.values()
        elif stat.S_ISLNK(node.mode):
            figures.symlinks += 1
        elif stat.S_ISREG(node.mode):
            figures.files += 1
            if id(node) in seen:
                continue
            seen.add(id(node))
            chunks = [
                _counted(chunk, bootstrap.blobs[chunk.blob_index])
                for chunk in node.chunks
                if chunk.blob_index != HOLE
            ]
            _count_file(node.size, chunks, figures, different)
    return different


def _count_file(
    size: int,
    chunks: Sequence[Chunk],
    figures: ImageFigures,
    different: dict[tuple[bytes, int], Chunk],
) -> None:
    figures.file_size += size
    figures.file_sizes[min(size.bit_length(), _FILE_BITS - 1)] += 1
    padding = -size % _BLOCK
    figures.padding_size += padding
    figures.uncomp_size += padding
    for place, bits in enumerate(_CHUNK_BITS):
        figures.chunk_sizes[place] += -(-size >> bits)
    for chunk in chunks:
        figures.chunks += 1
        figures.comp_size += chunk.compressed_size
        figures.uncomp_size += chunk.uncompressed_size
        different.setdefault((chunk.digest, chunk.uncompressed_size), chunk)


def _counted(chunk: Chunk, blob: BlobRecord) -> Chunk:
    """With its share of what is stored. Pieces of tar files have no digest: none equals another."""
    digest = chunk.digest
    if not any(digest):
        digest = b"%s %d" % (blob.blob_id.encode(), chunk.uncompressed_offset)
    return chunk._replace(digest=digest, compressed_size=stored_size(chunk, blob))
