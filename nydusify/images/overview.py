"""An image at a glance: its blobs, its largest files, and what of it is of no use.

Wasted bytes are of two kinds. Of the source's layers: files that an upper layer replaces or
deletes. Of the blobs: what no file of the image refers to any more. With a trace, also the
files that its run never read.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fs.format.bootstrap import Bootstrap
from fs.format.tree import HOLE, Node
from fs.format.walk import paths
from nydusify.blobs.stored_size import unused_size
from nydusify.images.opened import OpenedImage
from nydusify.images.touched import touched_files
from nydusify.layers.layer import Layer
from nydusify.layers.merge import apply
from nydusify.layers.sources import SourceImage
from nydusify.report import Progress, size_text

_ROOT = stat.S_IFDIR | 0o755


@dataclass(frozen=True)
class BlobUse:
    """`unused` are stored bytes of chunks that no file has (with batches, about so many);
    `files` have a chunk here.
    """

    blob: str
    stored: int
    decoded: int
    chunks: int
    used_chunks: int
    unused: int
    files: int


@dataclass(frozen=True)
class Hidden:
    """A file of a layer that the image does not show; `by` is "replaced" or "deleted"."""

    layer: int
    path: str
    size: int
    by: str


@dataclass(frozen=True)
class LayerUse:
    """One of the source's layers, lowest first. Sizes of files in bytes."""

    digest: str
    stored: int
    files: int
    size: int
    wasted_files: int
    wasted: int


@dataclass
class Overview:
    image: str
    version: int
    names: int = 0
    directories: int = 0
    files: int = 0
    links: int = 0
    others: int = 0
    size: int = 0
    bootstrap: int = 0
    blobs: list[BlobUse] = field(default_factory=list)
    largest: list[tuple[str, int]] = field(default_factory=list)
    layers: list[LayerUse] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    trace: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def look_at(opened: OpenedImage, top: int, trace: str | None = None) -> Overview:
    """What the bootstrap tells. `top` is the length of the lists."""
    bootstrap = opened.bootstrap
    view = Overview(opened.name, bootstrap.version, bootstrap=bootstrap.size)
    sizes: dict[int, tuple[bytes, int]] = {}
    files_of = [0] * len(bootstrap.blobs)
    for path, inode in paths(bootstrap):
        view.names += 1
        if stat.S_ISDIR(inode.mode):
            view.directories += 1
        elif stat.S_ISREG(inode.mode):
            if inode.nid not in sizes:
                view.files += 1
                sizes[inode.nid] = b"/" + path, inode.size
                extents = bootstrap.extents(inode.nid, 0, inode.size)
                for index in {extent.blob_index for extent in extents} - {HOLE}:
                    files_of[index] += 1
        elif stat.S_ISLNK(inode.mode):
            view.links += 1
        else:
            view.others += 1
    view.size = sum(size for _, size in sizes.values())
    view.blobs = [_blob_use(bootstrap, index, files) for index, files in enumerate(files_of)]
    view.largest = _largest(list(sizes.values()), top)
    if trace is not None:
        view.trace = _never_read(bootstrap, sizes, trace, top)
    return view


def _largest(files: Sequence[tuple[bytes, int]], top: int) -> list[tuple[str, int]]:
    chosen = sorted(files, key=lambda each: (-each[1], each[0]))[:top]
    return [(_text(path), size) for path, size in chosen]


def _blob_use(bootstrap: Bootstrap, index: int, files: int) -> BlobUse:
    blob, table = bootstrap.blobs[index], bootstrap.chunk_table(index)
    return BlobUse(
        blob.blob_id,
        blob.compressed_size,
        blob.uncompressed_size,
        blob.chunk_count,
        len(table),
        unused_size(table, blob),
        files,
    )


def _never_read(
    bootstrap: Bootstrap, sizes: dict[int, tuple[bytes, int]], trace: str, top: int
) -> dict[str, Any]:
    touched = touched_files(bootstrap, trace)
    read = [(path, size) for path, size in sizes.values() if path.lstrip(b"/") in touched]
    never = [
        (path, size) for path, size in sizes.values() if size and path.lstrip(b"/") not in touched
    ]
    return {
        "file": trace,
        "files_read": len(read),
        "size_read": sum(size for _, size in read),
        "files_never_read": len(never),
        "size_never_read": sum(size for _, size in never),
        "largest_never_read": _largest(never, top),
    }


