"""The bootstrap is whole: every name, inode, attribute and chunk of it can be read and is sound."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

from fs.format.bootstrap import Bootstrap
from fs.format.errors import FormatError, local_errors
from fs.format.rafs6 import SuperFlag
from fs.format.tree import Node
from fs.format.walk import load_tree, paths, walk
from fs.format.writer import BootstrapOptions, write_bootstrap
from nydusify.checks.findings import Findings
from nydusify.images.bootstraps import node_at

_RULE = "bootstrap"


def check_bootstrap(bootstrap: Bootstrap, path: Path, findings: Findings) -> None:
    """Visits everything. Whether it is as builders write it is only noted."""
    root = load_tree(bootstrap)
    nids = _nids(bootstrap)
    if bootstrap.version == 6:
        findings.expect(_RULE, "names", sum(1 for _ in walk(bootstrap)), bootstrap.inode_count)
    wanted = list(bootstrap.prefetch)
    for nid in wanted:
        if nid not in nids:
            findings.add(_RULE, f"inode {nid}, to be prefetched, has no name", FormatError)
            return
    if bootstrap.version == 6 and not _is_canonical(bootstrap, root, wanted, nids, path):
        findings.notes.append("the bootstrap is not byte for byte as nydusify would write it")


def _nids(bootstrap: Bootstrap) -> dict[int, bytes]:
    """A path of every inode."""
    found: dict[int, bytes] = {}
    for path, inode in paths(bootstrap):
        found.setdefault(inode.nid, path)
    return found


def _is_canonical(
    bootstrap: Bootstrap,
    root: Node,
    prefetch: Sequence[int],
    names: dict[int, bytes],
    path: Path,
) -> bool:
    """Whether writing what was read gives the same bytes: then no bit of it is without meaning."""
    options = BootstrapOptions(
        chunk_size=bootstrap.chunk_size,
        compressor=bootstrap.compressor,
        digester=bootstrap.digester,
        block_size=bootstrap.block_size,
        extra_flags=bootstrap.flags & SuperFlag.ENCRYPTION_NONE,
        prefetch=[node_at(root, names[nid]) for nid in prefetch],
        sealed=bootstrap.sealed,
    )
    with local_errors(path), path.open("rb") as file:
        comparing = _Comparing(file)
        try:
            write_bootstrap(root, bootstrap.blobs, options, cast(BinaryIO, comparing))
        except (FormatError, _Different):
            return False
        return not file.read(1)


class _Different(Exception):
    """What is written is not what is there."""


class _Comparing(io.RawIOBase):
    """Takes bytes that must be those of `file`."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        content = bytes(data)  # type: ignore[call-overload]
        if self._file.read(len(content)) != content:
            raise _Different
        return len(content)
