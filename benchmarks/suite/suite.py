"""The measurement: registries with an image in all formats, and its runs one after the other."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.services import memory
from benchmarks.suite.account import Account, group_tree
from benchmarks.suite.eager import Containerd, Native, Podman
from benchmarks.suite.formats import Format, Shelf, wanted
from benchmarks.suite.lazy import Lazyrun, Stargz, stargz_daemon
from benchmarks.suite.modes import Mode
from benchmarks.suite.networks import NETWORKS, Wire, build_forwarder, wire
from benchmarks.suite.plan import HEADLINE_MODES, Asked, turns
from benchmarks.suite.records import Key, Records, alone
from benchmarks.suite.run import KINDS, Result, RunError
from benchmarks.suite.subject import Place, Subject, detach_below
from fs import mounts
from fs.format.errors import Failure

#: What directories of measurements are named by.
_WORK = "startup-"


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
        Lazyrun("nydus-blob", "nydus-blob", verb=("convert", "blob")),
        Lazyrun("nydus-optimized", "nydus-optimized", verb=("optimize",)),
        Lazyrun("nydus-ref", "nydus-ref", verb=("convert", "--oci-ref")),
        Lazyrun("warm", "nydus", again=True),
        Native(),
    ]
    return {mode.name: mode for mode in known}


class Outcome(NamedTuple):
    """How many runs failed, and how many there was no time for."""

    failed: int
    left: int


def measure(asked: Asked, records: Records, cache: Path, until: float | None = None) -> Outcome:
    """Do what is not done, in namespaces of one's own; begin no run after `until` (monotonic)."""
    done, failed, left = records.done(), 0, 0
    with _laboratory(asked, cache) as lab:
        for subject, todo in turns(asked, int(records.head["seed"]), done):
            if until and time.monotonic() > until:
                left += len(todo)
                continue
            modes = [mode for mode in asked.modes if mode.name in {key.mode for key in todo}]
            with lab.image(subject, modes, records) as bench:
                more_failed, more_left = bench.run_all(todo, records, until)
            failed, left = failed + more_failed, left + more_left
    return Outcome(failed, left)


def time_conversions(
    asked: Asked, records: Records, cache: Path, until: float | None = None
) -> Outcome:
    """Convert the headline's images again, but those that were converted with nobody beside."""
    modes = [mode for mode in asked.modes if mode.name in HEADLINE_MODES]
    forms = [form.tag for form in wanted(mode.format for mode in modes)]
    left = 0
    with _laboratory(asked, cache, shaped=False, anew=True) as lab:
        for subject in asked.subjects:
            told = {line["format"]: line for line in records.of("format", image=subject.name)}
            if all(alone(told.get(tag, {}), records.head["cores"]) for tag in forms):
                continue
            if until and time.monotonic() > until:
                left += 1
                continue
            say(f"{subject.name}: converting again")
            with lab.image(subject, modes, records):
                pass
    return Outcome(0, left)


def convert_all(asked: Asked, cache: Path) -> None:
    """Have all conversions that a measurement needs in the cache, and measure nothing."""
    with _laboratory(asked, cache, shaped=False) as lab:
        for subject in asked.subjects:
            with lab.image(subject, asked.modes, Records([])):
                pass


@contextmanager
def _laboratory(
    asked: Asked, cache: Path, *, shaped: bool | None = None, anew: bool = False
) -> Iterator[_Laboratory]:
    """With `anew` nothing that was converted before is used, and all is recorded again."""
    if shaped is None:
        shaped = any(network.megabits for network in asked.networks)
    # Runtimes keep what they know of containers here; nobody's else is seen, or left.
    mounts.mount("tmpfs", "/run", "tmpfs", data="mode=0755")
    remove_left(cache)
    with tempfile.TemporaryDirectory(dir=cache, prefix=_WORK) as name, _held(Path(name)):
        work = Path(name)
        with group_tree(work / "cgroup") as groups:
            shelf = Shelf((work if anew else cache) / "formats")
            yield _Laboratory(shelf, work, groups, build_forwarder(cache), shaped, anew)


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """A lock that says that somebody works there, and ends with us however we end."""
    opened = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)


