"""`python -m benchmarks.link`: reading a large file over a slow link, set against the link itself.

The link is a server of its own process that answers each request after a round
trip and sends all answers together at a limited rate. Each row is a kind of
reader; the ratio is its throughput (bytes that crossed the link) to that rate.
Rows of a driver read through a mount, as programs do, the others ask the engine.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import random
import re
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import trio

from benchmarks.measure import program, run_to_end
from fs.backend.http import HttpBackend
from fs.cache.fetch import Fetcher
from fs.cache.readahead import ReadAhead
from fs.cache.store import CacheStore
from fs.format import codec
from fs.format.blobtable import BlobRecord, Compressor, Digester
from fs.format.tree import Chunk, Node
from fs.format.writer import BootstrapOptions, write_bootstrap
from fs.image.tree import Image, map_bootstrap

_RANGE = re.compile(r"bytes=(\d+)-(\d+)\Z")
_PIECE = 64 << 10
_NAME = "a" * 64
_READ = 128 << 10
_READERS = 64
_CHUNK_INFO = 16

Reader = Callable[[Image, int, int], Coroutine[Any, Any, None]]


class Link(NamedTuple):
    """Seconds of a round trip, and bytes a second for all answers together."""

    latency: float
    rate: float


class Figures(NamedTuple):
    seconds: float
    fetched: int
    requests: int


#: Of a bootstrap, its blob's server and a directory.
Use = Callable[[Path, str, Path], Figures]


def content(offset: int, length: int, chunk_size: int) -> bytes:
    """A blob that nobody has to store, no chunk of which is like another."""
    pattern = _pattern(chunk_size)
    pieces = []
    for number in range(offset // chunk_size, -(-(offset + length) // chunk_size)):
        pieces.append(number.to_bytes(16, "little") + pattern[16:])
    start = offset % chunk_size
    return b"".join(pieces)[start : start + length]


@cache
def _pattern(size: int) -> bytes:
    return random.Random(1).randbytes(size)


def engine(read: Reader, amount: int, *, ahead: bool = True) -> Use:
    """A reader inside of this process."""

    def run(bootstrap: Path, url: str, place: Path) -> Figures:
        cache = str(place / "cache")
        return trio.run(partial(measure, bootstrap, url, read, amount, cache, ahead=ahead))

    return run


def build(directory: Path, size: int, chunk_size: int) -> Path:
    """The bootstrap of an image with one file `big` of `size` bytes."""
    chunks = [
        Chunk(
            codec.digest(Digester.BLAKE3, content(number * chunk_size, chunk_size, chunk_size)),
            0,
            number,
            number * chunk_size,
            chunk_size,
            number * chunk_size,
            chunk_size,
        )
        for number in range(size // chunk_size)
    ]
    record = BlobRecord(
        _NAME,
        chunk_size=chunk_size,
        chunk_count=len(chunks),
        compressor=Compressor.NONE,
        compressed_size=size,
        uncompressed_size=size,
        ci_offset=size,
        ci_compressed_size=len(chunks) * _CHUNK_INFO,
        ci_uncompressed_size=len(chunks) * _CHUNK_INFO,
    )
    root = Node(mode=stat.S_IFDIR | 0o755)
    root.children[b"big"] = Node(mode=stat.S_IFREG | 0o644, size=size, chunks=chunks)
    out = io.BytesIO()
    write_bootstrap(root, [record], BootstrapOptions(chunk_size=chunk_size), out)
    path = directory / f"{size}-{chunk_size}.boot"
    path.write_bytes(out.getvalue())
    return path


def serve(link: Link, chunk_size: int, report: Connection) -> None:
    """Answer ranges of `content` over `link` for ever; sends its port first."""
    lock = threading.Lock()
    free = [0.0]
    pattern = content(0, chunk_size, chunk_size)

    def pace(amount: int) -> None:
        with lock:
            free[0] = max(free[0], time.monotonic()) + amount / link.rate
            due = free[0]
        time.sleep(max(0.0, due - time.monotonic()))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(link.latency)
            match = _RANGE.match(self.headers["Range"])
            assert match
            first, last = int(match[1]), int(match[2])
            body = bytearray()
            for number in range(first // chunk_size, last // chunk_size + 1):
                body += number.to_bytes(16, "little") + pattern[16:]
            view = memoryview(body)[first % chunk_size :][: last - first + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(view)))
            self.send_header("Content-Range", f"bytes {first}-{last}/*")
            self.end_headers()
            for start in range(0, len(view), _PIECE):
                piece = view[start : start + _PIECE]
                pace(len(piece))
                self.wfile.write(piece)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

    server = Server(("127.0.0.1", 0), Handler)
    report.send(server.server_address[1])
    server.serve_forever()


async def sequential(image: Image, nid: int, amount: int) -> None:
    """One reader, from the start on, as the kernel reads ahead for it."""
    for offset in range(0, amount, _READ):
        await image.read(nid, offset, _READ)


async def scattered(image: Image, nid: int, amount: int) -> None:
    """64 readers of 4 KiB at random places, until chunks of about `amount` bytes were asked for."""
    size = image.inode(nid).size
    chunk = image.bootstrap.chunk_size
    each = max(1, amount // chunk // _READERS)

    async def reader(seed: int) -> None:
        places = random.Random(seed)
        for _ in range(each):
            await image.read(nid, places.randrange(size // 4096) * 4096, 4096)

    async with trio.open_nursery() as nursery:
        for seed in range(_READERS):
            nursery.start_soon(reader, seed)


async def measure(
    bootstrap: Path, url: str, read: Reader, amount: int, place: str, *, ahead: bool
) -> Figures:
    """Read over the link into an empty cache."""
    backend = HttpBackend(url)
    async with trio.open_nursery() as nursery:
        store = CacheStore(place, nursery)
        fetcher = Fetcher(backend)
        image = Image(map_bootstrap(str(bootstrap)), store, fetcher)
        if not ahead:
            image.read_ahead = ReadAhead(0)
        nid = image.lookup(image.root, b"big")
        assert nid is not None
        await image.blob(0)
        start = time.monotonic()
        await read(image, nid, amount)
        seconds = time.monotonic() - start
        nursery.cancel_scope.cancel()
    store.close()
    backend.close()
    return Figures(seconds, fetcher.bytes_fetched, fetcher.requests)


def through_mount(bootstrap: Path, url: str, driver: str, amount: int, place: Path) -> Figures:
    """64 threads that read 4 KiB at random places of a mount with an empty cache."""
    command, state = program("nydus-fs"), ["--state-root", f"{place}/state"]
    target = place / "mnt"
    target.mkdir()
    options = ["--driver", driver, "--backend-url", url, "--cache-dir", f"{place}/cache", *state]
    run_to_end([command, "mount", *options, str(bootstrap), str(target)])
    try:
        each = max(1, amount // (1 << 20) // _READERS)
        file = os.open(target / "big", os.O_RDONLY)
        pages = os.fstat(file).st_size // 4096

        def reader(seed: int) -> None:
            places = random.Random(seed)
            for _ in range(each):
                assert len(os.pread(file, 4096, places.randrange(pages) * 4096)) == 4096

        start = time.monotonic()
        with ThreadPoolExecutor(_READERS) as readers:
            list(readers.map(reader, range(_READERS)))
        seconds = time.monotonic() - start
        os.close(file)
        told = json.loads(run_to_end([command, "status", "--json", *state]))[0]
    finally:
        run_to_end([command, "umount", *state, str(target)])
    return Figures(seconds, told["fetched_bytes"], told["requests"])


def mount(driver: str, amount: int) -> Use:
    """Readers of a mount."""
    return lambda bootstrap, url, place: through_mount(bootstrap, url, driver, amount, place)


def over_link(link: Link, size: int, chunk_size: int, use: Use) -> Figures:
    """One measurement with a server, a file and a place of its own."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(
        target=serve, args=(link, chunk_size, theirs), daemon=True
    )
    server.start()
    try:
        with tempfile.TemporaryDirectory(prefix="link-") as name:
            bootstrap = build(Path(name), size, chunk_size)
            url = f"http://127.0.0.1:{ours.recv()}"
            return use(bootstrap, url, Path(name))
    finally:
        server.terminate()
        server.join()


