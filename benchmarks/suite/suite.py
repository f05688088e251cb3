"""The measurement: images one after the other, the runs of each in a random order.

The order is drawn from a seed that the record keeps, so that a measurement that is
gone on with goes on in it.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.services import memory
from benchmarks.suite.account import Account, group_tree
from benchmarks.suite.eager import Containerd, Native, Podman
from benchmarks.suite.formats import Shelf, wanted
from benchmarks.suite.lazy import Lazyrun, Stargz, stargz_daemon
from benchmarks.suite.modes import Mode
from benchmarks.suite.networks import NETWORKS, Network, Wire, build_forwarder, wire
from benchmarks.suite.records import Key, Records
from benchmarks.suite.run import KINDS, Result, RunError
from benchmarks.suite.subject import Place, Subject, detach_below
from fs import mounts


@dataclass(frozen=True)
class Asked:
    """What to measure. `reads` is how often each tree is read through, both ways."""

    subjects: Sequence[Subject]
    modes: Sequence[Mode]
    networks: Sequence[Network]
    runs: int
    reads: int


def all_modes(cache: Path) -> dict[str, Mode]:
    """Every mode by name, whether its tools are there or not."""
    daemon = stargz_daemon(cache)
    known: list[Mode] = [
        Containerd(),
        Podman(),
        Stargz("estargz", "estargz", daemon),
        Stargz("estargz-optimized", "estargz-optimized", daemon),
        Lazyrun("nydus", "nydus"),
        Lazyrun("nydus-fuse", "nydus", driver="fuse"),
        Lazyrun("nydus-alone", "nydus", resident=False),
        Lazyrun("nydus-optimized", "nydus-optimized", verb=("optimize",)),
        Lazyrun("nydus-ref", "nydus-ref", verb=("convert", "--oci-ref")),
        Lazyrun("warm", "nydus", again=True),
        Native(),
    ]
    return {mode.name: mode for mode in known}


def keys(asked: Asked, subject: Subject, seed: int) -> list[Key]:
    """All runs of an image in their order. Trees are read through where that compares."""
    found = []
    for network in asked.networks:
        for mode in asked.modes:
            if local(mode) and network is not asked.networks[0]:
                continue
            repeats = {"start": asked.runs}
            if not local(mode):
                repeats |= {"read": asked.reads, "scatter": asked.reads}
            for kind, count in repeats.items():
                for repeat in range(count):
                    found.append(Key(kind, subject.name, mode.name, network.name, repeat))
    random.Random(f"{seed} {subject.name}").shuffle(found)
    return found


def local(mode: Mode) -> bool:
    """Needs no network: measured on the first one only."""
    return mode.again or mode.name == "native"


def measure(asked: Asked, records: Records, cache: Path) -> int:
    """Do what is not done; how many runs failed. To be called in namespaces of one's own."""
    shelf, done, failed = Shelf(cache / "formats"), records.done(), 0
    seed = int(records.head["seed"])
    subjects = list(asked.subjects)
    random.Random(seed).shuffle(subjects)
    shaped = any(network.megabits for network in asked.networks)
    forwarder = build_forwarder(cache)
    # Runtimes keep what they know of containers here; nobody's else is seen, or left.
    mounts.mount("tmpfs", "/run", "tmpfs", data="mode=0755")
    with tempfile.TemporaryDirectory(dir=cache, prefix="startup-") as name:
        work = Path(name)
        with group_tree(work / "cgroup") as groups:
            for subject in subjects:
                todo = [key for key in keys(asked, subject, seed) if key not in done]
                if not todo:
                    continue
                home = work / subject.name
                home.mkdir()
                with memory(home / "data") as data, wire(home, data, forwarder, shaped) as way:
                    prepare(asked, subject, shelf, data, way, home, records)
                    bench = _Bench(asked, subject, way, home, groups)
                    failed += bench.run_all(todo, records)
                shutil.rmtree(home, ignore_errors=True)
    return failed


def prepare(
    asked: Asked,
    subject: Subject,
    shelf: Shelf,
    data: Path,
    way: Wire,
    home: Path,
    records: Records,
) -> None:
    """Have all formats that the modes need in the registry, and their figures in the record."""
    for form in wanted(mode.format for mode in asked.modes):
        say(f"{subject.name}: {form.tag}")
        with tempfile.TemporaryDirectory(dir=home, prefix="convert-") as work:
            told = shelf.make(form, subject, data, way.near.host, Path(work))
        if not any(records.of("format", image=subject.name, format=form.tag)):
            records.add("format", image=subject.name, format=form.tag, **told)


class _Bench:
    """The runs of one image."""

    def __init__(self, asked: Asked, subject: Subject, way: Wire, home: Path, groups: Path) -> None:
        self._modes = {mode.name: mode for mode in asked.modes}
        self._subject, self._way, self._home, self._groups = subject, way, home, groups

    def run_all(self, todo: Sequence[Key], records: Records) -> int:
        """Returns how many failed; each is recorded when it is over."""
        failed = 0
        for number, key in enumerate(todo, 1):
            where = f"{key.image} {number}/{len(todo)}: {key.kind} by {key.mode} over {key.network}"
            try:
                result, seconds = self._run(key)
            except (RunError, RuntimeError, OSError) as error:
                failed += 1
                say(f"{where}: FAILED: {error}")
                records.add("failure", **key._asdict(), error=str(error))
                continue
            fields = result.fields() | self._laziness(key, result, records)
            records.add("run", **key._asdict(), **fields, load=os.getloadavg()[0])
            say(f"{where}: {_shown(result)} (in all {seconds:.1f} s)")
        return failed

    def _laziness(self, key: Key, result: Result, records: Records) -> dict[str, bool]:
        """Whether a lazy mode was ready with less than the whole image; the wire is the judge."""
        mode = self._modes[key.mode]
        if key.kind != "start" or not mode.lazy or not result.ready:
            return {}
        whole = next(records.of("format", image=key.image, format="plain"))["bytes"]
        return {"lazy": result.ready.wire_bytes < whole}

    def _run(self, key: Key) -> tuple[Result, float]:
        start = time.monotonic()
        work = self._home / f"run{time.monotonic_ns()}"  # containers are named after it
        work.mkdir()
        network, mode = NETWORKS[key.network], self._modes[key.mode]
        try:
            with self._way.over(network, work) as reached, Account(self._groups) as account:
                place = Place(work, account, reached.server.host, network, self._subject)
                result = KINDS[key.kind](mode, place, reached)
        finally:
            detach_below(work)
            shutil.rmtree(work, ignore_errors=True)
        return result, time.monotonic() - start


def _shown(result: Result) -> str:
    last = "ready" if "ready" in result.seconds else list(result.seconds)[-1]
    text = f"{last} {result.seconds[last]:.2f} s"
    if result.ready:
        text += f", {result.ready.fetched_bytes / 1e6:.1f} MB"
    return text


def say(text: str) -> None:
    print(f"· {text}", file=sys.stderr, flush=True)
