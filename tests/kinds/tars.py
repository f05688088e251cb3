"""Images whose blobs are tar files as they are, as nydus-image makes them (tar-tarfs)."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

from fs.format.blobtable import BlobFeature, BlobRecord, Compressor, Digester
from fs.format.tree import Chunk, Node
from fs.format.writer import BootstrapOptions, write_bootstrap

_CHUNK = 1 << 20
_TYPES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR,
}


def tarred(tree: Path, path: Path) -> Path:
    """An archive of `tree` at `path`, fractions of times left out."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tree, ".")
    return path


def image_of_tar(tar: Path, out: Path) -> tuple[Path, Path]:
    """The bootstrap over `tar`, and the directory with it as a blob."""
    size = tar.stat().st_size
    name = hashlib.sha256(tar.read_bytes()).hexdigest()
    nodes: dict[str, Node] = {}
    count = 0
    with tarfile.open(tar) as archive:
        for member in archive:
            node = nodes[member.linkname] if member.islnk() else _node(member, count)
            count += len(node.chunks)
            nodes[member.name] = node
            parent, _, base = member.name.rpartition("/")
            if base != ".":
                nodes[parent].children[os.fsencode(base)] = node
    blob = BlobRecord(
        name,
        chunk_count=count,
        compressor=Compressor.NONE,
        digester=Digester.SHA256,
        features=BlobFeature.TARFS,
        compressed_size=size,
        uncompressed_size=size,
    )
    options = BootstrapOptions(
        chunk_size=_CHUNK, compressor=Compressor.NONE, digester=Digester.SHA256, block_size=512
    )
    target = io.BytesIO()
    write_bootstrap(nodes["."], [blob], options, target)
    blobs = out / "blobs"
    blobs.mkdir(parents=True)
    (blobs / name).write_bytes(tar.read_bytes())
    (out / "image.boot").write_bytes(target.getvalue())
    return out / "image.boot", blobs


def _node(member: tarfile.TarInfo, position: int) -> Node:
    node = Node(
        mode=_TYPES[member.type] | member.mode,
        uid=member.uid,
        gid=member.gid,
        mtime=int(member.mtime),
        size=member.size,
    )
    if member.issym():
        node.mode = stat.S_IFLNK | 0o777
        node.target = os.fsencode(member.linkname)
        node.size = len(node.target)
    if member.ischr():
        node.rdev = os.makedev(member.devmajor, member.devminor)
    for start in range(0, member.size, _CHUNK):
        size = min(_CHUNK, member.size - start)
        place = member.offset_data + start
        # Where builders write no digest; but a table has each digest once.
        digest = hashlib.sha256(b"%d" % place).digest()
        number = position + len(node.chunks)
        node.chunks = [*node.chunks, Chunk(digest, 0, number, place, size, place, size)]
    return node
