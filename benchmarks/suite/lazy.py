"""Modes that start before the image is there: stargz-snapshotter, and ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks import services
from benchmarks.images.start import run_options
from benchmarks.measure import program, run_to_end
from benchmarks.suite.eager import ctr_plan
from benchmarks.suite.modes import Plan, Step, programs_missing
from benchmarks.suite.subject import Place

STARGZ = "containerd-stargz-grpc"


def stargz_daemon(cache: Path) -> str | None:
    """On the PATH, or where `./dev bench` builds it."""
    built = cache / "stargz" / STARGZ
    return str(built) if built.exists() else shutil.which(STARGZ)


@dataclass(frozen=True)
class Stargz:
    """eStargz by stargz-snapshotter as it comes: it prefetches, and fetches all in the end."""

    name: str
    format: str
    daemon: str | None
    lazy: bool = True
    again: bool = False

    def missing(self) -> str:
        if not self.daemon:
            return f"no {STARGZ} on the PATH, and no go to build it"
        return programs_missing("containerd", "ctr", "ctr-remote", "runc")

    @contextmanager
    def at(self, place: Place) -> Iterator[Plan]:
        assert self.daemon
        work = place.work
        home, socket = work / "stargz", work / "stargz.sock"
        settings = work / "stargz.json"
        insecure = {"mirrors": [{"host": place.host, "insecure": True}]}
        settings.write_text(json.dumps({"resolver": {"host": {place.host: insecure}}}))
        command = place.account.wrap([self.daemon, str(socket), str(home), str(settings)])
        log = work / "stargz.log"
        with services.running(command, log) as process:
            services.await_socket(str(socket), process, log)
            with services.containerd(work, {"stargz": socket}, place.account.wrap) as address:
                named = ("--snapshotter", "stargz")
                remote = ["ctr-remote", "--debug", "--address", str(address), "image", "rpull"]
                pull = [*remote, "--plain-http", *named, place.reference(self.format)]
                yield ctr_plan(place, address, pull, *named)


@dataclass(frozen=True)
class Lazyrun:
    """`lazyrun run`, and `nydus-fs mount` where only the tree is wanted."""

    name: str
    format: str
    driver: str = "auto"
    lazy: bool = True
    again: bool = False
    resident: bool = True
    """The daemon is there before, as containerd is; else it starts with the mount."""
    verb: tuple[str, ...] = ("convert",)
    """What nydusify must be able to do: a verb, and words of its help."""

    def missing(self) -> str:
        verb, *words = self.verb
        text = _nydusify_help(verb)
        absent = [word for word in words if word not in text]
        if not text or absent:
            return f"nydusify has no {' '.join([verb, *absent])}"
        return ""

    @contextmanager
    def at(self, place: Place) -> Iterator[Plan]:
        work = place.work
        root, tree, timings = work / "root", work / "tree", work / "timings.json"
        tree.mkdir()
        reference = place.reference(self.format)
        common = ["--driver", self.driver, "--plain-http"]
        run = [program("lazyrun"), "run", "--root", str(root), "--timings", str(timings)]
        options = run_options(place.subject.recipe)
        state = ["--state-root", str(root / "nydus-fs")]
        root.mkdir(0o700)
        if self.resident:
            run_to_end(place.account.wrap([program("nydus-fs"), "daemon", *state]))
        mount = [program("nydus-fs"), "mount", *common, *state,
                 "--cache-dir", str(root / "cache"), reference, str(tree)]  # fmt: skip
        yield Plan(
            [],
            [*run, *common, *options, reference, *place.subject.recipe.run.arguments],
            [Step("show", mount)],
            tree,
            timings=timings,
        )


@cache
def _nydusify_help(verb: str) -> str:
    """Empty where there is no such verb."""
    try:
        return run_to_end([program("nydusify"), verb, "--help"])
    except RuntimeError:
        return ""
