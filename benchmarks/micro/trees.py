"""The tree that is measured: as a layer, unpacked on the disk, and as a Nydus image."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import program, run_to_end
from fs.registry.manifest import find_bootstrap_layer
from fs.registry.store import open_reader

LARGE = "large"
_IN_A_DIRECTORY = 100
_SIZES = (100, 500, 1000, 3000, 4000, 9000, 14000)  # of small files, as in an image's /usr


class Tree(NamedTuple):
    """`native` is the tree unpacked, `names` its small files, `source` what nydus-fs mounts."""

    native: Path
    names: Path
    source: str

    @property
    def blobs(self) -> Path:
        """Blobs of the image, by id."""
        return self.native.parent / "layout/blobs/sha256"

    @property
    def bootstrap(self) -> Path:
        return self.native.parent / "image/image.boot"


def make_tree(work: Path, files: int, large: int) -> Tree:
    """`files` small files and one of `large` bytes."""
    work.mkdir()
    names, native = work / "names", work / "native"
    listed = list(_names(files))
    names.write_text("".join(f"{name}\n" for name in listed))
    source = random.Random(files)
    noise = source.randbytes(1 << 20)
    with tarfile.open(work / "layer.tar", "w") as layer:
        _directories(layer, files)
        for number, name in enumerate(listed):
            size = _SIZES[number % len(_SIZES)]
            start = number * 17 % (len(noise) - size)
            _add(layer, name, name.encode() + noise[start : start + size])
        _add(layer, LARGE, b"".join(source.randbytes(1 << 20) for _ in range(large >> 20)))
    native.mkdir()
    run_to_end(["tar", "--extract", "--file", f"{work}/layer.tar", "--directory", str(native)])
    tree = Tree(native, names, _convert(work))
    _extract_bootstrap(tree)
    return tree


def _extract_bootstrap(tree: Tree) -> None:
    with closing(open_reader(tree.source)) as reader:
        layer = find_bootstrap_layer(reader.resolve(nydus=True).manifest)
    assert layer
    with tarfile.open(tree.blobs / layer.digest.removeprefix("sha256:")) as archive:
        boot = archive.extractfile("image/image.boot")
        assert boot
        tree.bootstrap.parent.mkdir()
        tree.bootstrap.write_bytes(boot.read())


def make_names(work: Path, files: int) -> str:
    """The source of an image of `files` empty files: all bootstrap, no data to speak of."""
    work.mkdir()
    with tarfile.open(work / "layer.tar", "w") as layer:
        _directories(layer, files)
        for name in _names(files):
            _add(layer, name, b"")
        _add(layer, LARGE, b"not empty")
    return _convert(work)


def _names(files: int) -> Iterator[str]:
    for number in range(files):
        yield f"d{number // _IN_A_DIRECTORY:05}/f{number % _IN_A_DIRECTORY:02}"


def _directories(layer: tarfile.TarFile, files: int) -> None:
    for number in range(-(-files // _IN_A_DIRECTORY)):
        entry = tarfile.TarInfo(f"d{number:05}")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        layer.addfile(entry)


def _add(layer: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    layer.addfile(entry, io.BytesIO(data))
    layer.members = []  # type: ignore[attr-defined]  # else it keeps every header


def _convert(work: Path) -> str:
    source = f"oci:{work / 'layout'}:nydus"
    run_to_end(
        [program("nydusify"), "convert", "--source", f"layer:{work / 'layer.tar'}",
         "--target", source, "--work-dir", str(work)]
    )  # fmt: skip
    (work / "layer.tar").unlink()
    return source
