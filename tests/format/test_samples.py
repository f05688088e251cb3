"""What other people's builders wrote, read and written again."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
from pathlib import Path

import pytest

from fs.format import blobfile, blobmeta, codec
from fs.format.blobtable import BlobFeature, Compressor, Digester
from fs.format.bootstrap import Bootstrap
from fs.format.chunkplaces import chunk_table_from_meta
from fs.format.errors import FormatError
from fs.format.tree import HOLE, Chunk
from fs.format.versions import open_bootstrap
from fs.format.walk import load_tree, walk
from fs.format.writer import BootstrapOptions, write_bootstrap

V6_MD5 = {
    b"lib.rs": "4709cf8873e419ecedc7d43fdee4a75f",
    b"sync_io.rs": "5442bc7dc9dc5f985c7594e23866ae6f",
}


@pytest.fixture
def v6(samples: Path) -> Bootstrap:
    return open_bootstrap((samples / "rafs-v6-2.2.boot").read_bytes(), "rafs-v6-2.2.boot")


@pytest.fixture
def v5(samples: Path) -> Bootstrap:
    return open_bootstrap((samples / "rafs-v5-sha256.boot").read_bytes(), "rafs-v5-sha256.boot")


def read_through_blob(bootstrap: Bootstrap, nid: int, blobs: list[bytes]) -> bytes:
    """A file's content by way of the chunk tables, every chunk decoded and verified."""
    parts = []
    for extent in bootstrap.extents(nid, 0, bootstrap.inode(nid).size):
        if extent.blob_index == HOLE:
            parts.append(bytes(extent.length))
            continue
        table = bootstrap.chunk_table(extent.blob_index)
        end = extent.blob_offset + extent.length
        pieces = bytearray()
        for row in map(table.row, table.rows_between(extent.blob_offset, end)):
            stored = blobs[extent.blob_index][row.compressed_offset :][: row.compressed_size]
            compressor = bootstrap.compressor if row.flags & 1 else Compressor.NONE
            data = codec.decompress(compressor, stored, row.uncompressed_size)
            assert codec.digest(bootstrap.digester, data) == row.digest
            pieces += data
        parts.append(bytes(pieces[: extent.length]))
    return b"".join(parts)


def test_v6_sample_is_rebuilt_byte_for_byte(v6: Bootstrap, samples: Path) -> None:
    out = io.BytesIO()
    # Its builder numbered the root 0 and placed blobs at multiples of 2 MiB; later ones do not.
    options = BootstrapOptions(root_ino=0, blob_alignment=2 << 20, sealed=False)
    write_bootstrap(load_tree(v6), v6.blobs, options, out)
    assert out.getvalue() == (samples / "rafs-v6-2.2.boot").read_bytes()


def test_v6_sample_files_decode_to_their_md5(v6: Bootstrap, samples: Path) -> None:
    assert (v6.version, v6.compressor, v6.digester) == (6, Compressor.ZSTD, Digester.BLAKE3)
    blobs = [(samples / blob.blob_id).read_bytes() for blob in v6.blobs]
    found = {}
    for name in V6_MD5:
        nid = v6.lookup(v6.root, name)
        assert nid is not None
        found[name] = hashlib.md5(read_through_blob(v6, nid, blobs)).hexdigest()
    assert found == V6_MD5
    assert [entry.name for entry in v6.entries(v6.root)] == sorted(V6_MD5)


def test_v6_sample_blob_names_its_parts(v6: Bootstrap, samples: Path) -> None:
    record = v6.blobs[0]
    data = (samples / record.blob_id).read_bytes()
    toc = {
        entry.name: entry
        for entry in blobfile.read_toc(
            data[-record.toc_size :], len(data), "blob", record.toc_digest
        )
    }
    assert list(toc) == ["image.blob", "blob.meta", "blob.meta.header", "blob.digest"]

    def part(name: str) -> bytes:
        entry = toc[name]
        stored = data[entry.compressed_offset :][: entry.compressed_size]
        return blobfile.read_part(entry, stored, "blob")

    offset, length = blobmeta.chunk_info_range(record)
    header, array = blobmeta.read_chunk_info(data[offset : offset + length], record)
    assert array == part("blob.meta")
    assert header.pack() == part("blob.meta.header")
    table = chunk_table_from_meta(array, header, record, part("blob.digest"))
    other = v6.chunk_table(0)
    assert [table.row(i) for i in range(len(table))] == [other.row(i) for i in range(len(other))]


