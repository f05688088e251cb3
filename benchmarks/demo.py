"""`./dev demo`: one real image, run lazily, set against a full pull and unpack.

Builds a Debian + Python image, converts it, drops the page cache, and times
`lazyrun run` from the call to the program's first output; then does the same
with a standard tool that must fetch and unpack everything first. Bytes and
requests are counted by the registry. The second part (alone with --embedded)
needs no server: the images lie in OCI layout directories.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.images.build import TAG, cached_image
from benchmarks.images.catalogue.languages import FLASK
from benchmarks.isolation import isolate, left_behind
from benchmarks.measure import compile_tools, drop_caches, first_output, program, run_to_end
from benchmarks.record import Record, Row, machine, table, write_record
from benchmarks.services import Registry, Traffic, containerd, registry
from fs.registry.manifest import find_bootstrap_layer
from fs.registry.store import open_reader

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="./dev demo", description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("--embedded", action="store_true", help="only the part without a server")
    top.add_argument("--mbit", type=int, metavar="N", help="let the network have N Mbit/s")
    top.add_argument("--record", action="store_true", help="renew the figures in README and docs")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(words)
    image = cached_image(FLASK, CACHE / "images", _say)
    compile_tools()
    isolate("benchmarks.demo", words, megabits=arguments.mbit)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="demo-") as name:
        if not arguments.embedded:
            rows += _by_registry(image, Path(name))
        rows += _by_layout(image, Path(name))
    if left := left_behind():
        raise RuntimeError(f"processes were left behind: {left}")
    if len({row.output for row in rows}) != 1:
        raise RuntimeError(f"the programs printed different things: {rows}")
    record = Record(FLASK.name, machine(), arguments.mbit, rows)
    print(f"\nThe program printed: {rows[0].output.strip()}\n\n{table(record)}")
    if arguments.record:
        write_record(record, REPOSITORY)
    return 0


def _say(text: str) -> None:
    print(f"· {text}", flush=True)


def _by_registry(image: Path, work: Path) -> list[Row]:
    with registry(work) as server:
        plain, nydus = f"{server.host}/demo:plain", f"{server.host}/demo:nydus"
        _say("pushing the image to a registry on loopback")
        run_to_end(
            ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false",
             f"oci:{image}:{TAG}", f"docker://{plain}"]
        )  # fmt: skip
        _say("nydusify convert, registry to registry")
        _convert(plain, nydus, work / "convert")
        _say("lazyrun run, from the registry")
        lazy = _lazy_row("registry", nydus, work / "lazy", server)
        _say("containerd: pull, unpack, run")
        with containerd(work) as address:
            ctr = ["ctr", "--address", str(address)]
            commands = [
                [*ctr, "image", "pull", "--plain-http", plain],
                [*ctr, "run", "--rm", plain, "demo"],
            ]
            drop_caches()
            before = server.traffic()
            run = first_output(commands)
            fetched = _difference(server.traffic(), before)
        return [lazy, Row("registry", "containerd", _image_bytes(plain), *fetched, *run)]


def _by_layout(image: Path, work: Path) -> list[Row]:
    plain, nydus = f"oci:{image}:{TAG}", f"oci:{work / 'layout'}:nydus"
    _say("nydusify convert, layout to layout")
    _convert(plain, nydus, work / "convert")
    _say("lazyrun run, from the layout")
    lazy = _lazy_row("layout", nydus, work / "lazy-layout", None)
    _say("umoci unpack, runc run")
    bundle = work / "bundle"
    drop_caches()
    run = first_output(
        [
            [sys.executable, "-m", "benchmarks.bundle", str(image), TAG, str(bundle)],
            ["runc", "--root", str(work / "runc"), "run", "--bundle", str(bundle), "demo"],
        ]
    )
    size = _image_bytes(plain)
    return [lazy, Row("layout", "umoci + runc", size, size, None, *run)]


def _convert(source: str, target: str, work: Path) -> None:
    run_to_end(
        [program("nydusify"), "convert", "--no-layer-cache", "--source", source, "--target", target,
         "--work-dir", str(work)]
    )  # fmt: skip


def _lazy_row(place: str, image: str, root: Path, server: Registry | None) -> Row:
    """Run `image` by lazyrun from an empty state below `root`."""
    command = [program("lazyrun"), "run", "--rm", "--interactive", "--root", str(root), image]
    inside = Traffic(0, 0)

    def ask() -> None:
        nonlocal inside
        inside = _daemon_traffic(root)

    drop_caches()
    before = server.traffic() if server else None
    run = first_output([command], while_alive=ask)
    if server and before:
        fetched = _difference(server.traffic(), before)
    else:
        fetched = _sum(inside, _metadata_traffic(image))
    return Row(place, "lazyrun", _image_bytes(image), *fetched, *run)


def _daemon_traffic(root: Path) -> Traffic:
    """What the one mount below `root` has read of the image's blobs."""
    state = root / "nydus-fs"  # lazyrun's own place for its mounts
    answer = json.loads(
        run_to_end([program("nydus-fs"), "status", "--json", "--state-root", str(state)])
    )
    return Traffic(answer[0]["fetched_bytes"], answer[0]["requests"])


def _metadata_traffic(image: str) -> Traffic:
    """Manifest, configuration and bootstrap, which a mount reads in full."""
    with closing(open_reader(image)) as reader:
        manifest = reader.resolve(nydus=True).manifest
    bootstrap = find_bootstrap_layer(manifest)
    assert bootstrap
    return Traffic(len(manifest.raw) + manifest.config.size + bootstrap.size, 3)


def _sum(one: Traffic, other: Traffic) -> Traffic:
    return Traffic(one.sent_bytes + other.sent_bytes, one.requests + other.requests)


def _difference(after: Traffic, before: Traffic) -> Traffic:
    return Traffic(after.sent_bytes - before.sent_bytes, after.requests - before.requests)


def _image_bytes(image: str) -> int:
    """Manifest, configuration and layers, as stored."""
    with closing(open_reader(image)) as reader:
        manifest = reader.resolve(nydus=True).manifest
    return len(manifest.raw) + sum(d.size for d in [manifest.config, *manifest.layers])


if __name__ == "__main__":
    sys.exit(main())
