"""Questions about a bootstrap, one line each, answered as data: what nydus-image's inspector knows.

    stats            the file system as a whole
    blobs            the blob table
    prefetch         what is to be read first
    ls [PATH]        a directory
    cd PATH          from here on, paths are relative to it
    stat PATH        an inode with its chunks
    chunk OFFSET     the chunks stored at an offset in their blob, and the files that have them
    icheck INODE     an inode by its number, with all its names

Paths are taken literally: links are not followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from fs.format.blobtable import BlobFeature, BlobRecord
from fs.format.bootstrap import Bootstrap, Inode
from fs.format.chunkinfo import ChunkFlag
from fs.format.chunkrow import ChunkRow
from fs.format.errors import NotFoundError, UsageError
from fs.format.rafs6 import SuperFlag
from fs.format.tree import HOLE
from fs.format.walk import paths

Answer = dict[str, Any] | list[Any]

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


class Inspector:
    """Remembers the directory that `cd` went to."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        self._bootstrap = bootstrap
        self._at: list[bytes] = []
        self._requests: dict[str, Callable[[str], Answer]] = {
            "stats": lambda _: self.stats(),
            "blobs": lambda _: self.blobs(),
            "prefetch": lambda _: self.prefetch(),
            "ls": self.entries,
            "cd": self.change,
            "stat": self.status,
            "chunk": lambda text: self.chunk(_number(text, "chunk OFFSET")),
            "icheck": lambda text: self.inode(_number(text, "icheck INODE")),
        }

    @property
    def directory(self) -> str:
        return "/" + _text(b"/".join(self._at))

    def ask(self, request: str) -> Answer:
        """The answer to one line; UsageError for one that is no request."""
        word, _, rest = request.strip().partition(" ")
        if word not in self._requests:
            raise UsageError(f"no such request: {word[:40]!r}; there are {', '.join(REQUESTS)}")
        return self._requests[word](rest.strip())

    def stats(self) -> Answer:
        image = self._bootstrap
        flags = [flag.name for flag in SuperFlag if image.version == 6 and image.flags & flag]
        return {
            "version": image.version,
            "inodes_count": image.inode_count,
            "chunk_size": image.chunk_size,
            "block_size": image.block_size,
            "root_inode": image.root,
            "compressor": image.compressor.name.lower(),
            "digester": image.digester.name.lower(),
            "flags": flags,
            "size": image.size,
            "blobs": len(image.blobs),
            "prefetch": len(image.prefetch),
        }

    def blobs(self) -> Answer:
        return [blob_fields(blob) for blob in self._bootstrap.blobs]

    def prefetch(self) -> Answer:
        wanted = dict.fromkeys(self._bootstrap.prefetch)
        names: dict[int, list[str]] = {nid: [] for nid in wanted}
        for path, inode in paths(self._bootstrap):
            if inode.nid in names:
                names[inode.nid].append(_shown(path))
        return [{"inode": nid, "path": names[nid]} for nid in wanted]

    def entries(self, path: str) -> Answer:
        directory = self._find(path)
        if not stat.S_ISDIR(directory.mode):
            raise UsageError(f"{path}: no directory")
        rows = []
        for entry in self._bootstrap.entries(directory.nid):
            inode = self._bootstrap.inode(entry.nid)
            rows.append({"name": _text(entry.name), **_summary(inode)})
        return rows

    def change(self, path: str) -> Answer:
        names = self._names(path)
        if not stat.S_ISDIR(self._lookup(names).mode):
            raise UsageError(f"{path}: no directory")
        self._at = names
        return {"directory": self.directory}

    def status(self, path: str) -> Answer:
        return self._inode_fields(self._find(path))

    def inode(self, nid: int) -> Answer:
        names = [_shown(path) for path, inode in paths(self._bootstrap) if inode.nid == nid]
        if not names:
            raise NotFoundError(f"no name leads to inode {nid}")
        return {"path": names, **self._inode_fields(self._bootstrap.inode(nid))}

    def chunk(self, offset: int) -> Answer:
        found = [
            (blob, row)
            for blob in self._bootstrap.blobs
            for row in _rows(self._bootstrap, blob.index)
            if row.compressed_offset == offset
        ]
        answer = [{**_chunk_fields(blob, row), "files": []} for blob, row in found]
        places = {(blob.index, row.uncompressed_offset): n for n, (blob, row) in enumerate(found)}
        seen: set[tuple[int, bytes]] = set()
        for path, inode in paths(self._bootstrap):
            if not places or not stat.S_ISREG(inode.mode):
                continue
            for chunk in self._chunks(inode):
                number = places.get((chunk["blob_index"], chunk["uncompressed_offset"]))
                if number is not None and (number, path) not in seen:
                    seen.add((number, path))
                    answer[number]["files"].append(_shown(path))
        return answer

    def _inode_fields(self, inode: Inode) -> dict[str, Any]:
        fields = _summary(inode)
        if inode.has_xattrs:
            xattrs = self._bootstrap.xattrs(inode.nid)
            fields["xattrs"] = {_text(name): value.hex() for name, value in xattrs.items()}
        if stat.S_ISLNK(inode.mode):
            fields["target"] = _text(self._bootstrap.readlink(inode.nid))
        if stat.S_ISREG(inode.mode):
            fields["chunks"] = self._chunks(inode)
        return fields

    def _chunks(self, inode: Inode) -> list[dict[str, Any]]:
        """The chunks of a file in their order; holes have none."""
        found = []
        for extent in self._bootstrap.extents(inode.nid, 0, inode.size):
            if extent.blob_index == HOLE:
                continue
            table = self._bootstrap.chunk_table(extent.blob_index)
            blob = self._bootstrap.blobs[extent.blob_index]
            end = extent.blob_offset + extent.length
            for number in table.rows_between(extent.blob_offset, end):
                row = table.row(number)
                at = extent.file_offset + row.uncompressed_offset - extent.blob_offset
                found.append({"file_offset": at, **_chunk_fields(blob, row)})
        return found

    def _find(self, path: str) -> Inode:
        return self._lookup(self._names(path))

    def _names(self, path: str) -> list[bytes]:
        names = [] if path.startswith("/") else list(self._at)
        for name in os.fsencode(path).split(b"/"):
            if name == b"..":
                del names[-1:]
            elif name not in (b"", b"."):
                names.append(name)
        return names

    def _lookup(self, names: list[bytes]) -> Inode:
        inode = self._bootstrap.inode(self._bootstrap.root)
        for depth, name in enumerate(names, 1):
            nid = None
            if stat.S_ISDIR(inode.mode):
                nid = self._bootstrap.lookup(inode.nid, name)
            if nid is None:
                raise NotFoundError(f"{_shown(b'/'.join(names[:depth]))}: no such file")
            inode = self._bootstrap.inode(nid)
        return inode