def add_layers(view: Overview, source: SourceImage, progress: Progress, top: int) -> None:
    """Read the source's layers for what upper ones hide of lower ones."""
    root = Node(_ROOT)
    owned: list[list[tuple[bytes, Node]]] = []
    for number, layer in enumerate(source.layers, 1):
        progress.step(f"reading layer {number}", layer.size)
        tree = Layer(layer.name)
        with layer.open(progress.advance) as entries:
            for entry in entries:
                tree.add(entry)
        tree.finish()
        foreign = {link.node for link in tree.foreign_links.values()}
        owned.append([(path, node) for path, node in _files(tree.root) if node not in foreign])
        apply(root, tree)
    shown = dict(_files(root))
    visible = set(shown.values())
    hidden = []
    for number, (layer, files) in enumerate(zip(source.layers, owned, strict=True)):
        sizes = {node: node.size for _, node in files}
        gone = {node: path for path, node in reversed(files) if node not in visible}
        for node, path in gone.items():
            by = "replaced" if path in shown else "deleted"
            hidden.append(Hidden(number, _text(b"/" + path), node.size, by))
        wasted = sum(node.size for node in gone)
        view.layers.append(
            LayerUse(layer.digest, layer.size, len(sizes), sum(sizes.values()), len(gone), wasted)
        )
    view.hidden = sorted(hidden, key=lambda each: (-each.size, each.path))[:top]


def _files(root: Node) -> Iterator[tuple[bytes, Node]]:
    """Every name of a regular file."""
    todo = [(b"", root)]
    while todo:
        above, directory = todo.pop()
        for name, node in directory.children.items():
            path = above + b"/" + name if above else name
            if stat.S_ISDIR(node.mode):
                todo.append((path, node))
            elif stat.S_ISREG(node.mode):
                yield path, node


def text(view: Overview) -> str:
    """For people."""
    parts = [_head(view), _blobs(view)]
    if view.layers:
        parts.append(_layers(view))
    parts.append(_section("largest files", [(size, path) for path, size in view.largest]))
    if view.hidden:
        rows = [(each.size, f"{each.path}  ({each.by}, layer {each.layer})")
                for each in view.hidden]  # fmt: skip
        parts.append(_section("hidden by upper layers", rows))
    if view.trace is not None:
        told = view.trace
        title = (
            f"never read: {told['files_never_read']} files, {size_text(told['size_never_read'])}"
            f" (read: {told['files_read']} files, {size_text(told['size_read'])}); the largest"
        )
        parts.append(_section(title, [(size, path) for path, size in told["largest_never_read"]]))
    return "\n\n".join(parts)


def _head(view: Overview) -> str:
    return (
        f"{view.image}  RAFS v{view.version}, bootstrap {size_text(view.bootstrap)}\n"
        f"{view.names} names: {view.directories} directories, {view.files} files of"
        f" {size_text(view.size)}, {view.links} links, {view.others} others"
    )


def _blobs(view: Overview) -> str:
    rows = [("blob", "stored", "decoded", "chunks", "used", "unused", "files")]
    for blob in view.blobs:
        rows.append(
            (
                blob.blob[:12],
                size_text(blob.stored),
                size_text(blob.decoded),
                str(blob.chunks),
                str(blob.used_chunks),
                size_text(blob.unused),
                str(blob.files),
            )
        )
    return aligned(rows)


def _layers(view: Overview) -> str:
    rows = [("layer", "digest", "stored", "files", "size", "wasted")]
    for number, layer in enumerate(view.layers):
        rows.append(
            (
                str(number),
                layer.digest[7:19] or "-",
                size_text(layer.stored),
                str(layer.files),
                size_text(layer.size),
                f"{size_text(layer.wasted)} in {layer.wasted_files}",
            )
        )
    return aligned(rows)


def _section(title: str, rows: Sequence[tuple[int, str]]) -> str:
    lines = [f"{size_text(size):>11}  {path}" for size, path in rows]
    return "\n".join([f"{title}:", *(lines or ["  none"])])


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
