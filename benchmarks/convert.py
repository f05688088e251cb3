"""`python -m benchmarks convert`: speed of conversion, and what chunk and batch sizes cost.

Speed: `nydusify convert` from a registry into it, nothing cached, against one core's `zstd -3`
over the same layers' bytes, decompressed, and against `ctr-remote image convert --estargz` of the
image in containerd's store. All on loopback, in turn; above 1 is faster than that. Beside it the
seconds of CPU of the conversion and of the registry that it goes through, which has the same
cores, and of the parts that no conversion can do without. `at best`: what their sum, the
registry's included, would be against `zstd -3`, if all cores were busy with nothing else.

--oci-ref instead refers to the layers where they are, against one core's gunzip of them.

--sizes instead converts with each combination of sizes, and starts each image from nothing
until it is ready: bytes and requests are those of the registry.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks import part
from benchmarks.conversion_parts import Parts, cpu_of_children, measured
from benchmarks.images.build import TAG, cached_image
from benchmarks.images.catalogue.all import chosen
from benchmarks.images.recipe import Recipe
from benchmarks.images.start import run_options, start
from benchmarks.isolation import isolate, left_behind
from benchmarks.measure import drop_caches, program, run_to_end
from benchmarks.services import Registry, containerd, registry
from fs.registry.store import open_reader

_MIB = 1 << 20
_IMAGES = "flask,node,postgres,tomcat"
#: Chunk size and batch size, in KiB.
SIZES = (
    (1024, 1024),
    (1024, 512),
    (1024, 256),
    (1024, 64),
    (1024, 0),
    (512, 512),
    (256, 256),
    (4096, 1024),
    (4096, 4096),
)


@dataclass(frozen=True)
class Speed:
    """Seconds, medians but for eStargz. `content` is in bytes, decompressed; `size` that of the
    gzip layers. `cpu` is the conversion's, `registry` that of the server meanwhile.
    """

    image: str
    content: int
    size: int
    nydus_size: int
    convert: float
    zstd: float
    estargz: float | None
    cpu: float
    registry: float
    parts: Parts


@dataclass(frozen=True)
class Reference:
    """Seconds, medians. `content` is in bytes, decompressed; the others as stored."""

    image: str
    content: int
    size: int
    pushed: int
    refer: float
    gunzip: float


@dataclass(frozen=True)
class Cost:
    """Of one combination of sizes; `fetched` and `requests` are until the image is ready.

    `seconds` are those of all cores, which say more than the clock on a machine that is shared.
    """

    image: str
    chunk_size: int
    batch_size: int
    share_of_gzip: float
    seconds: float
    fetched: int
    requests: int


def parser() -> argparse.ArgumentParser:
    top = part.parser("convert", __doc__, _IMAGES)
    top.add_argument("--repeats", type=int, default=3, metavar="N")
    what = top.add_mutually_exclusive_group()
    what.add_argument("--sizes", action="store_true", help="chunk and batch sizes instead of speed")
    what.add_argument("--oci-ref", action="store_true", help="the speed of references instead")
    return top


def main(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    recipes = chosen(arguments.images, quick=False)
    images = {each.name: cached_image(each, part.CACHE / "images", part.say) for each in recipes}
    isolate("benchmarks", ["convert", *argv], network=True)
    rows: list[Speed | Cost | Reference] = []
    with tempfile.TemporaryDirectory(dir=part.CACHE, prefix="convert-") as name:
        for recipe in recipes:
            part.say(recipe.name)
            work = Path(name) / recipe.name
            work.mkdir()
            with registry(work) as server:
                image = _Image(recipe, images[recipe.name], work, server)
                if arguments.sizes:
                    rows += image.costs()
                elif arguments.oci_ref:
                    rows.append(image.reference(arguments.repeats))
                else:
                    rows.append(image.speed(arguments.repeats))
    if left := left_behind():
        raise RuntimeError(f"processes were left behind: {left}")
    table = _costs if arguments.sizes else _references if arguments.oci_ref else _speeds
    mode = "--sizes" if arguments.sizes else "--oci-ref" if arguments.oci_ref else ""
    part.conclude(arguments, "convert", rows, table(rows), mode=mode)
    return 0


class _Image:
    """One image, in a registry as well."""

    def __init__(self, recipe: Recipe, layout: Path, work: Path, server: Registry) -> None:
        self._recipe, self._work, self._server = recipe, work, server
        self._plain = f"{server.host}/plain:{TAG}"
        run_to_end(
            ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false",
             f"oci:{layout}:{TAG}", f"docker://{self._plain}"]
        )  # fmt: skip
        with closing(open_reader(f"oci:{layout}:{TAG}")) as reader:
            layers = reader.resolve().manifest.layers
            self.size = sum(layer.size for layer in layers)
            self._packed = work / "layers.gz"
            with self._packed.open("wb") as out:
                for layer in layers:
                    with reader.open_blob(layer) as stored:
                        shutil.copyfileobj(stored, out, _MIB)
            self._tar = work / "layers.tar"
            with self._tar.open("wb") as out:
                for layer in layers:
                    with reader.open_blob(layer) as stored, gzip.open(stored) as content:
                        shutil.copyfileobj(content, out, _MIB)

    def speed(self, repeats: int) -> Speed:
        """Ours and zstd in turn, so that what else the machine does hits both; eStargz once."""
        ours, cpu, server, zstd = [], [], [], []
        report = self._work / "report.json"
        with containerd(self._work) as address:
            remote = ["ctr-remote", "--address", str(address), "image"]
            run_to_end([*remote, "pull", "--plain-http", self._plain])
            for repeat in range(repeats):
                target = f"{self._server.host}/nydus-{repeat}:{TAG}"
                before, servers = cpu_of_children(), self._server.cpu()
                ours.append(self._converted(target, report))
                cpu.append(cpu_of_children() - before)
                server.append(self._server.cpu() - servers)
                zstd.append(
                    _seconds(["zstd", "-3", "--single-thread", "-q", "-f", str(self._tar),
                              "-o", "/dev/null"])
                )  # fmt: skip
            theirs = _seconds(
                [*remote, "convert", "--estargz", "--oci", self._plain, f"{self._plain}-estargz"]
            )
        convert, by_zstd, used, served = map(statistics.median, (ours, zstd, cpu, server))
        return Speed(
            self._recipe.name,
            self._tar.stat().st_size,
            self.size,
            json.loads(report.read_text())["target_size"],
            convert,
            by_zstd,
            theirs,
            used,
            served,
            measured(self._packed, self._tar),
        )

    def reference(self, repeats: int) -> Reference:
        """Both in turn."""
        ours, gunzip = [], []
        report = self._work / "report.json"
        for repeat in range(repeats):
            target = f"{self._plain}-ref-{repeat}"
            ours.append(self._converted(target, report, "--oci-ref"))
            gunzip.append(_seconds(["gzip", "--test", str(self._packed)]))
        return Reference(
            self._recipe.name,
            self._tar.stat().st_size,
            self.size,
            json.loads(report.read_text())["target_size"],
            *map(statistics.median, (ours, gunzip)),
        )

    def costs(self) -> list[Cost]:
        return [self._cost(chunk << 10, batch << 10) for chunk, batch in SIZES]

    def _cost(self, chunk_size: int, batch_size: int) -> Cost:
        target = f"{self._server.host}/nydus-{chunk_size}-{batch_size}:{TAG}"
        report = self._work / "report.json"
        sizes = ("--chunk-size", str(chunk_size), "--batch-size", str(batch_size))
        used = cpu_of_children()
        self._converted(target, report, *sizes)
        seconds = cpu_of_children() - used
        before = self._server.traffic()
        root = self._work / f"root-{chunk_size}-{batch_size}"
        command = [program("lazyrun"), "run", "--root", str(root), *run_options(self._recipe)]
        after = before

        def ask() -> None:
            nonlocal after
            after = self._server.traffic()

        drop_caches()
        start(self._recipe, [*command, target, *self._recipe.run.arguments], ask)
        return Cost(
            self._recipe.name,
            chunk_size,
            batch_size,
            json.loads(report.read_text())["target_size"] / self.size,
            seconds,
            after.sent_bytes - before.sent_bytes,
            after.requests - before.requests,
        )

    def _converted(self, target: str, report: Path, *options: str) -> float:
        return _seconds(
            [program("nydusify"), "convert", "--no-layer-cache", "--source", self._plain,
             "--target", target, "--work-dir", str(self._work), "--output-json", str(report),
             *options]
        )  # fmt: skip


def _seconds(command: Sequence[str]) -> float:
    begun = time.monotonic()
    run_to_end(command)
    return time.monotonic() - begun


def _speeds(rows: Sequence[Speed | Cost | Reference]) -> str:
    lines = [
        f"{'image':<10}{'content MB':>12}{'of gzip':>9}{'convert MB/s':>14}"
        f"{'against zstd -3':>17}{'against eStargz':>17}"
    ]
    for row in rows:
        assert isinstance(row, Speed)
        theirs = f"{row.estargz / row.convert:.2f}" if row.estargz else ""
        lines.append(
            f"{row.image:<10}{row.content / 1e6:>12.0f}{row.nydus_size / row.size:>9.3f}"
            f"{row.content / 1e6 / row.convert:>14.0f}{row.zstd / row.convert:>17.2f}{theirs:>17}"
        )
    lines += [
        "",
        f"{'seconds':<10}{'gunzip':>8}{'SHA-256':>9}{'BLAKE3':>8}{'zstd':>7}{'sum':>7}"
        f"{'conversion':>12}{'registry':>10}{'elapsed':>9}{'at best':>9}",
    ]
    cores = len(os.sched_getaffinity(0))
    for row in rows:
        assert isinstance(row, Speed)
        parts = row.parts
        best = row.zstd / ((parts.sum + row.registry) / cores)
        lines.append(
            f"{row.image:<10}{parts.gunzip:>8.2f}{parts.hashes:>9.2f}{parts.digests:>8.2f}"
            f"{parts.zstd:>7.2f}{parts.sum:>7.2f}{row.cpu:>12.2f}{row.registry:>10.2f}"
            f"{row.convert:>9.2f}{best:>9.2f}"
        )
    return "\n".join(lines)


def _costs(rows: Sequence[Speed | Cost | Reference]) -> str:
    lines = [
        f"{'image':<10}{'chunk KiB':>10}{'batch KiB':>10}{'of gzip':>9}{'convert CPU s':>15}"
        f"{'MB until ready':>16}{'requests':>10}"
    ]
    for row in rows:
        assert isinstance(row, Cost)
        lines.append(
            f"{row.image:<10}{row.chunk_size >> 10:>10}{row.batch_size >> 10:>10}"
            f"{row.share_of_gzip:>9.3f}{row.seconds:>15.2f}{row.fetched / 1e6:>16.1f}"
            f"{row.requests:>10}"
        )
    return "\n".join(lines)


def _references(rows: Sequence[Speed | Cost | Reference]) -> str:
    lines = [
        f"{'image':<10}{'content MB':>12}{'pushed, of gzip':>17}{'refer MB/s':>12}"
        f"{'against gunzip':>16}"
    ]
    for row in rows:
        assert isinstance(row, Reference)
        lines.append(
            f"{row.image:<10}{row.content / 1e6:>12.0f}{row.pushed / row.size:>17.3f}"
            f"{row.content / 1e6 / row.refer:>12.0f}{row.gunzip / row.refer:>16.2f}"
        )
    return "\n".join(lines)