def main(argv: Sequence[str] | None = None) -> int:
    top = argparse.ArgumentParser(prog="python -m benchmarks.link", description=__doc__)
    top.add_argument("--latency", type=float, default=0.02, metavar="SECONDS")
    top.add_argument("--rate", type=float, default=50e6, metavar="BYTES", help="a second")
    arguments = top.parse_args(argv)
    link = Link(arguments.latency, arguments.rate)
    rows: list[tuple[str, int, Use]] = [
        ("sequential, no read-ahead", 1 << 20, engine(sequential, 64 << 20, ahead=False)),
        ("sequential", 1 << 20, engine(sequential, 256 << 20)),
        ("sequential, small chunks", 64 << 10, engine(sequential, 128 << 20)),
        ("64 at random", 1 << 20, engine(scattered, 256 << 20)),
        ("64 at random, small chunks", 64 << 10, engine(scattered, 64 << 20)),
        ("64 at random, fuse", 1 << 20, mount("fuse", 256 << 20)),
        ("64 at random, erofs", 1 << 20, mount("erofs", 256 << 20)),
    ]
    print(f"{'reader':28} {'chunk':>8} {'MB':>7} {'requests':>8} {'seconds':>7} {'ratio':>6}")
    for name, chunk, use in rows:
        got = over_link(link, 2 << 30, chunk, use)
        ratio = got.fetched / got.seconds / link.rate
        print(
            f"{name:28} {chunk:8} {got.fetched / 1e6:7.1f} {got.requests:8} "
            f"{got.seconds:7.2f} {ratio:6.2f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