def test_v6_sample_blob_trailer_is_rebuilt(v6: Bootstrap, samples: Path) -> None:
    record = v6.blobs[0]
    data = (samples / record.blob_id).read_bytes()
    table = v6.chunk_table(0)
    rows = [table.row(index) for index in range(len(table))]
    chunks = [Chunk(row.digest, 0, row.position, *row[1:5], row.flags) for row in rows]
    size = record.ci_offset - 512
    trailer = blobfile.build_trailer(
        chunks, size, hashlib.sha256(data[:size]), blobfile.BlobOptions()
    )
    # All but the table of contents, where this old builder left garbage in reserved bytes.
    rebuilt = data[:size] + trailer.data
    assert len(rebuilt) == len(data)
    assert rebuilt[: -record.toc_size] == data[: -record.toc_size]
    ours = blobfile.read_toc(rebuilt, len(rebuilt), "ours", trailer.record.toc_digest)
    theirs = blobfile.read_toc(data, len(data), "theirs")
    # Nor did it know where the data starts.
    assert ours[0] == theirs[0]._replace(compressed_offset=0)
    assert ours[1:] == theirs[1:]
    assert trailer.record.features == record.features
    assert trailer.record.blob_id == hashlib.sha256(rebuilt).hexdigest()


def v5_paths(v5: Bootstrap) -> dict[bytes, int]:
    paths = {v5.root: b""}
    found = {}
    for parent, name, inode in walk(v5):
        if name:
            path = paths[parent] + b"/" + name
            paths[inode.nid] = path
            found[path] = inode.nid
            assert v5.lookup(parent, name) == inode.nid
    return found


def listed_paths(listing: list[dict[str, object]], above: str = "") -> set[str]:
    paths = set()
    for entry in listing:
        if entry["type"] == "report":
            continue
        path = f"{above}/{entry['name']}" if entry["name"] else ""
        contents = entry.get("contents", [])
        assert isinstance(contents, list)
        paths |= {path} | listed_paths(contents, path)
    return paths


def test_v5_sample_gives_its_tree_and_md5_sums(v5: Bootstrap, samples: Path) -> None:
    expected = (samples / "rafs-v5-sha256.result.json").read_text()
    listing, _ = json.JSONDecoder().raw_decode(expected)
    sums = re.findall(r"^([0-9a-f]{32})  (/.*)$", expected, re.MULTILINE)
    assert len(sums) == 23

    paths = v5_paths(v5)
    assert {path.decode() for path in paths} == listed_paths(listing) - {""}
    blobs = [(samples / blob.blob_id).read_bytes() for blob in v5.blobs]
    found = {
        (hashlib.md5(read_through_blob(v5, nid, blobs)).hexdigest(), path.decode())
        for path, nid in paths.items()
        if stat.S_ISREG(v5.inode(nid).mode)
    }
    assert found == set(sums)


def test_v5_sample_shares_hard_links(v5: Bootstrap) -> None:
    paths = v5_paths(v5)
    names = [b"/hardlink-test/foo", b"/hardlink-test/test.sh", b"/normal-file-test/test.sh"]
    assert {paths[name] for name in names} == {paths[names[0]]}
    assert v5.inode(paths[names[0]]).nlink == 3
    assert v5.readlink(paths[b"/symlink-test/root"]) == b"/"


def test_v5_tree_with_chunks_between_blocks_is_no_v6_tree(v5: Bootstrap) -> None:
    for blob in v5.blobs:
        blob.features |= BlobFeature.ALIGNED
        blob.ci_uncompressed_size = 16 * blob.chunk_count
    with pytest.raises(FormatError, match="chunk at 944 does not start a block"):
        write_bootstrap(load_tree(v5), v5.blobs, BootstrapOptions(), io.BytesIO())
