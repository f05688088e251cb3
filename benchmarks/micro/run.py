"""`./dev bench micro`: stat, read and mount, on each driver and on native ext4, in one run.

The same tree is unpacked on the disk and mounted from an image whose chunks are all in the
local cache. "all dropped" empties the kernel's caches on both sides; "mount fresh" is a new
mount over a warm disk, and is set against ext4 when warm. "to the kernel alone" sets a warm loop
against the same one with the worker stopped (SIGSTOP): the rate that the kernel reaches from its
caches on a FUSE mount that nobody serves. A conversion is set against one core's zstd, a mount of
many files against one of 1000 (there less is better), a container's start against runc's; other
ratios are to ext4. Needs root, gcc, runc, zstd and /dev/fuse.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.isolation import isolate, left_behind
from benchmarks.measure import drop_caches
from benchmarks.micro import tools
from benchmarks.micro.probes import Place, Probe, processor_seconds, resident
from benchmarks.micro.report import Row, markdown, write_lines
from benchmarks.micro.trees import Tree, make_names, make_tree
from benchmarks.record import machine

CACHE = Path(__file__).resolve().parents[2] / ".cache"
RESULTS = Path(__file__).resolve().parents[1] / "results"
DRIVERS = ("erofs", "fuse")
_NATIVE = "ext4"
Samples = dict[tuple[str, str], list[float]]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="./dev bench micro", description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("--quick", action="store_true", help="a small tree: tries it, shows little")
    top.add_argument("--files", type=int, metavar="N", help="small files (default 30000)")
    top.add_argument("--large", type=int, metavar="MIB", help="the one large file (default 256)")
    top.add_argument("--names", type=int, metavar="N", help="in the mount row (default 100000)")
    top.add_argument("--instances", type=int, metavar="N", help="in the RSS row (default 20)")
    top.add_argument("--driver", choices=DRIVERS, help="only this one")
    top.add_argument("--repeats", type=int, default=3, metavar="N")
    top.add_argument("--json", type=Path, metavar="FILE", help="write JSON lines there")
    top.add_argument("--record", action="store_true", help="renew benchmarks/results/micro.*")
    top.add_argument("--work", type=Path, default=CACHE, metavar="DIR", help="on the disk to use")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(words)
    usual = (2000, 32, 5000, 4) if arguments.quick else (30_000, 256, 100_000, 20)
    for name, value in zip(("files", "large", "names", "instances"), usual, strict=True):
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    isolate("benchmarks", ["micro", *words])
    load = os.getloadavg()[0]
    arguments.work.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.work, prefix="micro-") as name:
        rows = _Measurement(Path(name), arguments).rows()
    if left := left_behind():
        raise RuntimeError(f"processes were left behind: {left}")
    heading = (
        f"({machine()}; load {load:.1f} before, {os.getloadavg()[0]:.1f} after; "
        f"{arguments.files} files and one of {arguments.large} MiB, {arguments.repeats} repeats)"
    )
    print(f"\n{markdown(rows, heading)}")
    if arguments.json:
        write_lines(rows, arguments.json, {"asked": asked(arguments), "load": load})
    if arguments.record:
        write_lines(rows, RESULTS / "micro.jsonl", {"asked": asked(arguments), "load": load})
        (RESULTS / "micro.md").write_text(
            f"# Single operations\n\n{__doc__}\n{markdown(rows, heading)}\n"
        )
    return 0


def asked(arguments: argparse.Namespace) -> dict[str, object]:
    names = ("files", "large", "names", "instances", "driver", "repeats")
    return {name: getattr(arguments, name) for name in names}


def _say(text: str) -> None:
    print(f"· {text}", file=sys.stderr, flush=True)


class _Measurement:
    def __init__(self, work: Path, arguments: argparse.Namespace) -> None:
        self._work, self._arguments = work, arguments
        self._probe = Probe(work)
        self._samples: Samples = defaultdict(list)
        _say("making the tree and its image")
        self._tree = make_tree(work / "tree", arguments.files, arguments.large << 20)
        wanted = [arguments.driver] if arguments.driver else DRIVERS
        self._places = [place for driver in wanted if (place := self._filled(driver))]

    def _filled(self, driver: str) -> Place | None:
        """A place with all chunks in its cache; None where the kernel cannot do it."""
        place = Place(self._work, driver)
        try:
            target = place.mount(self._tree.source)
        except RuntimeError as error:
            _say(f"without {driver}: {error}")
            return None
        self._probe.small(target, self._tree)
        self._probe.whole(target, self._tree)
        place.umount(target)
        return place

    def rows(self) -> list[Row]:
        for repeat in range(self._arguments.repeats):
            _say(f"repeat {repeat + 1}")
            self._cold_and_warm(_NATIVE, self._tree.native)
            for place in self._places:
                with place.mounted(self._tree.source) as target:
                    self._cold_and_warm(place.driver, target)
                    if place.driver == "fuse":
                        self._alone(place, target)
                self._fresh(place)
        rows = self._ratios()
        for place in self._places:
            if place.driver == "fuse":
                rows += [*self._to_the_kernel(), self._processor(place)]
        if self._arguments.names:
            rows += self._mounting()
        for place in self._places if self._arguments.instances else ():
            rows += self._memory(place)
        _say("conversion, and start of a container")
        return [
            *rows,
            tools.conversion(self._work, self._arguments.repeats),
            tools.runner_start(self._work, self._arguments.repeats),
        ]

    def _loops(self) -> list[tuple[str, str, Callable[[Path, Tree], float]]]:
        probe = self._probe
        return [
            ("stat walk", "entries/s", probe.walk),
            ("stat by name", "files/s", probe.stat),
            ("small files", "files/s", probe.small),
            ("sequential", "B/s", probe.whole),
        ]

    def _cold_and_warm(self, mode: str, root: Path) -> None:
        for what, _, loop in self._loops():
            drop_caches()
            self._samples[f"{what}, all dropped", mode].append(loop(root, self._tree))
            self._samples[f"{what}, warm", mode].append(loop(root, self._tree))

    def _alone(self, place: Place, root: Path) -> None:
        """Warm loops, counted, each in turn with one that the worker cannot be asked in."""
        for what, _, loop in self._loops():
            loop(root, self._tree)
            before = place.requests()
            started = time.monotonic()
            self._samples[f"{what}, counted", place.driver].append(loop(root, self._tree))
            self._probe.patience = 10 * (time.monotonic() - started) + 5
            self._samples["requests", place.driver].append(place.requests() - before)
            try:
                with place.silenced():
                    alone = loop(root, self._tree)
                self._samples[f"{what}, alone", place.driver].append(alone)
            except subprocess.TimeoutExpired:
                _say(f"{what}: the kernel cannot do it alone")
            finally:
                self._probe.patience = None

    def _to_the_kernel(self) -> list[Row]:
        rows = [
            Row(
                f"{what}, warm, to the kernel alone",
                "fuse",
                unit,
                self._samples[f"{what}, counted", "fuse"],
                self._samples[f"{what}, alone", "fuse"] or [float("inf")],
            )
            for what, unit, _ in self._loops()
        ]
        asked = self._samples["requests", "fuse"]
        return [*rows, Row("requests, warm loops", "fuse", "of the kernel", asked)]

    def _fresh(self, place: Place) -> None:
        """Each loop is the first to use its mount; the disk's caches are warm."""
        place.warm_blobs()
        for what, _, loop in self._loops():
            with place.mounted(self._tree.source) as target:
                rate = loop(target, self._tree)
            self._samples[f"{what}, mount fresh", place.driver].append(rate)

    def _ratios(self) -> list[Row]:
        rows = []
        for what, unit, _ in self._loops():
            for state in ("all dropped", "mount fresh", "warm"):
                native = "warm" if state == "mount fresh" else state
                against = self._samples[f"{what}, {native}", _NATIVE]
                for place in self._places:
                    key = (f"{what}, {state}", place.driver)
                    rows.append(Row(*key, unit, self._samples[key], against))
        return rows

    def _processor(self, place: Place) -> Row:
        """Microseconds of the worker for a page that the kernel has not got."""
        count = min(8192, self._arguments.large * 256 // 2)
        used = []
        for _ in range(self._arguments.repeats):
            place.warm_blobs()
            with place.mounted(self._tree.source) as target:
                worker = place.rested_worker()
                before = processor_seconds(worker)
                self._probe.pages(target, count)
                used.append((processor_seconds(worker) - before) / count * 1e6)
        return Row("daemon CPU, 4 KiB cold read", place.driver, "us", used)

    def _mounting(self) -> list[Row]:
        """Mounts of a bootstrap that is here, of few and of many names, in turn."""
        _say(f"making an image of {self._arguments.names} names")
        few = make_names(self._work / "few", 1000)
        many = make_names(self._work / "many", self._arguments.names)
        rows = []
        for place in self._places:
            seconds: dict[str, list[float]] = {few: [], many: []}
            for source in seconds:
                place.mount_seconds(source)
            for _ in range(self._arguments.repeats):
                for source, taken in seconds.items():
                    taken.append(place.mount_seconds(source) * 1e3)
            rows += [
                Row("mount, 1000 files", place.driver, "ms", seconds[few]),
                Row(
                    f"mount, {self._arguments.names} files, to 1000",
                    place.driver,
                    "ms",
                    seconds[many],
                    seconds[few],
                ),
            ]
        return rows

    def _memory(self, place: Place) -> list[Row]:
        """The worker after a walk of many instances, each of a bootstrap file of its own."""
        count = self._arguments.instances
        _say(f"{count} instances by {place.driver}")
        targets = []
        try:
            for number in range(count):
                own = shutil.copy(self._tree.bootstrap, self._work / f"bootstrap{number}")
                blobs = ("--blob-dir", str(self._tree.blobs))
                targets.append(place.mount(str(own), f"mnt{number}", *blobs))
                self._probe.walk(targets[-1], self._tree)
            everything, own_pages = resident(place.worker())
        finally:
            for target in targets:
                with suppress(RuntimeError):
                    place.umount(target)
        return [
            Row("daemon RSS", place.driver, f"MiB of {count} instances", [everything]),
            Row("daemon RSS, anonymous", place.driver, f"MiB of {count} instances", [own_pages]),
        ]
