"""Images of every kind that nydus-image makes, of one small tree.

`python -m tests.interop.making` makes those that are kept in `made.tar.xz` anew, by the
nydus-image of NYDUS_BIN, so that they can be read where there is none.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

KEPT = Path(__file__).with_name("made.tar.xz")
_TIME = 1_700_000_000
_NOTE = b"\0binary\xff"


class Kind(NamedTuple):
    """How an image is made: conversion type, and options of nydus-image's `create`."""

    type: str
    options: str = ""
    source: str = "tree"
    patterns: str = ""
    of_chunks: str = ""
    """another kind, whose chunks and blobs these are"""


KINDS = {
    "v5": Kind("dir-rafs", "--fs-version 5 --chunk-size 0x10000"),
    "v5-lz4-sha256": Kind("dir-rafs", "--fs-version 5 --compressor lz4_block --digester sha256"),
    "v5-none-aligned": Kind("dir-rafs", "--fs-version 5 --compressor none --aligned-chunk"),
    "v5-prefetch": Kind("dir-rafs", "--fs-version 5 --prefetch-policy fs", patterns="/big\n"),
    "v6": Kind("dir-rafs", "--chunk-size 0x10000"),
    "v6-lz4": Kind("dir-rafs", "--chunk-size 0x10000 --compressor lz4_block"),
    "v6-none-sha256": Kind("dir-rafs", "--compressor none --digester sha256"),
    "v6-toc": Kind("dir-rafs", "--features blob-toc"),
    "v6-prefetch": Kind("dir-rafs", "--prefetch-policy blob", patterns="/dir/07\n/big\n"),
    "v6-dictionary": Kind(
        "dir-rafs", "--chunk-size 0x10000 --chunk-dict bootstrap={v6}", of_chunks="v6"
    ),
    "v6-parent": Kind("dir-rafs", "--chunk-size 0x10000 --parent-bootstrap {v6}", of_chunks="v6"),
    "batch-4k": Kind("dir-rafs", "--batch-size 0x1000"),
    "batch-64k": Kind("dir-rafs", "--batch-size 0x10000"),
    "batch-lz4": Kind("dir-rafs", "--batch-size 0x10000 --compressor lz4_block"),
    "batch-none": Kind("dir-rafs", "--batch-size 0x10000 --compressor none"),
    "batch-toc": Kind("dir-rafs", "--batch-size 0x10000 --features blob-toc"),
    "batch-dictionary": Kind(
        "dir-rafs",
        "--batch-size 0x10000 --chunk-dict bootstrap={batch-64k}",
        of_chunks="batch-64k",
    ),
    "tar": Kind("tar-rafs", source="layer.tar"),
    "tar-batch": Kind("targz-rafs", "--batch-size 0x10000", source="layer.tar.gz"),
    "tarfs": Kind("tar-tarfs", source="layer.tar"),
    "zran": Kind("targz-ref", source="layer.tar.gz"),
    "zran-64k": Kind("targz-ref", "--chunk-size 0x10000", source="layer.tar.gz"),
    "external": Kind("dir-rafs", "--fs-version 5 --attributes {attributes}"),
    "encrypted": Kind("dir-rafs", "--encrypt"),
    "encrypted-batch": Kind("dir-rafs", "--encrypt --batch-size 0x10000"),
}


def make_tree(root: Path) -> Path:
    """Files of one chunk and of several, many small ones, links, a device, attributes."""
    (root / "dir/deep").mkdir(parents=True)
    (root / "big").write_bytes(b"".join(b"%d\n" % n for n in range(9_000)) + bytes(120_000))
    (root / "empty").touch()
    for number in range(60):
        (root / f"dir/{number:02}").write_text(f"file {number}\n" * (number % 20))
    (root / "dir/middle").write_bytes(hashlib.shake_256(b"middle").digest(1_500) * 30)
    os.link(root / "big", root / "dir/hard")
    (root / "dir/deep/link").symlink_to("../../big")
    os.mknod(root / "null", 0o020666, os.makedev(1, 3))
    os.setxattr(root / "big", "user.note", _NOTE)
    os.chown(root / "dir/01", 70_000, 80_000)
    for directory, names, files in os.walk(root, topdown=False):
        for name in [*names, *files]:
            os.utime(Path(directory, name), (_TIME, _TIME), follow_symlinks=False)
    os.chmod(root / "dir/deep", 0o1777)
    os.utime(root, (0, 0))  # nydus-image does not keep the root's time
    return root


