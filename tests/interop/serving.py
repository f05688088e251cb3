"""Which nydusd serves which of our images: every kind of them, mounted and compared as a whole.

`./dev interop table NAME=DIR...` prints a table, for the programs in each DIR; with
`--record` it goes into docs/converting.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.blocks import write_block
from fs.daemon import launch
from nydusify.cli import main as nydusify
from tests.interop.test_nydus import nydusd
from tests.nydusify.images import pull
from tests.parts.layers import LayerTar
from tests.parts.plain import write_plain_image
from tests.parts.registry import start_registry
from tests.parts.stacks import base
from tests.parts.trees import Entry, differences, scan
from tests.verbs.test_inspect import write_trace

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/converting.md"
_COLUMN = 34


class Programs(NamedTuple):
    """nydusd and nydus-image of one version, in `directory`."""

    name: str
    directory: Path

    @classmethod
    def of(cls, text: str) -> Programs:
        name, _, directory = text.rpartition("=")
        return cls(name or Path(directory).name, Path(directory))


class Images:
    """A layout below `work` that has each kind of image under its name."""

    def __init__(self, work: Path) -> None:
        self.work = work
        low = base().add("usr/big", data=bytes(range(256)) * 9000).add("usr/gone", data=b"g" * 70)
        for number in range(300):
            low.add(f"usr/many/{number:03}", data=b"%d\n" % number * (number % 90))
        upper = LayerTar().add("usr/.wh.gone").add("usr/many/007", data=b"another" * 30)
        self.tars = [
            low.tar(),
            upper.symlink("usr/link", "big").add("new", data=b"new" * 999).tar(),
        ]
        for packing in ("gzip", "zstd", "none"):
            write_plain_image(self.place(f"plain-{packing}"), self.tars, packing=packing)

    def place(self, tag: str) -> str:
        return f"oci:{self.work}/layout:{tag}"

    def convert(self, tag: str, *options: str, packing: str = "gzip") -> None:
        source = self.place(f"plain-{packing}")
        _do("convert", "--source", source, "--target", self.place(tag), *options)

    def derive(self, tag: str, *words: str, source: str = "default") -> None:
        """By another verb, of an image that is there."""
        verb, *options = words
        _do(verb, "--source", self.place(source), "--target", self.place(tag), *options)

    def optimize(self, tag: str, source: str = "default") -> None:
        (self.work / "list").write_text("/usr/many/008\n/new\n")
        self.derive(tag, "optimize", "--prefetch-files", f"{self.work}/list", source=source)

    def slim(self, tag: str) -> None:
        (self.work / tag).mkdir()
        trace = self.work / "trace"
        write_trace(trace, self.place("default"), self.work / tag, b"usr/many/008", b"new")
        self.derive(tag, "slim", "--trace", str(trace))

    def commit(self, tag: str) -> None:
        upper = self.work / "upper"
        (upper / "etc").mkdir(parents=True)
        (upper / "etc/written").write_text("by a container")
        self.derive(tag, "commit", "--upper", str(upper))


Make = Callable[[Images, str], None]


def by_convert(*options: str, packing: str = "gzip") -> Make:
    return lambda images, tag: images.convert(tag, *options, packing=packing)


KINDS: dict[str, Make] = {
    "default": by_convert(),
    "--batch-size 0": by_convert("--batch-size", "0"),
    "--batch-size 64KiB": by_convert("--batch-size", "64KiB"),
    "--compressor lz4_block": by_convert("--compressor", "lz4_block"),
    "--compressor none": by_convert("--compressor", "none"),
    "--startup none": by_convert("--startup", "none"),
    "--startup blob": by_convert("--startup", "blob", "--prefetch-patterns", "/new"),
    "--startup blob --batch-size 0": by_convert(
        *("--startup", "blob", "--prefetch-patterns", "/new", "--batch-size", "0")
    ),
    "--chunk-dict": lambda images, tag: images.convert(
        tag, "--chunk-dict", images.place(tag_of("--batch-size 64KiB"))
    ),
    "--oci-ref, gzip layers": by_convert("--oci-ref"),
    "--oci-ref, zstd layers": by_convert("--oci-ref", packing="zstd"),
    "--oci-ref, plain tar": by_convert("--oci-ref", packing="none"),
    "optimize": lambda images, tag: images.optimize(tag),
    "optimize, --batch-size 0": lambda images, tag: images.optimize(tag, tag_of("--batch-size 0")),
    "commit": lambda images, tag: images.commit(tag),
    "compact": lambda images, tag: images.derive(tag, "compact"),
    "slim": lambda images, tag: images.slim(tag),
}


def tag_of(kind: str) -> str:
    return re.sub(r"[^\w.-]+", "-", kind).strip("-")


def _do(*words: str) -> None:
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        code = nydusify(list(words))
    if code:
        raise RuntimeError(f"nydusify {' '.join(words)}: exit code {code}: {told.getvalue()}")


def shown(place: Path) -> dict[bytes, Entry]:
    """What all daemons tell alike: nydusd shows the names of one inode as several."""
    found = scan(place)
    return {path: entry._replace(nlink=0, identity=b"") for path, entry in found.items()}


@contextlib.contextmanager
def ours(place: str, work: Path) -> Iterator[Path]:
    """A mount of the image by nydus-fs, whose trees other tests set against the kernel's."""
    mountpoint = work / "ours"
    mountpoint.mkdir(exist_ok=True)
    options = launch.MountOptions(cache_dir=f"{work}/cache", state_root=f"{work}/run")
    launch.mount(place, str(mountpoint), options)
    try:
        yield mountpoint
    finally:
        launch.unmount(str(mountpoint), state_root=options.state_root)