REQUESTS = ("stats", "blobs", "prefetch", "ls", "cd", "stat", "chunk", "icheck")


def blob_fields(blob: BlobRecord) -> dict[str, Any]:
    """A row of the blob table; nydus-image's names where it has them."""
    return {
        "blob_index": blob.index,
        "blob_id": blob.blob_id,
        "readahead_offset": 0,
        "readahead_size": 0,
        "compressed_size": blob.compressed_size,
        "decompressed_size": blob.uncompressed_size,
        "chunk_count": blob.chunk_count,
        "chunk_size": blob.chunk_size,
        "compressor": getattr(blob.compressor, "name", "?").lower(),
        "digester": getattr(blob.digester, "name", "?").lower(),
        "features": [flag.name for flag in BlobFeature if blob.features & flag],
        "meta_offset": blob.ci_offset,
        "meta_compressed_size": blob.ci_compressed_size,
        "meta_decompressed_size": blob.ci_uncompressed_size,
        "toc_size": blob.toc_size,
        "toc_digest": blob.toc_digest.hex(),
    }


def _rows(bootstrap: Bootstrap, index: int) -> Iterator[ChunkRow]:
    table = bootstrap.chunk_table(index)
    return map(table.row, range(len(table)))


def _summary(inode: Inode) -> dict[str, Any]:
    return {
        "inode": inode.nid,
        "type": _KINDS[stat.S_IFMT(inode.mode)],
        "mode": f"{stat.S_IMODE(inode.mode):04o}",
        "size": inode.size,
        "nlink": inode.nlink,
        "uid": inode.uid,
        "gid": inode.gid,
        "rdev": inode.rdev,
        "mtime": inode.mtime,
        "mtime_nsec": inode.mtime_nsec,
    }


def _chunk_fields(blob: BlobRecord, row: ChunkRow) -> dict[str, Any]:
    return {
        "blob_index": blob.index,
        "blob_id": blob.blob_id,
        "chunk_index": row.position,
        "chunk_id": row.digest.hex(),
        "compressed_offset": row.compressed_offset,
        "compressed_size": row.compressed_size,
        "uncompressed_offset": row.uncompressed_offset,
        "uncompressed_size": row.uncompressed_size,
        "flags": [flag.name for flag in ChunkFlag if row.flags & flag],
    }


def _number(text: str, usage: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"{text[:40]!r} is no number: {usage}") from None


def _text(name: bytes) -> str:
    """For JSON and terminals: bytes that are no text show as escapes."""
    return name.decode("utf-8", "backslashreplace")


def _shown(path: bytes) -> str:
    return "/" + _text(path)