def make_images(program: str, work: Path) -> None:
    """`work/KIND` with `image.boot` and `blobs`, for every kind that `program` knows."""
    tree = make_tree(work / "tree")
    layer = work / "layer.tar"
    with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(tree, ".", filter=_with_attributes)
    packed = work / "layer.tar.gz"
    packed.write_bytes(gzip.compress(layer.read_bytes(), 6, mtime=0))
    known = subprocess.run([program, "create", "--help"], capture_output=True, check=True).stdout
    for name, kind in KINDS.items():
        options = [word for word in kind.options.split() if word.startswith("--")]
        if all(word.encode() in known for word in (kind.type, *options)):
            _make(program, name, kind, work)
    shutil.rmtree(tree)
    for each in (layer, packed, work / "attributes"):
        each.unlink(missing_ok=True)


def _with_attributes(member: tarfile.TarInfo) -> tarfile.TarInfo:
    if member.name == "./big":
        member.pax_headers = {"SCHILY.xattr.user.note": os.fsdecode(_NOTE)}
    return member


def _make(program: str, name: str, kind: Kind, work: Path) -> None:
    place = work / name
    blobs = place / "blobs"
    blobs.mkdir(parents=True)
    others = {other: str(work / other / "image.boot") for other in ("v6", "batch-64k")}
    external = b"something else".ljust(4096) + (work / "tree/dir/middle").read_bytes()
    (work / "attributes").write_text(_attributes(external))
    command = [program, "create", "--log-level", "warn", "--type", kind.type]
    command += [word.format(attributes=work / "attributes", **others)
                for word in kind.options.split()]  # fmt: skip
    command += ["--bootstrap", str(place / "image.boot"), "--blob-dir", str(blobs)]
    subprocess.run([*command, str(work / kind.source)], input=kind.patterns.encode(), check=True)
    if kind.of_chunks:
        shutil.copytree(work / kind.of_chunks / "blobs", blobs, dirs_exist_ok=True)
    if kind.type in ("tar-tarfs", "targz-ref"):  # the layer itself is the blob
        content = (work / kind.source).read_bytes()
        (blobs / hashlib.sha256(content).hexdigest()).write_bytes(content)
    if name == "external":  # what is not external has an image of its own
        (place / "image.external").rename(place / "image.boot")
        shutil.rmtree(blobs)
        blobs.mkdir()
        (blobs / hashlib.sha256(external).hexdigest()).write_bytes(external)


def _attributes(external: bytes) -> str:
    """Says that one file is in `external`, from its second block on."""
    words = {
        "type": "external",
        "blob_index": 0,
        "blob_id": hashlib.sha256(external).hexdigest(),
        "chunk_size": "1MiB",
        "chunk_0_compressed_offset": 4096,
        "compressed_size": len(external),
        "crcs": "0x0",
    }
    return "/dir/middle " + " ".join(f"{key}={value}" for key, value in words.items()) + "\n"


def kept_images(work: Path) -> None:
    """The same from what is kept."""
    subprocess.run(["tar", "-xf", KEPT, "-C", work], check=True)


def main() -> int:
    program = shutil.which("nydus-image", path=os.environ.get("NYDUS_BIN") or os.environ["PATH"])
    if program is None:
        print("no nydus-image; NYDUS_BIN can name its directory", file=sys.stderr)
        return 5
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_images(program, work)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:
            for kind in KINDS:
                archive.add(work / kind, kind)
    KEPT.write_bytes(buffer.getvalue())
    print(f"{KEPT}: {len(buffer.getvalue())} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
