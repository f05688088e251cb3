"""The formats of an image, made by the tools that people make them with, and kept.

What a conversion adds to a registry's data directory is kept below a name that tells
the image and the tool, so that an interrupted measurement does not convert again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks import services
from benchmarks.images.recipe import Run
from benchmarks.images.start import TIMEOUT, run_options, start
from benchmarks.measure import program, run_to_end
from benchmarks.suite.run import end_input
from benchmarks.suite.subject import Subject, stored_bytes
from nydusify.startup.readiness import Exit, Program

_SOURCES = Path(__file__).resolve().parents[2]
_CONVERT_SECONDS = 3600.0


@dataclass(frozen=True)
class Conversion:
    """`reference("plain")` is there; the result is to be `reference(tag)`."""

    subject: Subject
    host: str
    work: Path

    def reference(self, tag: str) -> str:
        return f"{self.host}/{self.subject.name}:{tag}"


Convert = Callable[[Conversion, str], None]


@dataclass(frozen=True)
class Format:
    """`convert` makes the image of that tag; `version` changes when it would be another.

    It is made of the images `needs`.
    """

    tag: str
    convert: Convert
    version: Callable[[], str]
    needs: tuple[str, ...] = ("plain",)


def _plain(conversion: Conversion, tag: str) -> None:
    source = conversion.subject.source
    run_to_end(
        ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false",
         source, f"docker://{conversion.reference(tag)}"]
    )  # fmt: skip


def _nydusify(verb: str, *options: str) -> Convert:
    def convert(conversion: Conversion, tag: str) -> None:
        run_to_end(
            [program("nydusify"), verb, *options, "--source", conversion.reference("plain"),
             "--target", conversion.reference(tag), "--work-dir", str(conversion.work / "nydusify")]
        )  # fmt: skip

    return convert


def _optimized(conversion: Conversion, tag: str) -> None:
    """By what one start was seen to touch."""
    recipe, source = conversion.subject.recipe, conversion.reference("nydus")
    trace, root = conversion.work / "trace", conversion.work / "root"
    command = [program("lazyrun"), "run", "--root", str(root), "--trace", str(trace)]
    start(recipe, [*command, *run_options(recipe), source, *recipe.run.arguments])
    run_to_end(
        [program("nydusify"), "optimize", "--source", source, "--target",
         conversion.reference(tag), "--trace", str(trace)]
    )  # fmt: skip


def _estargz(conversion: Conversion, tag: str, *, optimized: bool = False) -> None:
    plain, target = conversion.reference("plain"), conversion.reference(tag)
    with services.containerd(conversion.work) as address:
        ctr = ["ctr-remote", "--address", str(address), "image"]
        run_to_end([*ctr, "pull", "--plain-http", plain])
        if optimized:
            watch = [*ctr, "optimize", "--oci", "--net-host", *_workload(conversion.subject)]
            _watch([*watch, plain, target], conversion.subject.recipe.run)
        else:
            run_to_end([*ctr, "convert", "--oci", "--estargz", plain, target])
        run_to_end([*ctr, "push", "--plain-http", target])


def _optimized_estargz(conversion: Conversion, tag: str) -> None:
    _estargz(conversion, tag, optimized=True)


def _watch(command: list[str], run: Run) -> None:
    """Let ctr-remote watch the program until it is ready, as ours is recorded, then convert."""
    with Program(command, run.stdin, hold=True) as program:
        if run.kind == "stdin":
            end_input(program)
        if not isinstance(run.ready, Exit):
            program.wait_until(run.ready, TIMEOUT)
            program.process.send_signal(signal.SIGINT)
        program.wait_until(Exit(), _CONVERT_SECONDS)


def _workload(subject: Subject) -> list[str]:
    run = subject.recipe.run
    options = ["--wait-on-signal"]
    if run.kind == "stdin":
        options.append("-i")
    if run.arguments:
        options += ["--args", json.dumps(run.arguments)]
    for setting in run.environment:
        options += ["--env", setting]
    for source, target in subject.shown():
        options += ["--mount", f"type=bind,source={source},destination={target},options=rbind:ro"]
    return options


@cache
def _our_version() -> str:
    """Of all code that decides what a conversion makes."""
    digest = hashlib.sha256()
    for package in ("fs/format", "fs/tar", "nydusify"):
        for path in sorted((_SOURCES / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@cache
def _stargz_version() -> str:
    with Path(shutil.which("ctr-remote") or os.devnull).open("rb") as file:
        return f"ready-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


FORMATS = {
    each.tag: each
    for each in (
        Format("plain", _plain, lambda: "0"),
        Format("estargz", _estargz, _stargz_version),
        Format("estargz-optimized", _optimized_estargz, _stargz_version),
        Format("nydus", _nydusify("convert", "--no-layer-cache"), _our_version),
        Format(
            "nydus-blob",
            _nydusify("convert", "--startup", "blob", "--no-layer-cache"),
            _our_version,
        ),
        Format("nydus-optimized", _optimized, _our_version, ("nydus",)),
        Format("nydus-ref", _nydusify("convert", "--oci-ref", "--no-layer-cache"), _our_version),
    )
}


def wanted(tags: Iterable[str]) -> list[Format]:
    """These formats after those that they are made of."""
    found = {"plain", *tags}
    found |= {need for tag in found for need in FORMATS[tag].needs}
    return [form for tag, form in FORMATS.items() if tag in found]


class Shelf:
    """Finished conversions below a directory, each as the files that it adds to a registry."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def make(
        self, form: Format, subject: Subject, data: Path, host: str, work: Path
    ) -> dict[str, object]:
        """Have the format in the registry of `data` at `host`; seconds and bytes of making it."""
        name = f"{subject.layout.name}-{form.tag}-{form.version()}"
        place = self._directory / name
        if not place.exists():
            self._convert(form, subject, data, host, work, place)
        else:
            shutil.copytree(place / "data", data, dirs_exist_ok=True)
        told: dict[str, object] = json.loads((place / "conversion.json").read_text())
        return told

    def _convert(
        self, form: Format, subject: Subject, data: Path, host: str, work: Path, place: Path
    ) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        for older in superseded(self._directory, subject.name, form.tag):
            shutil.rmtree(older)
        before = _files(data)
        conversion = Conversion(subject, host, work)
        start = time.monotonic()
        form.convert(conversion, form.tag)
        seconds = time.monotonic() - start
        told = {
            "seconds": round(seconds, 3),
            "bytes": stored_bytes(conversion.reference(form.tag)),
            "load": os.getloadavg()[0],
        }
        with tempfile.TemporaryDirectory(dir=self._directory, prefix="unfinished-") as unfinished:
            for file in sorted(_files(data) - before):
                target = Path(unfinished, "whole/data", file)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(data / file, target)
            Path(unfinished, "whole/conversion.json").write_text(json.dumps(told))
            Path(unfinished, "whole").rename(place)


def superseded(directory: Path, image: str, tag: str) -> list[Path]:
    """Conversions of any date and version to this very format: "nydus" is not "nydus-optimized"."""
    name = re.compile(rf"{re.escape(image)}-20[\d-]+-[0-9a-f]+-{re.escape(tag)}-(ready-)?[0-9a-f]+")
    return [place for place in directory.iterdir() if name.fullmatch(place.name)]


def _files(data: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(directory, name), data)
        for directory, _, names in os.walk(data)
        for name in names
    }