def answer(
    programs: Programs, bootstrap: Path, backend: dict[str, object], work: Path,
    expected: dict[bytes, Entry],
) -> str:  # fmt: skip
    """ "yes", or what is wrong, in a word or two."""
    os.environ["NYDUS_BIN"] = str(programs.directory)
    checked = subprocess.run(
        [programs.directory / "nydus-image", "check", "--bootstrap", bootstrap],
        capture_output=True,
    )
    if checked.returncode:
        return "refused"
    try:
        with nydusd(bootstrap, backend, work) as place:
            found = shown(place)
    except AssertionError:
        return "refused"
    except OSError as error:
        return f"{error.strerror}"
    for path, entry in expected.items():
        if not entry.mtime_ns and path in found:  # for which nydusd has the time of its start
            found[path] = found[path]._replace(mtime_ns=0)
    wrong = differences(expected, found, 1)
    return f"wrong: {wrong[0]}" if wrong else "yes"


def rows(images: Images, programs: list[Programs]) -> Iterator[tuple[str, list[str]]]:
    """For each kind, the answers of each version, from a directory and from a registry."""
    with start_registry(images.work / "registry") as registry:
        for turn, (kind, make) in enumerate(KINDS.items()):
            tag = tag_of(kind)
            make(images, tag)
            _do("copy", "--source", images.place(tag), "--target", f"{registry.host}/images:{tag}")
            work = images.work / str(turn)  # short: sockets' paths are limited
            work.mkdir()
            with ours(images.place(tag), work) as place:
                expected = shown(place)
            bootstrap, _ = pull(images.place(tag), work)
            remote = {"scheme": "http", "host": registry.host, "repo": "images"}
            backends: list[dict[str, object]] = [
                {"type": "localfs", "config": {"dir": f"{images.work}/layout/blobs/sha256"}},
                {"type": "registry", "config": remote},
            ]
            yield (
                kind,
                [
                    answer(each, bootstrap, backend, work / f"{number}{backend['type']}", expected)
                    for number, each in enumerate(programs)
                    for backend in backends
                ],
            )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="./dev interop table", description=__doc__)
    parser.add_argument("programs", nargs="+", type=Programs.of, metavar="NAME=DIR")
    parser.add_argument("--record", action="store_true", help="write the table into the docs")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    programs: list[Programs] = given.programs
    with tempfile.TemporaryDirectory() as name:
        found = dict(rows(Images(Path(name)), programs))
    heads = [f"{each.name} {where}" for each in programs for where in ("directory", "registry")]
    width = max(map(len, heads)) + 2
    lines = [f"{'image':<{_COLUMN}}" + "".join(f"{head:<{width}}" for head in heads)]
    lines += [
        f"{kind:<{_COLUMN}}" + "".join(f"{each:<{width}}" for each in answers)
        for kind, answers in found.items()
    ]
    table = "\n".join(line.rstrip() for line in lines)
    print(json.dumps({"columns": heads, "kinds": found}, indent=1) if given.json else table)
    if given.record:
        write_block(DOCUMENT, "./dev interop table --record", table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