def remove_left(cache: Path) -> None:
    """What killed measurements have left on the disk, gigabytes maybe."""
    for directory in cache.glob(f"{_WORK}*"):
        with suppress(BlockingIOError, FileNotFoundError), _held(directory):
            shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True)
class _Laboratory:
    """What all images are measured in; `shaped` if there is more than loopback."""

    shelf: Shelf
    work: Path
    groups: Path
    forwarder: Path
    shaped: bool
    anew: bool = False

    @contextmanager
    def image(self, subject: Subject, modes: Sequence[Mode], records: Records) -> Iterator[_Bench]:
        """With registries that have all formats of the image that the modes need."""
        home = self.work / subject.name
        home.mkdir()
        try:
            with (
                memory(home / "data") as data,
                wire(home, data, self.forwarder, self.shaped) as way,
            ):
                absent = {
                    form.tag
                    for form in wanted(mode.format for mode in modes)
                    if not self._make(form, subject, data, way.near.host, records)
                }
                yield _Bench(modes, subject, way, home, self.groups, absent)
        finally:
            shutil.rmtree(home, ignore_errors=True)
            if self.anew:
                shutil.rmtree(self.work / "formats", ignore_errors=True)

    def _make(
        self, form: Format, subject: Subject, data: Path, host: str, records: Records
    ) -> bool:
        """Have the format in the registry, and its figures in the record; whether that worked."""
        try:
            with tempfile.TemporaryDirectory(dir=data.parent, prefix="convert-") as work:
                told = self.shelf.make(form, subject, data, host, Path(work))
        except (RuntimeError, Failure) as error:
            if form.tag == "plain":
                raise
            say(f"{subject.name}: no {form.tag}: {error}")
            return False
        if self.anew or not any(records.of("format", image=subject.name, format=form.tag)):
            records.add("format", image=subject.name, format=form.tag, **told)
        return True


class _Bench:
    """The runs of one image."""

    def __init__(
        self,
        modes: Sequence[Mode],
        subject: Subject,
        way: Wire,
        home: Path,
        groups: Path,
        absent: Collection[str],
    ) -> None:
        """`absent` are formats that could not be made."""
        self._absent = absent
        self._modes = {mode.name: mode for mode in modes}
        self._subject, self._way, self._home, self._groups = subject, way, home, groups

    def run_all(self, todo: Sequence[Key], records: Records, until: float | None) -> Outcome:
        """Each is recorded when it is over."""
        failed = 0
        for number, key in enumerate(todo, 1):
            if until and time.monotonic() > until:
                return Outcome(failed, len(todo) - number + 1)
            where = f"{key.image} {number}/{len(todo)}: {key.kind} by {key.mode} over {key.network}"
            try:
                result, seconds = self._run(key)
            except (RunError, RuntimeError, OSError) as error:
                failed += 1
                say(f"{where}: FAILED: {error}")
                records.add("failure", **key._asdict(), error=str(error))
                continue
            fields = result.fields() | self._laziness(key, result, records)
            load = os.getloadavg()[0]
            records.add("run", **key._asdict(), **fields, load=load, whole=round(seconds, 2))
            say(f"{where}: {_shown(result)} (in all {seconds:.1f} s)")
        return Outcome(failed, 0)

    def _laziness(self, key: Key, result: Result, records: Records) -> dict[str, bool]:
        """Whether a lazy mode was ready with less than the whole image; the wire is the judge."""
        mode = self._modes[key.mode]
        if key.kind != "start" or not mode.lazy or not result.ready:
            return {}
        whole = next(records.of("format", image=key.image, format="plain"))["bytes"]
        return {"lazy": result.ready.wire_bytes < whole}

    def _run(self, key: Key) -> tuple[Result, float]:
        if self._modes[key.mode].format in self._absent:
            raise RunError(f"there is no {self._modes[key.mode].format} of it")
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
